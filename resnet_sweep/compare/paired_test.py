"""The differences of variants from a baseline, paired by seed: their intervals and verdicts."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance
from typing import Any

from resnet_sweep.compare.group import Group, ValueOf
from resnet_sweep.compare.loaded_run import LoadedRun

# The probability that an interval doesn't contain the true difference, and the expected share of
# variants without effect among those that are called better or worse.
ERROR_RATE = 0.05
# A standard error below this is a rounding error.
ROUNDING = 1e-9


@dataclass(frozen=True)
class MeanDifference:
    """The difference between the means of a value in two groups of runs.

    Attributes:
        mean: the difference.
        standard_error: estimated standard deviation of `mean`. None for single runs, and if all
            differences are equal but not 0, which happens on small test sets.
        freedom: degrees of freedom of `standard_error`.
        n: number of pairs, or, for independent samples, number of runs in the smaller group.
        paired: whether runs with the same seed are compared.
        moderated: whether the standard error depends on other variants, see `moderate`.
    """

    mean: float
    standard_error: float | None
    freedom: float
    n: int
    paired: bool
    moderated: bool = False

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
        values, baseline_values = (_by_seed(runs, value_of) for runs in (group, baseline))
        if not (values and baseline_values):
            return None
        shared = [seed for seed in values if seed in baseline_values]
        single = 1 in (len(values), len(baseline_values))
        paired = len(shared) > 1 or (len(shared) == 1 and single)
        samples = [[*values.values()], [*baseline_values.values()]]
        if paired:
            samples = [[values[seed] - baseline_values[seed] for seed in shared]]
        mean = fmean(samples[0]) - sum(map(fmean, samples[1:]))
        error, freedom = _standard_error(samples)
        return cls(mean, _known(error, mean), freedom, min(map(len, samples)), paired)

    def interval(self, error_rate: float = ERROR_RATE) -> tuple[float, float] | None:
        """Return the confidence interval; None if there is no standard error.

        Args:
            error_rate: probability that the interval doesn't contain the true difference.
        """
        if self.standard_error is None:
            return None
        # Imported here because commands that compare nothing don't need it.
        from scipy.special import stdtrit

        half = float(stdtrit(self.freedom, 1 - error_rate / 2)) * self.standard_error
        return self.mean - half, self.mean + half

    @property
    def p_value(self) -> float | None:
        """The two-sided p value of no difference; None if there is no standard error."""
        if self.standard_error is None:
            return None
        if self.standard_error == 0:
            return 1.0
        from scipy.special import stdtr

        return float(2 * stdtr(self.freedom, -abs(self.mean) / self.standard_error))


def compare_with_baseline(
    groups: Sequence[Group], baseline: Group, value_of: ValueOf
) -> list[MeanDifference | None]:
    """Return the differences of several variants from one baseline.

    The mean differences are those of `MeanDifference.between`. A variant has none if it or the
    baseline has no complete run. The variants share their estimates of the noise, see
    `moderated_t.moderate`. These variants don't take part, and keep their own standard errors:
    variants with too few pairs, with diverged seeds, or with other data than the baseline.
    """
    differences = [
        MeanDifference.between(group, baseline, value_of)
        if group.complete and baseline.complete
        else None
        for group in groups
    ]
    if len(groups) < 2:
        return differences
    # Imported here because commands that compare nothing don't need it.
    import numpy as np

    from resnet_sweep.compare.moderated_t import MIN_SEEDS, MIN_VARIANTS, moderate

    members = [
        index
        for index, difference in enumerate(differences)
        if difference is not None
        and difference.paired
        and difference.n >= MIN_SEEDS
        and not groups[index].unstable
        and same_data(groups[index], baseline)
    ]
    if len(members) < MIN_VARIANTS:
        return differences
    rows = [_by_seed(group, value_of) for group in (baseline, *(groups[i] for i in members))]
    # A seed that the baseline lacks is in no pair.
    table = np.array([[row.get(seed, math.nan) for seed in rows[0]] for row in rows])
    for index, error, freedom, moderated in zip(members, *moderate(table), strict=True):
        own = differences[index]
        assert own is not None
        differences[index] = replace(
            own,
            standard_error=_known(float(error), own.mean),
            freedom=float(freedom),
            moderated=bool(moderated),
        )
    return differences


def verdicts(
    differences: Iterable[MeanDifference | None], gain: Callable[[float], float]
) -> list[str]:
    """Return the verdict on each difference: whether it is an improvement.

    The verdicts are those of the procedure of Benjamini and Hochberg (1995), "Controlling the false
    discovery rate: a practical and powerful approach to multiple testing": of the differences that
    are called better or worse, the expected share without effect is at most ERROR_RATE.

    Args:
        differences: the differences of variants from one baseline.
        gain: returns a positive number for a difference that is an improvement.

    Returns:
        "better", "worse" or "within noise", "too few runs" if there is no standard error, and ""
        for None.
    """
    compared = [*differences]
    p_values = [difference.p_value if difference else None for difference in compared]
    adjusted = iter(adjust_for_number([p for p in p_values if p is not None]))
    found = []
    for difference, p_value in zip(compared, p_values, strict=True):
        if difference is None:
            found.append("")
        elif p_value is None:
            found.append("too few runs")
        elif next(adjusted) > ERROR_RATE:
            found.append("within noise")
        else:
            found.append("better" if gain(difference.mean) > 0 else "worse")
    return found


def group_verdicts(
    groups: Sequence[Group],
    differences: Sequence[MeanDifference | None],
    gain: Callable[[float], float],
) -> list[str]:
    """Return the verdicts on variants, see `verdicts`; "unstable" if a seed diverged.

    An unstable variant isn't one of the comparisons.
    """
    stable = (
        None if group.unstable else difference
        for group, difference in zip(groups, differences, strict=True)
    )
    found = verdicts(stable, gain)
    return [
        "unstable" if group.unstable else verdict
        for group, verdict in zip(groups, found, strict=True)
    ]


def adjust_for_number(p_values: Sequence[float]) -> list[float]:
    """Return p values that are adjusted for their number by Benjamini and Hochberg's procedure."""
    if len(p_values) < 2:
        return [*p_values]
    # Imported here because it takes a second, and commands that compare nothing don't need it.
    from scipy.stats import false_discovery_control

    return [float(p_value) for p_value in false_discovery_control(p_values)]


def _by_seed(group: Group, value_of: ValueOf) -> Mapping[str, float]:
    return {repr(run.seed): value for run in group.counted if (value := value_of(run)) is not None}


def same_data(group: Group, baseline: Group) -> bool:
    """Return whether the runs of each pair have the same training and validation images."""
    data = {repr(run.seed): _images_of(run) for run in baseline.counted}
    return all(
        _images_of(run) == data[seed] for run in group.counted if (seed := repr(run.seed)) in data
    )


def _images_of(run: LoadedRun) -> tuple[Any, ...]:
    """Return the data of a run, and the settings that can change which of its images are used."""
    names = ("data.limit_train", "data.limit_test", "data.holdout")
    return run.record.fingerprint, *map(run.settings.get, names)


def _standard_error(samples: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Return the standard error and its degrees of freedom; both are nan for a single value."""
    if min(map(len, samples)) < 2:
        return math.nan, math.nan
    parts = [variance(sample) / len(sample) for sample in samples]
    denominator = sum(
        part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True)
    )
    # Satterthwaite's formula; with one sample, it gives the number of values minus 1.
    freedom = sum(parts) ** 2 / denominator if denominator > 0 else 1.0
    return math.sqrt(sum(parts)), freedom


def _known(standard_error: float, mean: float) -> float | None:
    """Return a standard error; None if nothing can be inferred from it."""
    if math.isnan(standard_error):
        return None
    if standard_error < ROUNDING:
        return 0.0 if abs(mean) < ROUNDING else None
    return standard_error
