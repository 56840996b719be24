"""The difference between two groups of runs, paired by seed, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from resnet_sweep.compare.group import Group, ValueOf

CONFIDENCE = 0.95
# A smaller standard deviation comes from rounding.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MeanDifference:
    """The difference between the means of a value in two groups of runs.

    Attributes:
        mean: the difference.
        interval: its 95% confidence interval by Student's t; None for single runs, and where all
            differences are equal but not 0, as happens on small test sets.
        n: the number of pairs; of independent samples, the smaller number of runs.
        paired: whether runs of the same seed are compared.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    paired: bool

    @classmethod
    def between(cls, group: Group, baseline: Group, value_of: ValueOf) -> "MeanDifference | None":
        """Return by how much a value of a group exceeds that of a baseline.

        Runs of the same seed see the same images in the same order. Their differences are tested as
        pairs, over the seeds that both groups have, so that what is common to a seed cancels out.
        Groups that share no seed, or only one of several, are compared as independent samples of
        unequal variances (Welch, "The generalization of Student's problem when several different
        population variances are involved", 1947). None if one of the groups has no value.
        """
        ours, theirs = (
            {repr(run.seed): value for run in of.counted if (value := value_of(run)) is not None}
            for of in (group, baseline)
        )
        if not (ours and theirs):
            return None
        shared = [seed for seed in ours if seed in theirs]
        paired = len(shared) > 1 or (len(shared) == 1 and 1 in (len(ours), len(theirs)))
        samples = [[*ours.values()], [*theirs.values()]]
        if paired:
            samples = [[ours[seed] - theirs[seed] for seed in shared]]
        mean = fmean(samples[0]) - sum(map(fmean, samples[1:]))
        return cls(mean, _interval(mean, samples), min(map(len, samples)), paired)

    def verdict(self, gain: Callable[[float], float]) -> str:
        """Return whether the difference is an improvement, for which `gain` returns a number > 0.

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


def _interval(mean: float, samples: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the confidence interval of the mean of a sample, or of the difference between two."""
    if min(map(len, samples)) < 2:
        return None
    if all(stdev(sample) < ROUNDING for sample in samples):
        # Nothing can be inferred from samples without any spread.
        return (mean, mean) if abs(mean) < ROUNDING else None
    # Importing scipy takes a second, which commands that compare nothing don't have to wait.
    from scipy.stats import ttest_1samp, ttest_ind

    paired = len(samples) == 1
    test = ttest_1samp(*samples, 0) if paired else ttest_ind(*samples, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)
