"""The rule that adds seeds to a sweep until the verdicts are decided (replicates=auto)."""

import math
from collections.abc import Callable, Sequence

from resnet_sweep.compare.group import Group
from resnet_sweep.compare.paired_test import ERROR_RATE, MeanDifference, adjust_for_number

# Number of seeds of each variant at the first look.
FIRST = 3
# The largest number of seeds that a sweep can ask for.
MAX_REPLICATES = 1000
# The number of seeds at a look, divided by the number at the look before.
GROWTH = 1.6

UNDECIDED = "undecided"


class ReplicationRule:
    """Decides which variants of a sweep need more seeds.

    The verdicts are read several times, each time with more seeds. This is a group-sequential test
    whose error probability is spent in equal parts at the looks (Lan and DeMets, 1983, "Discrete
    sequential boundaries for clinical trials"). The boundaries are those of Bonferroni's inequality
    instead of the joint distribution of the looks, so they hold for any estimate of the noise: the
    p values are multiplied by the number of looks, and the intervals are longer.

    Args:
        maximum: the largest number of seeds.
        margin: the smallest difference that matters, in the unit of the objective; None if there is
            none.
        first: number of seeds at the first look.
        level: error probability over all looks.

    Attributes:
        looks: numbers of seeds at which the verdicts are read.
    """

    def __init__(
        self,
        maximum: int,
        margin: float | None = None,
        first: int = FIRST,
        level: float = ERROR_RATE,
    ) -> None:
        self.maximum, self.margin, self.level = maximum, margin, level
        looks = [min(first, maximum)]
        while looks[-1] < maximum:
            looks.append(min(maximum, math.ceil(GROWTH * looks[-1])))
        self.looks = tuple(looks)

    @property
    def error_rate(self) -> float:
        """The probability that an interval at a look doesn't contain the true difference."""
        return self.level / len(self.looks)

    def verdicts(
        self,
        groups: Sequence[Group],
        differences: Sequence[MeanDifference | None],
        gain: Callable[[float], float],
    ) -> list[str]:
        """Return the verdicts at a look, which allow for the number of variants and of looks.

        Args:
            groups: the variants.
            differences: their differences from the baseline.
            gain: returns a positive number for a difference that is an improvement.

        Returns:
            "unstable" if a seed of the variant diverged; "within margin" if the interval is inside
            of the margin; "better" or "worse"; and otherwise "undecided".
        """
        p_values = [difference.p_value if difference else None for difference in differences]
        stable = [
            not group.unstable and p_value is not None
            for group, p_value in zip(groups, p_values, strict=True)
        ]
        # An unstable variant gets no verdict, so it isn't one of the comparisons.
        known = [p for p, counts in zip(p_values, stable, strict=True) if counts and p is not None]
        adjusted = iter(adjust_for_number([min(1.0, p * len(self.looks)) for p in known]))
        found = []
        for group, difference, counts in zip(groups, differences, stable, strict=True):
            if group.unstable:
                found.append("unstable")
            elif difference is None or not counts:
                found.append(UNDECIDED)
            else:
                p_value = next(adjusted)
                # A difference may be clear, and still too small to matter.
                if self._is_within(difference):
                    found.append("within margin")
                elif p_value <= self.level:
                    found.append("better" if gain(difference.mean) > 0 else "worse")
                else:
                    found.append(UNDECIDED)
        return found

    def _is_within(self, difference: MeanDifference) -> bool:
        """Return whether the interval of a difference is inside of the margin."""
        interval = difference.interval(self.error_rate)
        if self.margin is None or interval is None:
            return False
        return -self.margin < interval[0] and interval[1] < self.margin
