"""What a study searches: ranges and choices by key, in the grammar of Hydra's Optuna sweeper."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.sweeps.plan import WHOLE

Parameters = Mapping[str, Any]
# A choice with more values than this is tried at its ends only.
MOST_TRIED = 50


class Space:
    """The keys that a study searches, and the words that all its trials share.

    Args:
        words: overrides, those of the command line last; of two for one key, the later holds.

    Attributes:
        distributions: of the keys that are searched.
        fixed: the other words, by key.

    Raises:
        RequestError: a range is empty or can't be searched, or there is none.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.distributions: dict[str, BaseDistribution] = {}
        self.fixed: dict[str, str] = {}
        for override in OverridesParser.create().parse_overrides(list(words)):
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
            raise RequestError(
                "this study has nothing to search: give a setting a range or several values, such "
                "as 'optim.lr=interval(0.01,0.3)'"
            )

    def words(self, parameters: Parameters) -> list[str]:
        """The words of a trial."""
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in parameters.items())]

    def corners(self) -> Iterator[dict[str, Any]]:
        """Each end of each range and each value of each choice, the other keys at their first."""
        first = {key: _ends(each)[0] for key, each in self.distributions.items()}
        yield first
        for key, distribution in self.distributions.items():
            for value in _ends(distribution)[1:]:
                yield first | {key: value}

    def parameters(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """What stands for some settings in this space; None if they are outside of it.

        Args:
            values: of each key that is searched.
        """
        found = {}
        for key, distribution in self.distributions.items():
            value = _within(distribution, values[key])
            if value is None:
                return None
            found[key] = value[0]
        return found

    def lines(self) -> list[str]:
        """The space for people, a line a key."""
        return [f"{shown(key)}: {_describe(each)}" for key, each in self.distributions.items()]


def _distribution(key: str, override: Override) -> BaseDistribution:
    from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override

    if key == "seed":
        raise RequestError(
            f"{override.input_line}: the seed isn't searched, since the luckiest one says nothing; "
            "have each trial trained with several by replicates=3"
        )
    if key in WHOLE or key == "sweep":
        raise RequestError(f"{override.input_line}: {key} is of the whole study: give it one value")
    sweep = override.value()
    if isinstance(sweep, IntervalSweep) and sweep.start > sweep.end:
        raise RequestError(
            f"{override.input_line} is empty: write the lower end first, as "
            f"{key}=interval({sweep.end},{sweep.start})"
        )
    try:
        found = create_optuna_distribution_from_override(override)
    # A glob fails an assertion of the plugin's.
    except (ValueError, NotImplementedError, AssertionError) as error:
        reason = " ".join(str(error).split()).rstrip(".") or "it isn't a range or a list of values"
        raise RequestError(f"{override.input_line} can't be searched: {reason}") from error
    if isinstance(found, FloatDistribution) and not math.isfinite(found.high - found.low):
        raise RequestError(f"{override.input_line} can't be searched: its ends aren't finite")
    return found


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        choices = list(distribution.choices)
        return choices if len(choices) <= MOST_TRIED else [choices[0], choices[-1]]
    return [distribution.low] if distribution.single() else [distribution.low, distribution.high]


def _within(distribution: BaseDistribution, value: Any) -> tuple[Any] | None:
    """The value as the distribution has it; None if it hasn't."""
    if isinstance(distribution, CategoricalDistribution):
        # Its choices are as one types them.
        for choice in distribution.choices:
            if _typed(choice) == _typed(value):
                return (choice,)
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (isinstance(distribution, IntDistribution) and value != int(value)):
        return None
    return (value,) if distribution._contains(distribution.to_internal_repr(value)) else None


def _typed(value: Any) -> Any:
    """The value that a word of the command line comes to."""
    if not isinstance(value, str):
        return value
    override = OverridesParser.create().parse_override(f"key={value}")
    return value if override.is_sweep_override() else _plain(override.value())


def _plain(value: Any) -> Any:
    return value.text if hasattr(value, "text") else value


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(shown, distribution.choices))}"
    told = f"{distribution.low:g} to {distribution.high:g}"
    if distribution.log:
        return f"{told}, by its logarithm"
    whole = isinstance(distribution, IntDistribution)
    step = distribution.step
    return told if step is None or (whole and step == 1) else f"{told} in steps of {step:g}"
