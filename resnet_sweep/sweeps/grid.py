"""The default sweeper: every combination of values, in a sweep that can be resumed."""

import math
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import format_setting

# Planning this many jobs takes an hour.
MAX_COMBINATIONS = 100_000


class GridSweeper(Sweeper):
    """Hydra's basic sweeper and more: a dry run, resume after anything, tolerance of failures.

    Args:
        params: what is swept, by key, in the grammar of the command line, which overrides it.
    """

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `sweep`."""
        self.context, self.composed = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Train the jobs of the sweep; see `run_sweep`.

        Raises:
            SystemExit: not all jobs reached what was asked for.
        """
        # Imported here because torch takes seconds that --help needn't wait.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.sweeps.runner import run_sweep

        with wrap_internal_errors():
            status = run_sweep(
                self.context, self.composed, [*preset_overrides(self.params), *arguments]
            )
        if status:
            raise SystemExit(status)


def expand(
    overrides: Sequence[str], pairs: Sequence[Sequence[str]], loader: ConfigLoader
) -> list[list[str]]:
    """Return the overrides of each job: every combination of the values that are swept.

    Args:
        overrides: some with several values; of two for one key, the later holds.
        pairs: lists of keys whose values are paired instead of crossed.
        loader: knows the choices of a group, for `model=glob(resnet*)`.

    Raises:
        ConfigError: a key has values that can't be counted or paired, or there are too many.
    """
    values: dict[str, list[str]] = {}
    swept: set[str] = set()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.get_key_element()
        values[key] = _values(override)
        (swept.add if override.is_sweep_override() else swept.discard)(key)
    # The keys whose values change together with those of a key.
    axes: dict[str, tuple[str, ...]] = {key: (key,) for key in values}
    for group in pairs:
        if len(group) == 1:
            raise ConfigError(
                f"zip has {group[0]} alone: name two keys or more whose values belong together, or "
                "leave it out of zip"
            )
        for key in group:
            if key not in swept:
                raise ConfigError(
                    f"zip pairs {key}, which this sweep doesn't vary: give it several values, or "
                    "leave it out of zip"
                )
            if len(axes[key]) > 1:
                raise ConfigError(f"zip has {key} twice: pair each key once")
            if len(values[key]) != len(values[group[0]]):
                raise ConfigError(
                    f"zip pairs {group[0]} ({len(values[group[0]])} values) with {key} "
                    f"({len(values[key])}): give both equally many"
                )
            axes[key] = tuple(group)
    varied = [*dict.fromkeys(axes.values())]
    count = math.prod(len(values[keys[0]]) for keys in varied)
    if count > MAX_COMBINATIONS:
        raise ConfigError(
            f"these are {count:,} combinations or more, but a sweep may have {MAX_COMBINATIONS:,}: "
            "vary less, or search with hydra/sweeper=optuna"
        )
    choices = [zip(*map(values.__getitem__, keys), strict=True) for keys in varied]
    return [[word for part in combination for word in part] for combination in product(*choices)]


def parse_zip(zipped: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lists of paired keys that `zip` names; one list may stand alone."""
    alone = [entry for entry in zipped if isinstance(entry, str)]
    if len(alone) == len(zipped):
        return [alone] if alone else []
    return [list(entry) for entry in zipped]


def preset_overrides(params: Mapping[str, Any] | None) -> list[str]:
    """Return `hydra.sweeper.params` as overrides."""
    plain: Any = params or {}
    if isinstance(plain, DictConfig):
        plain = OmegaConf.to_container(plain, resolve=False)
    return [f"{key}={format_setting(value)}" for key, value in plain.items()]


def _values(override: Override) -> list[str]:
    """Return an override once for each of its values."""
    key = override.get_key_element()
    if override.is_delete():
        return [override.input_line or key]
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line} has no values that could be tried one by one: list them, or "
            "search with hydra/sweeper=optuna"
        )
    values = islice(override.sweep_string_iterator(), MAX_COMBINATIONS + 1)
    return [f"{key}={value}" for value in values]
