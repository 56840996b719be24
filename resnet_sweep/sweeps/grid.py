"""The default sweeper: every combination of values, in a sweep that can be resumed."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.config.compose import unresolved
from resnet_sweep.config.errors import internal_errors
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import typed


class GridSweeper(Sweeper):
    """Hydra's basic sweeper and more: a dry run, resume after anything, tolerance of failures.

    All jobs are planned before the first one starts. Those that are finished, here or elsewhere,
    aren't trained again; those that were interrupted are resumed.

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
        """Train the jobs of the sweep.

        Args:
            arguments: overrides of the command line.

        Raises:
            ConfigError: the sweep can't be started; nothing was written.
            SystemExit: not all jobs reached what was asked for.
        """
        # Imported here because torch takes seconds that --help needn't wait.
        from resnet_sweep.sweeps.runner import run_sweep

        with internal_errors():
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
        ConfigError: a key has values that can't be counted, is paired and has none, or is paired
            with one that has another number of them.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    values: dict[str, list[str]] = {}
    swept: set[str] = set()
    for override in parsed:
        key = override.get_key_element()
        values[key] = _values(override)
        (swept.add if override.is_sweep_override() else swept.discard)(key)
    axes: list[list[tuple[str, ...]]] = []
    for keys in _axes(list(values), pairs):
        for key in keys[1:]:
            if len(values[key]) != len(values[keys[0]]):
                raise ConfigError(
                    f"zip pairs {keys[0]} ({len(values[keys[0]])} values) with {key} "
                    f"({len(values[key])}): give both equally many"
                )
        if len(keys) > 1 and not swept.issuperset(keys):
            missing = next(key for key in keys if key not in swept)
            raise ConfigError(f"zip pairs {missing}, which has one value: give it several")
        axes.append(list(zip(*(values[key] for key in keys), strict=True)))
    return [[word for part in combination for word in part] for combination in product(*axes)]


def pairs_of(zipped: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the lists of paired keys that `zip` names; one list may stand alone."""
    alone = [entry for entry in zipped if isinstance(entry, str)]
    if len(alone) == len(zipped):
        return [alone] if alone else []
    return [list(entry) for entry in zipped]


def preset_overrides(params: Mapping[str, Any] | None) -> list[str]:
    """Return `hydra.sweeper.params` as overrides."""
    plain = unresolved(params) if isinstance(params, DictConfig) else params or {}
    return [f"{key}={typed(value)}" for key, value in plain.items()]


def _values(override: Override) -> list[str]:
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
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _axes(keys: Sequence[str], paired: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the keys in order, those that are paired in one list."""
    partners: dict[str, list[str]] = {}
    for group in paired:
        if len(group) == 1:
            raise ConfigError(
                f"zip has {group[0]} alone: name two keys or more whose values belong together, or "
                "leave it out of zip"
            )
        for key in group:
            if key not in keys:
                raise ConfigError(
                    f"zip pairs {key}, which this sweep doesn't vary: give it several values, or "
                    "leave it out of zip"
                )
            if key in partners:
                raise ConfigError(f"zip has {key} twice: pair each key once")
            partners[key] = list(group)
    axes, done = [], set()
    for key in keys:
        if key not in done:
            axes.append(partners.get(key, [key]))
            done.update(axes[-1])
    return axes
