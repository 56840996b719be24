"""Groups of runs, for example replicates, and statistics of their values."""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import NamedTuple

from resnet_sweep.compare.format import format_number
from resnet_sweep.compare.loaded_run import LoadedRun

# States of runs that were trained to their end.
COMPLETE = frozenset({"finished", "stopped_early"})

# Returns a value of a run; None if it is unknown.
ValueOf = Callable[[LoadedRun], float | None]


class Statistic(NamedTuple):
    """Mean and sample standard deviation of a value over n runs; `sd` is None if n is 1."""

    mean: float
    sd: float | None
    n: int

    @classmethod
    def from_values(cls, values: Iterable[float | None]) -> "Statistic | None":
        """Return the statistic of the values that aren't None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(fmean(known), stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Group:
    """One or more runs that are shown as one row of a table, newest first."""

    runs: Sequence[LoadedRun]

    @cached_property
    def counted(self) -> list[LoadedRun]:
        """The runs that statistics include: the complete runs, or all runs if none is complete.

        Of several runs with the same settings and seed, only the newest one is included.
        """
        complete = [run for run in self.runs if run.state in COMPLETE]
        newest: dict[tuple[str, str], LoadedRun] = {}
        for run in complete or self.runs:
            newest.setdefault((run.replicate_key, repr(run.seed)), run)
        return list(newest.values())

    def statistic(self, value_of: ValueOf) -> Statistic | None:
        """Return the statistic of a value over the counted runs; None if it is unknown for all."""
        return Statistic.from_values(map(value_of, self.counted))

    @property
    def complete(self) -> bool:
        """Whether any run is complete."""
        return any(run.state in COMPLETE for run in self.runs)

    @property
    def reused(self) -> int:
        """The number of runs that were trained in another directory."""
        return sum(run.record.reused_from is not None for run in self.runs)

    @cached_property
    def tags(self) -> list[str]:
        """The tags of all runs, sorted."""
        return sorted({tag for run in self.runs for tag in run.annotation.tags})

    @cached_property
    def notes(self) -> list[str]:
        """The different notes in the annotations of the runs."""
        return [*dict.fromkeys(run.annotation.note for run in self.runs if run.annotation.note)]

    @property
    def unstable(self) -> bool:
        """Whether there is a seed with a diverged run and without a counted run.

        The statistics of such a group look better than they are.
        """
        counted = {repr(run.seed) for run in self.counted}
        return any(run.state == "diverged" and repr(run.seed) not in counted for run in self.runs)

    @property
    def state(self) -> str:
        """The state of the runs if it is the same, or else the number of runs in each state."""
        first, *others = Counter(run.state for run in self.runs).most_common()
        return ", ".join(f"{n} {state}" for state, n in (first, *others)) if others else first[0]


def format_mean_sd(statistic: Statistic | None, digits: int, unit: str = "") -> str:
    """Format a mean and, if there is one, its standard deviation; None is `unknown`."""
    if statistic is None:
        return "unknown"
    if statistic.sd is None:
        return format_number(statistic.mean, digits, unit)
    return f"{format_number(statistic.mean, digits)} ± {format_number(statistic.sd, digits, unit)}"


def group_by(runs: Iterable[LoadedRun], key: Callable[[LoadedRun], Hashable]) -> list[Group]:
    """Group runs by a key; the groups are in the order of their first runs."""
    groups: defaultdict[Hashable, list[LoadedRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return [Group(members) for members in groups.values()]


def group_replicates(runs: Iterable[LoadedRun]) -> list[Group]:
    """Group runs that differ only in their seeds."""
    return group_by(runs, lambda run: run.replicate_key)
