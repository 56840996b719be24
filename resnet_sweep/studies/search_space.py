"""What a study searches, in the grammar of Hydra's Optuna sweeper, and what searches it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

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
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, GridSampler, QMCSampler
from optuna.trial import FrozenTrial, TrialState

from resnet_sweep.compare.format import shown
from resnet_sweep.errors import ConfigError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.sweeps.plan import SWEEP_SETTINGS

Parameters = Mapping[str, Any]
Direction = Literal["minimize", "maximize"]
# Of a choice with more values than this, the first and the last are planned as corners.
MOST_CORNERS = 50
SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
PRUNERS = ("optuna.pruners.*",)
# How many points are sampled to try a sampler out.
DRAWS = 3


class SearchSpace:
    """The keys that a study searches, and the overrides that all its trials share.

    Args:
        overrides: those of the command line last; of two for one key, the later holds.

    Attributes:
        distributions: of the keys that are searched.
        fixed: the other overrides, by key.

    Raises:
        ConfigError: a range is empty or can't be searched, or there is none.
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
                self.distributions[key] = _distribution(key, override)
            else:
                self.fixed[key] = f"{key}={override.get_value_element_as_str()}"
        if not self.distributions:
            raise ConfigError(
                "this study has nothing to search: give a setting a range or several values, such "
                "as 'optim.lr=interval(0.01,0.3)'"
            )

    def overrides(self, parameters: Parameters) -> list[str]:
        """Return the overrides of a trial."""
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in parameters.items())]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield each end of each range and each value of each choice, other keys at their first."""
        first = {key: _ends(values)[0] for key, values in self.distributions.items()}
        yield first
        for key, distribution in self.distributions.items():
            for value in _ends(distribution)[1:]:
                yield first | {key: value}

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return settings as parameters of this space; None if they are outside of it.

        Args:
            settings: a value of each key that is searched.
        """
        found = {}
        for key, distribution in self.distributions.items():
            value = _within(distribution, settings[key])
            if value is None:
                return None
            found[key] = value[0]
        return found

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each key.

        Raises:
            ConfigError: a key has an interval, whose values can't be counted.
        """
        return {key: _values(distribution) for key, distribution in self.distributions.items()}

    def lines(self) -> list[str]:
        """Return a description of the space, a line for each key."""
        return [f"{shown(key)}: {_describe(values)}" for key, values in self.distributions.items()]


class TrialSampler(BaseSampler):
    """Samples each trial with a sampler of its own, seeded by the study's seed and its number.

    So workers with one seed don't sample the same parameters, and a study that is resumed doesn't
    repeat those that it began with.

    Args:
        node: `hydra.sweeper.sampler`.
        space: what is searched.

    Attributes:
        size: number of points of a grid; None with other samplers.

    Raises:
        ConfigError: there is no such sampler, or it can't search this space.
    """

    def __init__(self, node: Mapping[str, Any], space: SearchSpace) -> None:
        self.node, self.space = node, space
        is_grid = node.get("_target_") == "optuna.samplers.GridSampler"
        self._grid = space.grid() if is_grid else None
        self.size = math.prod(map(len, self._grid.values())) if self._grid is not None else None
        self._number: int | None = None
        self._sampler: BaseSampler = self._make(0)

    def check(self, directions: Sequence[Direction]) -> None:
        """Sample a few points of the space.

        Raises:
            ConfigError: the sampler can't search this space, or in these directions.
        """
        try:
            study = optuna.create_study(directions=list(directions), sampler=self)
            for _ in range(DRAWS if self.size is None else 1):
                trial = study.ask(self.space.distributions)
                study.tell(trial, [0.0] * len(directions))
        except ConfigError:
            raise
        # A sampler can refuse a space in any way.
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.sampler: {self.node['_target_'].rpartition('.')[2]} can't search "
                f"this ({' '.join(str(error).split()).rstrip('.')}): choose another sampler"
            ) from error

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        # At its end, a grid stops Optuna's own loop, which isn't used here.
        if self._grid is None:
            self._of(trial).after_trial(study, trial, state, values)

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if trial.number != self._number:
            self._number, self._sampler = trial.number, self._make(trial.number)
        return self._sampler

    def _make(self, number: int) -> BaseSampler:
        seed = self.node.get("seed")
        if self._grid is not None:
            return GridSampler(self._grid, seed=seed or 0)
        try:
            sampler: BaseSampler = _instantiate(self.node, SAMPLERS)
            # The points of a sequence are those of one seed.
            if seed is not None and not isinstance(sampler, QMCSampler):
                own = derive_seed(seed, "sampler", number) % 2**32
                sampler = _instantiate({**self.node, "seed": own}, SAMPLERS)
        # Users choose a sampler's arguments, and it refuses them in any way.
        except Exception as error:
            raise ConfigError(f"hydra.sweeper.sampler: {' '.join(str(error).split())}") from error
        return sampler


def build_pruner(node: Mapping[str, Any] | None, objectives: int, epochs: int) -> BasePruner:
    """Build the pruner of a study.

    Args:
        node: `hydra.sweeper.pruner`; None is Hyperband with one objective, and else no pruner.
        objectives: how many there are.
        epochs: of a whole trial, over all its replicates.

    Raises:
        ConfigError: there is no such pruner, or it can't prune by several objectives.
    """
    if node is None:
        return NopPruner() if objectives > 1 else HyperbandPruner(max_resource=epochs)
    # By "auto", Optuna waits for the first trial to end, in each worker on its own.
    if node.get("max_resource") == "auto" and str(node.get("_target_")).endswith("HyperbandPruner"):
        node = {**node, "max_resource": epochs}
    try:
        pruner = _instantiate(node, PRUNERS)
        if not isinstance(pruner, BasePruner):
            raise ValueError(f"_target_={node.get('_target_')} isn't a pruner")
    # Users choose a pruner's arguments, and it refuses them in any way.
    except Exception as error:
        raise ConfigError(f"hydra.sweeper.pruner: {' '.join(str(error).split())}") from error
    if objectives > 1 and not isinstance(pruner, NopPruner):
        raise ConfigError(
            f"{type(pruner).__name__} can't prune by {objectives} objectives: search with one "
            "objective, or with hydra/sweeper/pruner=none"
        )
    return pruner


def _instantiate(node: Mapping[str, Any], whitelist: Sequence[str]) -> Any:
    return instantiate(node, _execution_whitelist_=whitelist, _convert_="all")


def _distribution(key: str, override: Override) -> BaseDistribution:
    text = override.input_line
    if key == "seed":
        raise ConfigError(
            f"{text}: the seed isn't searched, since the luckiest one means nothing; train each "
            "trial with several by replicates=3"
        )
    if key in SWEEP_SETTINGS or key == "sweep":
        raise ConfigError(f"{text}: {key} is of the whole study: give it one value")
    try:
        sweep = override.value()
        if isinstance(sweep, IntervalSweep):
            return _interval(key, override, sweep)
        if isinstance(sweep, RangeSweep) and not (sweep.shuffle or sweep.transformers):
            return _range(sweep)
        if isinstance(sweep, (ChoiceSweep, RangeSweep)):
            choices: Any = override.sweep_iterator(transformer=Transformer.encode)
            return CategoricalDistribution(list(choices))
        raise ValueError("it isn't a range or a list of values")
    except ConfigError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"{text} can't be searched: {reason}") from error


def _interval(key: str, override: Override, sweep: IntervalSweep) -> BaseDistribution:
    start, end = sweep.start, sweep.end
    assert start is not None and end is not None
    if start > end:
        raise ConfigError(
            f"{override.input_line} is empty: write the lower end first, as "
            f"{key}=interval({end},{start})"
        )
    if not math.isfinite(end - start):
        raise ValueError("its ends aren't finite")
    log = "log" in sweep.tags
    if isinstance(start, int) and isinstance(end, int):
        return IntDistribution(start, end, log=log)
    return FloatDistribution(start, end, log=log)


def _range(sweep: RangeSweep) -> BaseDistribution:
    if not sweep.step:
        raise ValueError("its step is 0")
    values = sweep.range()
    listed = sorted(values)
    if not listed:
        raise ValueError("it has no values")
    if isinstance(values, range):
        return IntDistribution(listed[0], listed[-1], step=abs(values.step))
    return FloatDistribution(float(listed[0]), float(listed[-1]), step=abs(float(sweep.step)))


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        return choices if len(choices) <= MOST_CORNERS else [choices[0], choices[-1]]
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
            "hydra/sweeper/sampler=grid can't count the values of an interval: list them, give a "
            "range with a step, or choose another sampler"
        )
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    # In decimals, since 0.1 + 2 * 0.1 isn't 0.3 in binary.
    low, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return [float(low + index * step) for index in range(count)]


def _within(distribution: BaseDistribution, value: Any) -> tuple[Any] | None:
    """Return the value as the distribution has it; None if it hasn't."""
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            if _parsed(choice) == _parsed(value):
                return (choice,)
        return None
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    steps = 0.0 if not distribution.step else (value - distribution.low) / distribution.step
    inside = distribution.low <= value <= distribution.high
    return (value,) if inside and math.isclose(steps, round(steps), abs_tol=1e-8) else None


def _parsed(value: Any) -> Any:
    """Return the value that Hydra reads from a choice, which is kept as it is typed."""
    if not isinstance(value, str):
        return value
    override = OverridesParser.create().parse_override(f"key={value}")
    if override.is_sweep_override():
        return value
    parsed = override.value()
    return getattr(parsed, "text", parsed)


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(shown, distribution.choices))}"
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    text = f"{distribution.low:g} to {distribution.high:g}"
    if distribution.log:
        return f"{text}, by its logarithm"
    step = distribution.step
    unit = isinstance(distribution, IntDistribution) and step == 1
    return text if step is None or unit else f"{text} in steps of {step:g}"
