"""The difference between two groups of replicates, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from resnet_sweep.compare.group import Group
from resnet_sweep.compare.loaded_run import LoadedRun

CONFIDENCE = 0.95
# A smaller standard deviation comes from rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MeanDifference:
    """The difference between the means of a value in two groups of runs.

    Attributes:
        mean: the difference.
        interval: its 95% confidence interval by Student's t; None if it isn't known, which is so
            for single runs, and where all differences are equal but not 0, as happens on small
            test sets.
        n: the number of differences; of independent samples, the smaller number of runs.
        paired: whether the differences are between runs of the same seed.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    paired: bool

    @classmethod
    def between(
        cls, group: Group, baseline: Group, value_of: Callable[[LoadedRun], float | None]
    ) -> "MeanDifference | None":
        """Return by how much a value of a group exceeds that of a baseline.

        Runs of the same seed see the same images in the same order. Their differences are tested as
        pairs, over the seeds that both groups have, so that what is common to a seed cancels out.
        Groups that share no seed, or only one of several, are compared as independent samples of
        unequal variances (Welch, "The generalization of Student's problem when several different
        population variances are involved", 1947).

        Args:
            group, baseline: the groups, of which the runs of `Group.counted` are compared.
            value_of: returns the value of a run; None if it isn't known, and then the run isn't
                compared.

        Returns:
            The difference, or None if one of the groups has no value.
        """
        ours, theirs = _by_seed(group, value_of), _by_seed(baseline, value_of)
        if not (ours and theirs):
            return None
        shared = [seed for seed in ours if seed in theirs]
        paired = len(shared) > 1 or (len(shared) == 1 and 1 in (len(ours), len(theirs)))
        seeds, other_seeds = (shared, shared) if paired else (ours, theirs)
        values = [ours[seed] for seed in seeds]
        others = [theirs[seed] for seed in other_seeds]
        n = min(len(values), len(others))
        if paired:
            mean = fmean(a - b for a, b in zip(values, others, strict=True))
        else:
            mean = fmean(values) - fmean(others)
        interval = _interval(mean, values, others, paired) if n > 1 else None
        return cls(mean, interval, n, paired)

    def verdict(self, gain: Callable[[float], float]) -> str:
        """Return whether the difference is an improvement.

        Args:
            gain: maps a difference to a positive number if it is an improvement.

        Returns:
            "better" or "worse" if the interval leaves no other sign, "within noise" if it does,
            and "too few runs" if there is no interval.
        """
        if self.interval is None:
            return "too few runs"
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        return "better" if gain(self.mean) > 0 else "worse"


def _by_seed(group: Group, value_of: Callable[[LoadedRun], float | None]) -> dict[str, float]:
    values = {repr(run.seed): value_of(run) for run in group.counted}
    return {seed: value for seed, value in values.items() if value is not None}


def _interval(
    mean: float, values: Sequence[float], others: Sequence[float], paired: bool
) -> tuple[float, float] | None:
    """Return the confidence interval of the difference between two samples.

    Args:
        mean: the difference.
        values, others: the samples, of two values or more.
        paired: whether the values at the same position belong together.
    """
    samples = [[a - b for a, b in zip(values, others, strict=True)]] if paired else [values, others]
    if all(stdev(sample) < ROUNDING for sample in samples):
        # Nothing can be inferred from samples without any spread.
        return (mean, mean) if abs(mean) < ROUNDING else None
    # Importing scipy takes a second, which commands that compare nothing don't have to wait.
    from scipy.stats import ttest_ind, ttest_rel

    test = ttest_rel(values, others) if paired else ttest_ind(values, others, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)
