"""Groups of runs, such as replicates: the statistics of their values, and how two groups differ."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import NamedTuple

from resnet_sweep.compare.format import number
from resnet_sweep.compare.loaded_run import LoadedRun

# The states of runs that were trained as long as was asked for.
COMPLETE = frozenset({"finished", "stopped_early"})
CONFIDENCE = 0.95
# A smaller standard deviation comes from rounding.
ROUNDING = 1e-9

# Returns a value of a run; None if it isn't known.
ValueOf = Callable[[LoadedRun], float | None]


class Statistic(NamedTuple):
    """Mean of a value over n runs, and its standard deviation (over n - 1), None if n is 1."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Statistic | None":
        """Return the statistic of the values that are known; None if none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Group:
    """Runs that are shown as one row of a table: newest first, at least one."""

    runs: Sequence[LoadedRun]

    @cached_property
    def counted(self) -> list[LoadedRun]:
        """The runs that statistics are taken over: the complete ones, or all if none is.

        Of runs with the same settings and seed, which repeat each other, only the newest counts.
        """
        complete = [run for run in self.runs if run.state in COMPLETE]
        newest: dict[tuple[str, str], LoadedRun] = {}
        for run in complete or self.runs:
            newest.setdefault((run.replicate_key, repr(run.seed)), run)
        return list(newest.values())

    def statistic(self, value_of: ValueOf) -> Statistic | None:
        """Return the statistic of a value over the counted runs; None if no run has it."""
        return Statistic.of(map(value_of, self.counted))

    @property
    def complete(self) -> bool:
        """Whether any run was trained as long as was asked for."""
        return any(run.state in COMPLETE for run in self.runs)

    @property
    def unstable(self) -> bool:
        """Whether a seed has diverged, so that the counted runs are a favorable selection."""
        counted = {repr(run.seed) for run in self.counted}
        return any(run.state == "diverged" and repr(run.seed) not in counted for run in self.runs)

    @property
    def state(self) -> str:
        """The state of all runs, or the number of runs in each state."""
        first, *others = Counter(run.state for run in self.runs).most_common()
        return ", ".join(f"{n} {state}" for state, n in (first, *others)) if others else first[0]


def spread(statistic: Statistic | None, digits: int, unit: str = "") -> str:
    """Return a mean with its standard deviation, where there is one, or `unknown`."""
    if statistic is None:
        return "unknown"
    if statistic.sd is None:
        return number(statistic.mean, digits, unit)
    return f"{number(statistic.mean, digits)} ± {number(statistic.sd, digits, unit)}"


def grouped(runs: Iterable[LoadedRun], key: Callable[[LoadedRun], Hashable]) -> list[Group]:
    """Group the runs that have the same key; the groups are in the order of their first runs."""
    groups: defaultdict[Hashable, list[LoadedRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return [Group(members) for members in groups.values()]


def replicates(runs: Iterable[LoadedRun]) -> list[Group]:
    """Group the runs that differ only in their seeds."""
    return grouped(runs, lambda run: run.replicate_key)


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
