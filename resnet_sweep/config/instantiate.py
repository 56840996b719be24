"""Instantiate the trusted classes and functions that a config names with `_target_`."""

import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any

from resnet_sweep.errors import ConfigError, one_line

WHITELIST = (
    "resnet_sweep.*",
    "torch.optim.*",
    "torch.nn.*",
    "torchvision.models.*",
    "timm.create_model",
    # Hydra also checks the class of the object that a function returns.
    "timm.models.*",
    "torchmetrics.classification.*",
)
TRUSTED = "RESNET_SWEEP_TRUSTED_PACKAGES"


def execution_whitelist() -> list[str]:
    """Return WHITELIST and the comma-separated packages in $RESNET_SWEEP_TRUSTED_PACKAGES."""
    return [*WHITELIST, *(f"{package}.*" for package in trusted_packages())]


def trusted_packages() -> list[str]:
    """Return the packages in $RESNET_SWEEP_TRUSTED_PACKAGES."""
    return os.environ.get(TRUSTED, "").replace(",", " ").split()


def locate(path: str, target: Any) -> Callable[..., Any]:
    """Return the class or function that a `_target_` names.

    Raises:
        ConfigError: it isn't trusted, can't be imported, or isn't callable.
    """
    whitelist = execution_whitelist()
    if not isinstance(target, str) or not any(
        target.startswith(entry[:-1]) if entry.endswith(".*") else target == entry
        for entry in whitelist
    ):
        raise ConfigError(
            f"{path}._target_={target} isn't trusted: use one of {', '.join(whitelist)}, or "
            f"trust a package with the environment variable {TRUSTED}=PACKAGE"
        )
    try:
        found: object = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{path}._target_={target} can't be imported ({error}): correct the name, or install "
            "the package"
        ) from error
    if not callable(found):
        raise ConfigError(f"{path}._target_={target} can't be called: name a class or a function")
    return found


def instantiate(path: str, node: Mapping[str, Any], **supplied: Any) -> Any:
    """Instantiate the object that a part of a config describes, with additional arguments.

    Raises:
        ConfigError: the settings are invalid.
    """
    from hydra.utils import instantiate as hydra_instantiate

    try:
        return hydra_instantiate(
            dict(node), **supplied, _execution_whitelist_=execution_whitelist(), _convert_="all"
        )
    # The settings come from the user, so any error of a constructor is a ConfigError.
    except Exception as error:
        sentence = one_line(error)
        if found := re.search(r"got an unexpected keyword argument '(\w+)'", sentence):
            name = f"{path}.{found[1]}"
            raise ConfigError(
                f"{name}={node.get(found[1])} isn't a setting of {node['_target_']}: leave it out, "
                f"or remove it with ~{name} if a preset sets it"
            ) from error
        if re.search(r"\btakes .*\bargument|\bmissing \d+ required\b", sentence):
            passed = ", ".join([name for name in (*node, *supplied) if not name.startswith("_")])
            raise ConfigError(
                f"{path}._target_={node['_target_']} can't be called with {passed} ({sentence}): "
                f"correct its parameters, or the settings of {path}"
            ) from error
        raise ConfigError(f"{path}: {sentence}") from error
