"""Composed configs, and the overrides, flags and choices that they were composed from."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.config import COLLECTION_GROUPS, PRESET_GROUPS
from resnet_sweep.config.command import quote_override
from resnet_sweep.config.errors import COMPOSITION_ERRORS, format_error
from resnet_sweep.errors import ConfigError


@dataclass(frozen=True)
class ComposedConfig:
    """A resolved config, with the command-line arguments that it was composed from.

    Attributes:
        settings: the config without the `hydra` node.
        choices: the choice made in each config group; see `group_choices`.
        overrides: as typed, without overrides of Hydra's own settings.
        hydra_flags: see `read_hydra_flags`.
    """

    settings: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    hydra_flags: list[str]

    @classmethod
    def of(cls, config: DictConfig, hydra: DictConfig) -> "ComposedConfig":
        """Resolve a config, with or without the `hydra` node; see `resolve`.

        Raises:
            ConfigError: the config can't be resolved, or a config file sets environment variables.
        """
        _check_environment(hydra)
        settings = {str(key): resolve(config, str(key)) for key in config if key != "hydra"}
        return cls(
            settings, group_choices(hydra, settings), read_overrides(hydra), read_hydra_flags(hydra)
        )


@contextlib.contextmanager
def composed_job(
    loader: ConfigLoader, master: DictConfig, overrides: list[str]
) -> Iterator[DictConfig]:
    """Compose the config of a job; within the `with` block, `${hydra:...}` refers to it.

    Args:
        loader: Hydra's loader of configs.
        master: the config of the sweep as a whole.
        overrides: the overrides of the job.

    Raises:
        ConfigError: the overrides are wrong.
    """
    try:
        config = loader.load_sweep_config(master, [*map(quote_override, overrides)])
    # Hydra raises a ValueError for a group whose value isn't a name.
    except (*COMPOSITION_ERRORS, ValueError) as error:
        raise ConfigError(
            format_error(error, [*read_hydra_flags(master.hydra), *overrides])
        ) from error
    OmegaConf.set_struct(config, False)
    with current_config(config):
        yield config


@contextlib.contextmanager
def current_config(config: DictConfig) -> Iterator[None]:
    """Within a `with` block, let `${hydra:...}` refer to a config with the node `hydra`."""
    outer = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    # set_config has made the node read-only.
    OmegaConf.set_readonly(config.hydra, False)
    try:
        yield
    finally:
        HydraConfig.instance().cfg = outer


def resolve(config: DictConfig, key: str) -> Any:
    """Return a resolved setting or group of a composed config; ConfigError if it has no value."""
    try:
        node = config[key]
        if OmegaConf.is_config(node):
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return node
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or key
        raise ConfigError(
            f"{name} has no value ({str(error).splitlines()[0]}): set it with {name}=..."
        ) from error


def unresolved(config: DictConfig) -> dict[str, Any]:
    """Return a part of a config as a dictionary, with its interpolations unresolved."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    return dict(container)


def read_overrides(hydra: DictConfig, part: str = "task") -> list[str]:
    """Return the overrides as they were typed; those of Hydra's settings if `part` is "hydra"."""
    # Iterating over the config node would resolve an override such as `seed=${trainer.epochs}`.
    return [str(override) for override in unresolved(hydra.overrides)[part]]


def _check_environment(hydra: DictConfig) -> None:
    """Refuse environment variables that aren't set on the command line.

    A variable can trust packages or change which programs are started, so a config file from
    somebody else must not set one.
    """
    typed = {override.lstrip("+").partition("=")[0] for override in read_overrides(hydra, "hydra")}
    for name in unresolved(hydra.job).get("env_set") or {}:
        key = f"hydra.job.env_set.{name}"
        if not typed & {key, "hydra.job.env_set"}:
            raise ConfigError(
                f"{key} is set by a config file: set the variable {name} in your shell, or add "
                f"+{key}=VALUE to the command"
            )


def read_hydra_flags(hydra: DictConfig) -> list[str]:
    """Return the flags that a command needs to find the same config files."""
    flags = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
    if hydra.job.config_name != "config":
        flags += ["--config-name", hydra.job.config_name]
    return flags


def group_choices(hydra: DictConfig, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the choice in each config group; several choices of a group are joined with "+"."""
    choices = {
        group: choice
        for group, choice in hydra.runtime.choices.items()
        # sweep=default only selects the sweeper, and metric=none has no settings.
        if not group.startswith("hydra/")
        and (group, choice) not in (("sweep", "default"), ("metric", "none"))
        if choice is not None
    }
    # Hydra doesn't record several choices of one group. If a preset made them, only the names of
    # the described objects are known.
    for group in COLLECTION_GROUPS.keys() - choices.keys():
        if group != "metric" or settings.get(group):
            choices[group] = "+".join(settings.get(group) or ())
    for override in read_overrides(hydra):
        group, _, value = override.partition("=")
        if (group in COLLECTION_GROUPS or group in PRESET_GROUPS) and re.fullmatch(
            r"\[.*\]", value
        ):
            choices[group] = "+".join(choice.strip(" '") for choice in value[1:-1].split(","))
    return choices


def is_named_by_time(destination: DictConfig) -> bool:
    """Return whether the directory of `hydra.run` or `hydra.sweep` is named by the time."""
    return "${now:" in unresolved(destination)["dir"]
