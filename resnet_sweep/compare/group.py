"""Groups of runs, such as replicates, and the statistics of their values."""

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
