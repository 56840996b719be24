"""Composed configs, and what is recorded of the command that they were composed from."""

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
    """A resolved config, with the words that it was composed from.

    Attributes:
        settings: the config without Hydra's own part.
        choices: the choice made in each config group; see `group_choices`.
        overrides: as typed, without those of Hydra's own settings.
        flags: see `read_hydra_flags`.
    """

    settings: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    hydra_flags: list[str]

    @classmethod
    def of(cls, config: DictConfig, hydra: DictConfig) -> "ComposedConfig":
        """Resolve a config, which may include Hydra's own part; see `resolve`."""
        settings = {str(key): resolve(config, str(key)) for key in config if key != "hydra"}
        return cls(
            settings, group_choices(hydra, settings), read_overrides(hydra), read_hydra_flags(hydra)
        )


@contextlib.contextmanager
def composed_job(
    loader: ConfigLoader, master: DictConfig, overrides: list[str]
) -> Iterator[DictConfig]:
    """Compose the config of a job from its overrides, or raise ConfigError.

    Within the `with` block, `${hydra:...}` is the job's; `master` is the config of the whole sweep.
    """
    try:
        config = loader.load_sweep_config(master, [*map(quote_override, overrides)])
    # Hydra raises a plain ValueError for a group whose value isn't a name.
    except (*COMPOSITION_ERRORS, ValueError) as error:
        raise ConfigError(
            format_error(error, [*read_hydra_flags(master.hydra), *overrides])
        ) from error
    OmegaConf.set_struct(config, False)
    outer = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    # Setting it there makes it read-only.
    OmegaConf.set_readonly(config.hydra, False)
    try:
        yield config
    finally:
        HydraConfig.instance().cfg = outer


def resolve(config: DictConfig, key: str) -> Any:
    """Return a setting or a group of a composed config, resolved, or raise ConfigError."""
    try:
        node = config[key]
        if OmegaConf.is_config(node):
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return node
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or key
        raise ConfigError(
            f"{name} has no value ({str(error).splitlines()[0]}): give it one with {name}=..."
        ) from error


def unresolved(config: DictConfig) -> dict[str, Any]:
    """Return a part of a config as a plain dictionary, with its interpolations."""
    container: Any = OmegaConf.to_container(config, resolve=False)
    return dict(container)


def read_overrides(hydra: DictConfig, part: str = "task") -> list[str]:
    """Return the overrides as they were typed; those of Hydra's settings if `part` is "hydra"."""
    # Iterating over the list itself would resolve an override like `seed=${trainer.epochs}`.
    return [str(override) for override in unresolved(hydra.overrides)[part]]


def read_hydra_flags(hydra: DictConfig) -> list[str]:
    """Return Hydra's flags that a command has to repeat to find the same configs."""
    flags = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
    if hydra.job.config_name != "config":
        flags += ["--config-name", hydra.job.config_name]
    return flags


def group_choices(hydra: DictConfig, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the choice made in each config group; of several at once, joined with "+"."""
    choices = {
        group: choice
        for group, choice in hydra.runtime.choices.items()
        # The default "sweep" chooses the sweeper alone.
        if not group.startswith("hydra/") and (group, choice) != ("sweep", "default")
        if choice is not None
    }
    # Hydra doesn't record several choices of one group. Where a preset made them, only the names
    # of what they describe are known.
    for group in COLLECTION_GROUPS.keys() - choices.keys():
        choices[group] = "+".join(settings.get(group) or ())
    for override in read_overrides(hydra):
        group, _, value = override.partition("=")
        if (group in COLLECTION_GROUPS or group in PRESET_GROUPS) and re.fullmatch(
            r"\[.*\]", value
        ):
            choices[group] = "+".join(choice.strip(" '") for choice in value[1:-1].split(","))
    return choices


def is_named_by_time(destination: DictConfig) -> bool:
    """Return whether the directory in `hydra.run` or `hydra.sweep` has the time in its name."""
    return "${now:" in unresolved(destination)["dir"]
