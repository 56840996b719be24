"""What a change did: the difference between two groups of replicates, and how sure it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.group import Group, Statistic

CONFIDENCE = 0.95
# A smaller standard error is one of rounding.
LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class Effect:
    """A difference between two groups of runs in some figure.

    Attributes:
        mean: of the differences.
        interval: of confidence 95% by Student's t; None where it can't be known, of single runs, or
            where all differences are the same but not 0, as happens on small test sets.
        n: how many differences there are; of independent samples, the fewer runs.
        paired: whether they are between runs of the same seed.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    paired: bool

    @classmethod
    def between(
        cls, group: Group, baseline: Group, of: Callable[[Entry], float | None]
    ) -> "Effect | None":
        """By how much a figure of a group is above that of a baseline.

        Runs of the same seed see the same images in the same order, so that each is compared with
        its like, and what they have in common drops out: a paired difference over the seeds that
        both groups have. Groups that share none, or a single one of several, are compared as
        independent samples of different spread (Welch, 1947).

        Args:
            group, baseline: whose runs count as `Group.counted` says.
            of: the figure of a run; None if it isn't known, and then the run doesn't count.

        Returns:
            None if there is nothing to compare.
        """
        ours, theirs = _by_seed(group, of), _by_seed(baseline, of)
        if not (ours and theirs):
            return None
        shared = [seed for seed in ours if seed in theirs]
        if len(shared) > 1 or (shared and 1 in (len(ours), len(theirs))):
            differences = Statistic.of(ours[seed] - theirs[seed] for seed in shared)
            spread = differences.sd and differences.sd / math.sqrt(differences.n)
            interval = _interval(differences.mean, spread, differences.n - 1)
            return cls(differences.mean, interval, differences.n, paired=True)
        one, other = Statistic.of(ours.values()), Statistic.of(theirs.values())
        return cls(one.mean - other.mean, _welch(one, other), min(one.n, other.n), paired=False)

    def verdict(self, gain: Callable[[float], float]) -> str:
        """In words whether it is for the better.

        Args:
            gain: of a difference, positive where it is for the better.

        Returns:
            "better" or "worse" where the interval leaves no other sign, "within noise" where it
            does, and "too few runs" where there is none.
        """
        if self.interval is None:
            return "too few runs"
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        return "better" if gain(self.mean) > 0 else "worse"


def _by_seed(group: Group, of: Callable[[Entry], float | None]) -> dict[str, float]:
    values = {repr(entry.settings.get("seed")): of(entry) for entry in group.counted}
    return {seed: value for seed, value in values.items() if value is not None}


def _welch(one: Statistic, other: Statistic) -> tuple[float, float] | None:
    if one.sd is None or other.sd is None:
        return None
    mean = one.mean - other.mean
    first, second = (each.sd**2 / each.n for each in (one, other))
    each = first**2 / (one.n - 1) + second**2 / (other.n - 1)
    freedom = (first + second) ** 2 / each if each else 1.0
    return _interval(mean, math.sqrt(first + second), freedom)


def _interval(mean: float, spread: float | None, freedom: float) -> tuple[float, float] | None:
    """Student's interval of confidence around a mean.

    Args:
        mean: its middle.
        spread: the standard error of the mean; None if it isn't known.
        freedom: degrees of freedom.
    """
    if spread is None:
        return None
    if spread < LEAST_SPREAD:
        # The same thing twice says nothing of how much it might have been otherwise.
        return (mean, mean) if abs(mean) < LEAST_SPREAD else None
    # Imported here because commands that compare nothing needn't wait for it.
    from scipy.special import stdtrit

    reach = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * spread
    return mean - reach, mean + reach
