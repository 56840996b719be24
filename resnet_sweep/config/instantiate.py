"""The classes and functions that a config may name with `_target_`."""

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
    # Hydra asks for the class of what a function returns, too.
    "timm.models.*",
)
TRUSTED = "RESNET_SWEEP_TRUSTED_PACKAGES"


def execution_whitelist() -> list[str]:
    """Return WHITELIST and the packages in $RESNET_SWEEP_TRUSTED_PACKAGES, separated by commas."""
    trusted = os.environ.get(TRUSTED, "").replace(",", " ").split()
    return [*WHITELIST, *(f"{package}.*" for package in trusted)]


def locate(path: str, target: Any) -> Callable[..., Any]:
    """Return what the `_target_` of a part of a config names.

    Raises:
        ConfigError: it isn't trusted, or doesn't exist.
    """
    whitelist = execution_whitelist()
    if not isinstance(target, str) or not any(
        target.startswith(entry[:-1]) if entry.endswith(".*") else target == entry
        for entry in whitelist
    ):
        raise ConfigError(
            f"{path}._target_={target} isn't trusted: name something of {', '.join(whitelist)}, or "
            f"trust a package of yours with {TRUSTED}=PACKAGE"
        )
    try:
        found: object = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path}._target_={target} can't be found: {error}") from error
    if not callable(found):
        raise ConfigError(f"{path}._target_={target} is neither a class nor a function")
    return found


def instantiate(path: str, node: Mapping[str, Any], **supplied: Any) -> Any:
    """Make the object that a part of a config describes, with further arguments.

    Raises:
        ConfigError: it can't be made from these settings.
    """
    from hydra.utils import instantiate as hydra_instantiate

    try:
        return hydra_instantiate(
            dict(node), **supplied, _execution_whitelist_=execution_whitelist(), _convert_="all"
        )
    # The settings are a user's, so any error that a constructor raises is for the user.
    except Exception as error:
        sentence = one_line(error)
        if found := re.search(r"got an unexpected keyword argument '(\w+)'", sentence):
            name = f"{path}.{found[1]}"
            raise ConfigError(
                f"{name}={node.get(found[1])} isn't a setting of {node['_target_']}: leave it out "
                f"(~{name} takes away what a preset sets)"
            ) from error
        raise ConfigError(f"{path}: {sentence}") from error
