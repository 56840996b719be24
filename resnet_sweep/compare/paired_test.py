"""The difference between two groups of runs, paired by seed, with its confidence interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from resnet_sweep.compare.group import Group, ValueOf

CONFIDENCE = 0.95
# A standard deviation below this is rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MeanDifference:
    """The difference between the means of a value in two groups of runs.

    Attributes:
        mean: the difference.
        interval: 95% confidence interval of the difference by Student's t-test. None for single
            runs, and if all differences are equal but not 0, which happens on small test sets.
        n: number of pairs, or, for independent samples, number of runs in the smaller group.
        paired: whether runs with the same seed are compared.
    """

    mean: float
    interval: tuple[float, float] | None
    n: int
    paired: bool

    @classmethod
    def between(cls, group: Group, baseline: Group, value_of: ValueOf) -> "MeanDifference | None":
        """Return the mean value of a group minus that of a baseline.

        Runs with the same seed are trained on the same images in the same order. They are compared
        as pairs, over the seeds that both groups have, so that the influence of the seed cancels
        out. Groups that have no common seed, or only one although both have several, are compared
        as independent samples with unequal variances (Welch, 1947, "The generalization of Student's
        problem when several different population variances are involved").

        Returns:
            The difference; None if one of the groups has no value.
        """
        values, baseline_values = (
            {repr(run.seed): value for run in runs.counted if (value := value_of(run)) is not None}
            for runs in (group, baseline)
        )
        if not (values and baseline_values):
            return None
        shared = [seed for seed in values if seed in baseline_values]
        single = 1 in (len(values), len(baseline_values))
        paired = len(shared) > 1 or (len(shared) == 1 and single)
        samples = [[*values.values()], [*baseline_values.values()]]
        if paired:
            samples = [[values[seed] - baseline_values[seed] for seed in shared]]
        mean = fmean(samples[0]) - sum(map(fmean, samples[1:]))
        return cls(mean, _interval(mean, samples), min(map(len, samples)), paired)

    def verdict(self, gain: Callable[[float], float]) -> str:
        """Return whether the difference is an improvement.

        Args:
            gain: returns a positive number for a difference that is an improvement.

        Returns:
            "better" or "worse" if the interval doesn't contain 0, "within noise" if it does, and
            "too few runs" if there is no interval.
        """
        if self.interval is None:
            return "too few runs"
        low, high = self.interval
        if low <= 0 <= high:
            return "within noise"
        return "better" if gain(self.mean) > 0 else "worse"


def _interval(mean: float, samples: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the confidence interval of a sample's mean, or of the difference of two means."""
    if min(map(len, samples)) < 2:
        return None
    if all(stdev(sample) < ROUNDING for sample in samples):
        # Nothing can be inferred from samples without any variance.
        return (mean, mean) if abs(mean) < ROUNDING else None
    # This import takes a second, and commands that compare nothing don't need it.
    from scipy.stats import ttest_1samp, ttest_ind

    paired = len(samples) == 1
    test = ttest_1samp(*samples, 0) if paired else ttest_ind(*samples, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high)
