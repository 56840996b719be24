"""The search space of a study, in the grammar of Hydra's Optuna sweeper; samplers and pruners."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    ChoiceSweep,
    IntervalSweep,
    Override,
    RangeSweep,
    Transformer,
)
from hydra.utils import instantiate
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.trial import Trial

from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.objective import Direction
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.randomness import derive_seed
from resnet_sweep.sweeps.plan import WHOLE_SWEEP_SETTINGS

Parameters = Mapping[str, Any]
# If a choice has more values than this, only the first and the last one are corners.
MAX_CORNERS = 50
SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
PRUNERS = ("optuna.pruners.*",)
# A sampler is tested with this many points.
DRAWS = 3
# Maps the name of a distribution to the method that samples a parameter from it.
SUGGEST: Mapping[str, Callable[..., Any]] = {
    "CategoricalDistribution": Trial.suggest_categorical,
    "FloatDistribution": Trial.suggest_float,
    "IntDistribution": Trial.suggest_int,
}


class SearchSpace:
    """The keys that a study searches, and the overrides that all trials have.

    Args:
        overrides: the overrides of the study. The last override of a key takes precedence.

    Attributes:
        distributions: maps a searched key to its distribution.
        fixed: maps the other keys to their overrides. A choice with a single value is among them.

    Raises:
        ConfigError: a range is empty or can't be searched, or nothing is searched.
    """

    def __init__(self, overrides: Sequence[str]) -> None:
        self.distributions: dict[str, BaseDistribution] = {}
        self.fixed: dict[str, str] = {}
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            key = override.get_key_element()
            self.distributions.pop(key, None)
            self.fixed.pop(key, None)
            if override.is_delete():
                self.fixed[key] = override.input_line or key
            elif override.is_sweep_override():
                distribution = _distribution(key, override)
                if isinstance(distribution, CategoricalDistribution) and distribution.single():
                    (value,) = override.sweep_iterator(transformer=Transformer.str)
                    self.fixed[key] = f"{key}={value}"
                else:
                    self.distributions[key] = distribution
            else:
                self.fixed[key] = f"{key}={override.get_value_element_as_str()}"
        if not self.distributions:
            raise ConfigError(
                "this study searches nothing: give a setting a range or several values, such as "
                "'optim.lr=interval(0.01,0.3)'"
            )

    def overrides(self, parameters: Parameters) -> list[str]:
        """Return the overrides of a trial."""
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in parameters.items())]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield points in which one key has an end of its range, or one of its values.

        The other keys have the lower end of their range, or the first of their values.
        """
        ends = {key: _ends(values) for key, values in self.distributions.items()}
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            for value in values[1:]:
                yield first | {key: value}

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Convert settings to parameters of this space; 64.0 and "64" become the number 64.

        Raises:
            ConfigError: a value is outside of this space.
        """
        return {
            key: _parameter(key, distribution, settings[key])
            for key, distribution in self.distributions.items()
        }

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of every key; ConfigError if a key has an interval."""
        return {key: _values(distribution) for key, distribution in self.distributions.items()}

    def descriptions(self) -> dict[str, str]:
        """Return the range of every key as text."""
        return {key: _describe(distribution) for key, distribution in self.distributions.items()}


class TrialSampler:
    """Samples every trial with a new sampler, seeded by the study's seed and the trial number.

    Therefore workers with the same seed sample different parameters, and a resumed study samples
    new ones.

    Args:
        node: `hydra.sweeper.sampler`.

    Attributes:
        size: number of points of a grid; None for other samplers.

    Raises:
        ConfigError: there is no such sampler, or it can't search this space in these directions.
    """

    def __init__(
        self,
        node: Mapping[str, Any],
        space: SearchSpace,
        directions: Sequence[Direction] = ("maximize",),
    ) -> None:
        self.node, self.space = node, space
        is_grid = node.get("_target_") == "optuna.samplers.GridSampler"
        self._grid = space.grid() if is_grid else None
        self.size = math.prod(map(len, self._grid.values())) if self._grid is not None else None
        study = optuna.create_study(directions=list(directions))
        try:
            for number in range(DRAWS if self.size is None else 1):
                study.sampler = self._build(number)
                trial = study.ask(space.distributions)
                study.tell(trial, [0.0] * len(directions))
        except ConfigError:
            raise
        # A sampler may raise any error for a search space that it doesn't support.
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.sampler: {node['_target_'].rpartition('.')[2]} can't search "
                f"this space ({one_line(error)}): choose another sampler"
            ) from error

    def _build(self, number: int) -> BaseSampler:
        seed = self.node.get("seed")
        if self._grid is not None:
            return _WholeGrid(self._grid, seed=seed or 0)
        try:
            sampler: BaseSampler = _instantiate(self.node, SAMPLERS)
            # A quasi-random sequence needs the same seed for all its points.
            if seed is not None and not isinstance(sampler, QMCSampler):
                own = derive_seed(seed, "sampler", number) % 2**32
                sampler = _instantiate({**self.node, "seed": own}, SAMPLERS)
        # A sampler may raise any error for invalid arguments.
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.sampler is invalid ({one_line(error)}): correct its settings"
            ) from error
        return sampler

    def sample(
        self, study: optuna.Study, trial_id: int, number: int, has_parameters: bool = False
    ) -> Trial:
        """Return a running trial of a study; its parameters are sampled if it has none.

        With `has_parameters`, the sampler isn't called. Otherwise, a grid sampler would count a
        promoted trial as another point of the grid.
        """
        study.sampler = RandomSampler() if has_parameters else self._build(number)
        # `Study.ask` isn't used, because it takes any waiting trial, and never a running one.
        trial = Trial(study, trial_id)
        for key, distribution in self.space.distributions.items():
            described = json.loads(distribution_to_json(distribution))
            SUGGEST[described["name"]](trial, key, **described["attributes"])
        return trial


class _WholeGrid(GridSampler):
    """A grid sampler that doesn't call `Study.stop`, which works only in `Study.optimize`."""

    def after_trial(self, *arguments: Any) -> None:
        pass


def build_pruner(node: Mapping[str, Any] | None, objectives: int, epochs: int) -> BasePruner:
    """Build the pruner of a study.

    Args:
        node: `hydra.sweeper.pruner`; None for Hyperband with one objective, or else no pruner.
        objectives: number of objectives.
        epochs: number of epochs of a trial, summed over its replicates.

    Raises:
        ConfigError: the pruner is invalid, or can't prune with several objectives.
    """
    if node is None:
        return NopPruner() if objectives > 1 else HyperbandPruner(max_resource=epochs)
    # With "auto", nothing would be pruned until a trial is complete.
    if node.get("max_resource") == "auto" and str(node.get("_target_")).endswith("HyperbandPruner"):
        node = {**node, "max_resource": epochs}
    try:
        pruner = _instantiate(node, PRUNERS)
        if not isinstance(pruner, BasePruner):
            raise ValueError(f"_target_={node.get('_target_')} isn't a pruner")
    # A pruner may raise any error for invalid arguments.
    except Exception as error:
        raise ConfigError(
            f"hydra.sweeper.pruner is invalid ({one_line(error)}): correct its settings"
        ) from error
    if objectives > 1 and not isinstance(pruner, NopPruner):
        raise ConfigError(
            f"{type(pruner).__name__} can't prune with {objectives} objectives: use one objective, "
            "or hydra/sweeper/pruner=none"
        )
    return pruner


def _instantiate(node: Mapping[str, Any], whitelist: Sequence[str]) -> Any:
    return instantiate(node, _execution_whitelist_=whitelist, _convert_="all")


def _distribution(key: str, override: Override) -> BaseDistribution:
    text = override.input_line
    if key == "seed":
        raise ConfigError(
            f"{text} can't be searched, because the best seed is only luck: leave it out, and set "
            "replicates=3 to train every trial with several seeds"
        )
    if key in WHOLE_SWEEP_SETTINGS or key == "sweep":
        raise ConfigError(
            f"{text} can't be searched: {key} applies to the study, so give it one value"
        )
    try:
        sweep = override.value()
        if isinstance(sweep, IntervalSweep):
            start, end, log = sweep.start, sweep.end, "log" in sweep.tags
            assert start is not None and end is not None
            if not math.isfinite(end - start):
                raise ValueError("its ends must be finite numbers")
            if start > end:
                raise ValueError(
                    f"the lower end, {start}, is above the upper end, {end}: exchange them"
                )
            if log and start <= 0:
                raise ValueError(
                    f"a logarithmic scale needs a lower end above 0 instead of {start}"
                )
            if isinstance(start, int) and isinstance(end, int):
                return IntDistribution(start, end, log=log)
            return FloatDistribution(start, end, log=log)
        if isinstance(sweep, RangeSweep) and not (sweep.shuffle or sweep.transformers):
            return _range(sweep)
        if isinstance(sweep, (ChoiceSweep, RangeSweep)):
            choices: Any = override.sweep_iterator(transformer=Transformer.encode)
            return CategoricalDistribution(list(choices))
        raise ValueError("give it an interval, a range or a list of values")
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{text} can't be searched: {one_line(error)}") from error


def _range(sweep: RangeSweep) -> BaseDistribution:
    if not sweep.step:
        raise ValueError("its step is 0, so choose another one")
    values = sweep.range()
    listed = sorted(values)
    if not listed:
        raise ValueError("it has no values, so exchange its ends or change its step")
    if isinstance(values, range):
        return IntDistribution(listed[0], listed[-1], step=abs(values.step))
    return FloatDistribution(float(listed[0]), float(listed[-1]), step=abs(float(sweep.step)))


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        return choices if len(choices) <= MAX_CORNERS else [choices[0], choices[-1]]
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return [distribution.low] if distribution.single() else [distribution.low, distribution.high]


def _values(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        raise ConfigError(
            "hydra/sweeper/sampler=grid can't enumerate an interval: list values, give a range "
            "with a step, or choose another sampler"
        )
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    # Decimal numbers are used, because 0.1 + 2 * 0.1 isn't 0.3 in binary.
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return [float(low + index * step) for index in range(count)]


def _parameter(key: str, distribution: BaseDistribution, setting: Any) -> Any:
    value = _parsed(setting)
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if _parsed(choice) == value:
                return choice
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        assert isinstance(distribution, (FloatDistribution, IntDistribution))
        low, high, step = distribution.low, distribution.high, distribution.step
        if low <= value <= high:
            steps = (value - low) / step if step else 0.0
            converted = int(value) if isinstance(distribution, IntDistribution) else float(value)
            if converted == value and math.isclose(steps, round(steps), abs_tol=1e-8):
                return converted
    raise ConfigError(
        f"{key}={safe_text(setting)} is outside the search space ({_describe(distribution)})"
    )


def _parsed(value: Any) -> Any:
    """Parse a value as Hydra does, because a choice stores its values as text."""
    if not isinstance(value, str):
        return value
    override = OverridesParser.create().parse_override(f"key={value}")
    if override.is_sweep_override():
        return value
    parsed = override.value()
    return getattr(parsed, "text", parsed)


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(safe_text, distribution.choices))}"
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    text = f"{safe_text(distribution.low)} to {safe_text(distribution.high)}"
    if distribution.log:
        return f"{text}, log scale"
    return (
        text if distribution.step is None else f"{text} in steps of {safe_text(distribution.step)}"
    )
