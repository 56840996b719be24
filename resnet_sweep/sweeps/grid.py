"""The default sweeper, which trains every combination of values."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import chain, islice, product
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.compare.format import pluralize
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import format_setting

# Planning this many jobs takes an hour.
MAX_COMBINATIONS = 100_000
_PERCENTAGE = re.compile(r"\d+(\.\d+)?%")


class GridSweeper(Sweeper):
    """Trains every combination of values, with dry runs, resuming and fault tolerance.

    Args:
        params: maps keys to values, in the grammar of overrides. The command line takes precedence.
        others: settings that this sweeper doesn't have; `sweep` raises an error for them.
    """

    def __init__(self, params: DictConfig | None = None, **others: Any) -> None:
        self.params, self.others = params, others

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the arguments; Hydra calls this method before `sweep`."""
        self.context, self.composed, self.caller = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Train the jobs of the sweep; see `run_sweep`.

        Raises:
            SystemExit: a job failed, diverged or is still pending, or the sweep was stopped.
        """
        for name in self.others:
            raise ConfigError(
                f"hydra.sweeper.{name} isn't a setting of hydra/sweeper=grid: leave it out, or use "
                "hydra/sweeper=optuna"
            )
        # The import of torch takes seconds, and --help doesn't need it.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.sweeps.runner import run_sweep

        with wrap_internal_errors():
            overrides = scale_percentages(
                [*preset_overrides(self.params), *arguments],
                self.composed,
                self.context.config_loader,
            )
            status = run_sweep(self.context, self.composed, overrides)
        report_end(self.caller, self.composed)
        if status:
            raise SystemExit(status)


class RefuseBasicSweeper(Callback):
    """Refuses a preset of a sweep that chooses no sweeper.

    Hydra's default sweeper would write a file before it calls this package.
    """

    def on_multirun_start(self, config: DictConfig, **details: Any) -> None:
        """Raise SystemExit with a ConfigError, because Hydra ignores other errors of a callback."""
        if str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
            raise SystemExit(
                ConfigError(
                    f"sweep={config.hydra.runtime.choices.get('sweep')} chooses no sweeper: add "
                    "'override /hydra/sweeper: grid' to the defaults list of this file, or "
                    "hydra/sweeper=grid to the command"
                )
            )


@runtime_checkable
class SweepCaller(Protocol):
    """What called Hydra, if it asks for the directory of its sweep."""

    def end(self, directory: Path | None) -> None:
        """Take the directory of a sweep that has ended."""


def report_end(caller: TaskFunction, config: DictConfig) -> None:
    """Pass the directory of a sweep that has ended to its caller; it is None in a dry run.

    Hydra drops what a sweeper returns, and gives a sweeper only the task function of its caller.
    """
    if isinstance(caller, SweepCaller):
        caller.end(None if config.dry_run else Path(config.hydra.sweep.dir).absolute())


def expand(
    overrides: Sequence[str], pairs: Sequence[Sequence[str]], loader: ConfigLoader
) -> list[list[str]]:
    """Return the overrides of all jobs. There is a job for every combination of the values.

    Args:
        overrides: the overrides of the command. An override may list several values. The last
            override of a key takes precedence.
        pairs: lists of keys whose values are paired instead of crossed.
        loader: lists the choices of a group, for `model=glob(resnet*)`.

    Raises:
        ConfigError: values can't be enumerated or paired, or there are too many combinations.
    """
    values: dict[str, list[str]] = {}
    swept: set[str] = set()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key = override.get_key_element()
        values[key] = _values(override)
        (swept.add if override.is_sweep_override() else swept.discard)(key)
    # Maps a key to the keys whose values are paired with its own.
    axes: dict[str, tuple[str, ...]] = {key: (key,) for key in values}
    for group in pairs:
        if len(group) == 1:
            raise ConfigError(
                f"zip pairs {group[0]} with no other key: name two keys or more, or leave it out "
                "of zip"
            )
        for key in group:
            if key not in swept:
                raise ConfigError(
                    f"zip names {key}, which has only one value: give it several values, or leave "
                    "it out of zip"
                )
            if len(axes[key]) > 1:
                raise ConfigError(f"zip names {key} twice: name it once")
            if len(values[key]) != len(values[group[0]]):
                raise ConfigError(
                    f"zip pairs {group[0]} ({pluralize(len(values[group[0]]), 'value')}) with "
                    f"{key} ({pluralize(len(values[key]), 'value')}): give both equally many"
                )
            axes[key] = tuple(group)
    varied = [*dict.fromkeys(axes.values())]
    count = math.prod(len(values[keys[0]]) for keys in varied)
    if count > MAX_COMBINATIONS:
        raise ConfigError(
            f"this sweep has {count:,} combinations or more, but at most {MAX_COMBINATIONS:,} are "
            "allowed: give fewer values, or search with hydra/sweeper=optuna"
        )
    choices = [zip(*map(values.__getitem__, keys), strict=True) for keys in varied]
    return [[*chain.from_iterable(combination)] for combination in product(*choices)]


def scale_percentages(
    overrides: Sequence[str], config: DictConfig, loader: ConfigLoader
) -> list[str]:
    """Replace percentages of a setting by the percentages of its value in a config.

    With `trainer.epochs=20` in the config, `trainer.epochs=10%,50%` becomes `trainer.epochs=2,10`.
    The results are whole numbers, at least 1. Percentages of a value below 1 become this value, so
    that it is refused. Percentages of another value than a whole number aren't replaced.

    Args:
        overrides: the overrides of a sweep. After percentages of a key, an override of this key
            with one value is left out, because the config contains the value.
        config: the config of the whole sweep.
        loader: see `expand`.
    """
    scaled: dict[str, str] = {}
    relative: set[str] = set()
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(overrides)):
        key, text = override.get_key_element(), str(override.input_line)
        if not override.is_sweep_override() and key in relative:
            continue
        relative.discard(key)
        percentages = [value.strip() for value in text.partition("=")[2].split(",")]
        if override.is_sweep_override() and all(map(_PERCENTAGE.fullmatch, percentages)):
            whole = OmegaConf.select(config, key)
            if type(whole) is int:
                relative.add(key)
                shares = [float(percentage.rstrip("%")) / 100 for percentage in percentages]
                scaled_values = (max(1, round(share * whole)) for share in shares)
                values = dict.fromkeys(scaled_values if whole > 0 else [whole])
                text = f"{key}={','.join(map(str, values))}"
        scaled[key] = text
    return [*scaled.values()]


def find_repeated(overrides: Sequence[str], loader: ConfigLoader) -> list[str]:
    """Return the overrides that list a value twice, perhaps in two spellings: `optim.lr=0.1,1e-1`.

    Args:
        overrides, loader: as in `expand`.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    return [
        str(override.input_line)
        for override in parsed
        if override.is_discrete_sweep() and len({*(values := _values(override))}) < len(values)
    ]


def parse_zip(zipped: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """Convert the value of `zip`, a list of keys or a list of such lists, to a list of lists."""
    keys = [item for item in zipped if isinstance(item, str)]
    if len(keys) == len(zipped):
        return [keys] if keys else []
    return [list(item) for item in zipped]


def preset_overrides(params: Mapping[str, Any] | None) -> list[str]:
    """Return `hydra.sweeper.params` as overrides."""
    plain: Any = params or {}
    if isinstance(plain, DictConfig):
        plain = OmegaConf.to_container(plain, resolve=False)
    return [f"{key}={format_setting(value)}" for key, value in plain.items()]


def _values(override: Override) -> list[str]:
    """Return the overrides for all values of an override."""
    key = override.get_key_element()
    if override.is_delete():
        return [override.input_line or key]
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line} is an interval, which a grid can't enumerate: list values, or "
            "search with hydra/sweeper=optuna"
        )
    values = islice(override.sweep_string_iterator(), MAX_COMBINATIONS + 1)
    return [f"{key}={value}" for value in values]
