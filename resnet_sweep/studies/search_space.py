"""The space that a study searches, in the grammar of Hydra's Optuna sweeper; samplers, pruners."""

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
from optuna.samplers import BaseSampler, GridSampler, QMCSampler
from optuna.trial import Trial

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.objective import Direction
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.randomness import derive_seed
from resnet_sweep.sweeps.plan import WHOLE_SWEEP_SETTINGS

Parameters = Mapping[str, Any]
# Of a choice with more values than this, the first and the last are planned as corners.
MAX_CORNERS = 50
SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")
PRUNERS = ("optuna.pruners.*",)
# How many points are sampled to try a sampler out.
DRAWS = 3
# How a trial samples a parameter from a distribution, by its name.
SUGGEST: Mapping[str, Callable[..., Any]] = {
    "CategoricalDistribution": Trial.suggest_categorical,
    "FloatDistribution": Trial.suggest_float,
    "IntDistribution": Trial.suggest_int,
}


class SearchSpace:
    """The keys that a study searches, and the overrides that all its trials share.

    Args:
        overrides: those of the command line last; of two for one key, the later holds.

    Attributes:
        distributions: of the keys that are searched.
        fixed: the other overrides, by key; a choice of one value is one of them.

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
                "this study has nothing to search: give a setting a range or several values, such "
                "as 'optim.lr=interval(0.01,0.3)'"
            )

    def overrides(self, parameters: Parameters) -> list[str]:
        """Return the overrides of a trial."""
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in parameters.items())]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Yield each end of each range and each value of each choice, other keys at their first."""
        ends = {key: _ends(values) for key, values in self.distributions.items()}
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            for value in values[1:]:
                yield first | {key: value}

    def parameters(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return settings as parameters of this space, where 64.0 and "64" are the number 64.

        Raises:
            ConfigError: a value is outside of this space.
        """
        return {
            key: _parameter(key, distribution, settings[key])
            for key, distribution in self.distributions.items()
        }

    def grid(self) -> dict[str, list[Any]]:
        """Return all values of each key; a ConfigError is raised if one has an interval."""
        return {key: _values(distribution) for key, distribution in self.distributions.items()}

    def descriptions(self) -> dict[str, str]:
        """Return the range of each key in words."""
        return {key: _describe(distribution) for key, distribution in self.distributions.items()}


class TrialSampler:
    """Samples each trial by a sampler of its own, seeded by the study's seed and its number.

    So workers with one seed don't sample the same parameters, and a study that is resumed doesn't
    repeat those that it began with.

    Args:
        node: `hydra.sweeper.sampler`.

    Attributes:
        size: number of points of a grid; None with other samplers.

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
                study.sampler = self._of(number)
                trial = study.ask(space.distributions)
                study.tell(trial, [0.0] * len(directions))
        except ConfigError:
            raise
        # A sampler can refuse a space in any way.
        except Exception as error:
            raise ConfigError(
                f"hydra.sweeper.sampler: {node['_target_'].rpartition('.')[2]} can't search this "
                f"({one_line(error)}): choose another sampler"
            ) from error

    def _of(self, number: int) -> BaseSampler:
        seed = self.node.get("seed")
        if self._grid is not None:
            return _WholeGrid(self._grid, seed=seed or 0)
        try:
            sampler: BaseSampler = _instantiate(self.node, SAMPLERS)
            # The points of a sequence are those of one seed.
            if seed is not None and not isinstance(sampler, QMCSampler):
                own = derive_seed(seed, "sampler", number) % 2**32
                sampler = _instantiate({**self.node, "seed": own}, SAMPLERS)
        # Samplers refuse arguments in any way.
        except Exception as error:
            raise ConfigError(f"hydra.sweeper.sampler: {one_line(error)}") from error
        return sampler

    def sample(self, study: optuna.Study, trial_id: int, number: int) -> Trial:
        """Return a running trial of a study, with the parameters that it has, or new ones."""
        study.sampler = self._of(number)
        # `Study.ask` takes any waiting trial, and never one that is running already.
        trial = Trial(study, trial_id)
        for key, distribution in self.space.distributions.items():
            described = json.loads(distribution_to_json(distribution))
            SUGGEST[described["name"]](trial, key, **described["attributes"])
        return trial


class _WholeGrid(GridSampler):
    """A grid that doesn't stop Optuna's own loop at its end, since that loop isn't used here."""

    def after_trial(self, *arguments: Any) -> None:
        pass


def build_pruner(node: Mapping[str, Any] | None, objectives: int, epochs: int) -> BasePruner:
    """Build the pruner of a study with a number of objectives.

    Args:
        node: `hydra.sweeper.pruner`; None is Hyperband with one objective, and else no pruner.
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
    # Pruners refuse arguments in any way.
    except Exception as error:
        raise ConfigError(f"hydra.sweeper.pruner: {one_line(error)}") from error
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
    if key in WHOLE_SWEEP_SETTINGS or key == "sweep":
        raise ConfigError(f"{text}: {key} is of the whole study: give it one value")
    try:
        sweep = override.value()
        if isinstance(sweep, IntervalSweep):
            start, end, log = sweep.start, sweep.end, "log" in sweep.tags
            assert start is not None and end is not None
            if not math.isfinite(end - start):
                raise ValueError("its ends aren't finite")
            if isinstance(start, int) and isinstance(end, int):
                return IntDistribution(start, end, log=log)
            return FloatDistribution(start, end, log=log)
        if isinstance(sweep, RangeSweep) and not (sweep.shuffle or sweep.transformers):
            return _range(sweep)
        if isinstance(sweep, (ChoiceSweep, RangeSweep)):
            choices: Any = override.sweep_iterator(transformer=Transformer.encode)
            return CategoricalDistribution(list(choices))
        raise ValueError("it isn't a range or a list of values")
    except (ValueError, TypeError, OverflowError) as error:
        raise ConfigError(f"{text} can't be searched: {one_line(error)}") from error


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
            "hydra/sweeper/sampler=grid can't count the values of an interval: list them, give a "
            "range with a step, or choose another sampler"
        )
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    # In decimals, since 0.1 + 2 * 0.1 isn't 0.3 in binary.
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
        f"{key}={shown(setting)} is outside of the search space ({_describe(distribution)})"
    )


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
    text = f"{shown(distribution.low)} to {shown(distribution.high)}"
    if distribution.log:
        return f"{text}, by its logarithm"
    return text if distribution.step is None else f"{text} in steps of {shown(distribution.step)}"
