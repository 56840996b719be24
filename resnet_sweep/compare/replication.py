"""The rule that adds seeds to a sweep until the verdicts are decided (replicates=auto)."""

import math
from dataclasses import replace
from typing import Literal, NamedTuple

from resnet_sweep.compare.group import Group
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import CONFIDENCE, MeanDifference
from resnet_sweep.compare.ranking import Ranking

# Seeds of each variant at the first look.
FIRST = 3
# The number of seeds at a look, divided by the number at the look before.
GROWTH = 1.6

Verdict = Literal["better", "worse", "within margin", "unstable", "undecided"]


class Decision(NamedTuple):
    """The verdict on a variant at a look, and its difference from the baseline.

    Attributes:
        verdict: "unstable" if a seed of the variant diverged; otherwise it depends on the interval.
        difference: its interval has the level of the look. None if there is no difference.
    """

    verdict: Verdict
    difference: MeanDifference | None

    def format(self, objective: Objective) -> str:
        """Return the difference and its interval as text; empty if there is no difference."""
        if self.difference is None:
            return ""
        values = (self.difference.mean, *(self.difference.interval or ()))
        mean, *limits = map(objective.format_difference, values)
        return f"{mean} [{', '.join(limits)}]" if limits else mean


class ReplicationRule:
    """Decides which variants of a sweep need more seeds.

    The verdicts are read several times, each time with more seeds. At each look, the intervals have
    the error probability `level` / (number of looks). So all intervals of a variant contain its
    difference with a probability of 1 - `level` or more, by Bonferroni's inequality.

    Args:
        maximum: the largest number of seeds.
        margin: the smallest difference that matters, in the unit of the objective; None if there is
            none.
        first: number of seeds at the first look.
        level: probability of a wrong verdict on a variant, over all looks.

    Attributes:
        looks: numbers of seeds at which the verdicts are read.
    """

    def __init__(
        self,
        maximum: int,
        margin: float | None = None,
        first: int = FIRST,
        level: float = 1 - CONFIDENCE,
    ) -> None:
        self.maximum, self.margin, self.level = maximum, margin, level
        looks = [min(first, maximum)]
        while looks[-1] < maximum:
            looks.append(min(maximum, math.ceil(GROWTH * looks[-1])))
        self.looks = tuple(looks)

    def open_variants(self, ranking: Ranking) -> list[Group]:
        """Return the variants, without the baseline, whose verdict isn't decided yet."""
        return [
            group
            for group in ranking.groups
            if group is not ranking.baseline and self.decide(ranking, group).verdict == "undecided"
        ]

    def decide(self, ranking: Ranking, group: Group) -> Decision:
        """Return the verdict on a variant from the runs of a look."""
        difference = ranking.differences[ranking.groups.index(group)]
        if difference is not None:
            difference = replace(difference, interval=self._interval(difference))
        if any(run.state == "diverged" for run in group.runs):
            return Decision("unstable", difference)
        if difference is None or difference.interval is None:
            return Decision("undecided", difference)
        low, high = difference.interval
        if not low <= 0 <= high:
            is_gain = ranking.objective.gain(difference.mean) > 0
            return Decision("better" if is_gain else "worse", difference)
        within = self.margin is not None and -self.margin < low and high < self.margin
        return Decision("within margin" if within else "undecided", difference)

    def quantile(self, n: int, level: float | None = None) -> float:
        """Return half of the interval of the mean of n differences, in standard errors.

        Args:
            n: number of pairs, at least 2.
            level: error probability of the interval; None for that of a look.
        """
        # This import takes a second, and commands that compare nothing don't need it.
        from scipy.stats import t

        if level is None:
            level = self.level / len(self.looks)
        return float(t.isf(level / 2, n - 1))

    def _interval(self, difference: MeanDifference) -> tuple[float, float] | None:
        """Return the interval at the level of a look; None if there are no pairs."""
        if difference.interval is None or not difference.paired:
            return None
        low, high = difference.interval
        standard_error = (high - low) / 2 / self.quantile(difference.n, 1 - CONFIDENCE)
        half = standard_error * self.quantile(difference.n)
        return difference.mean - half, difference.mean + half
