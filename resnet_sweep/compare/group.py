"""Groups of runs, for example replicates, and statistics of their values."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean, stdev
from typing import NamedTuple

from resnet_sweep.compare.format import format_number
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.signature import INIT_FROM

# States of runs that were trained to their end.
COMPLETE = frozenset({"finished", "stopped_early"})
# A path in which the seed occurs more often isn't compared with others.
MAX_GAPS = 6

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

    @cached_property
    def representative(self) -> LoadedRun:
        """The run whose settings are shown for the group.

        If each seed has starting weights of its own, it is the run with the lowest seed, so that
        the same path is shown for groups with the same weights. Otherwise, it is the newest run.
        """
        if len({run.replicate_key for run in self.runs}) == 1:
            return self.runs[0]
        return min(self.runs, key=lambda run: run.seed)

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

    @property
    def unstable(self) -> bool:
        """Whether there is a seed with a diverged run and without a complete run.

        The statistics of such a group look better than they are.
        """
        complete = {repr(run.seed) for run in self.runs if run.state in COMPLETE}
        return any(run.state == "diverged" and repr(run.seed) not in complete for run in self.runs)

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
    """Group runs that differ only in their seeds.

    Runs whose starting weights were made for their seeds differ in these, too: with
    `init_from=pretraining/${seed}`, the run with seed 1 starts from `pretraining/1`. They are
    grouped if the paths are equal apart from the seeds, and no seed has several starting weights.
    """
    runs = [*runs]
    shared = _shared_keys(runs)
    return group_by(runs, lambda run: shared.get(run.replicate_key, run.replicate_key))


def _shared_keys(runs: Iterable[LoadedRun]) -> dict[str, str]:
    """Map the replicate keys of runs with weights of their own for each seed to a common key."""
    by_weights: defaultdict[str, defaultdict[str, list[LoadedRun]]]
    by_weights = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if INIT_FROM in run.settings:
            by_weights[run.key_without_weights][run.replicate_key].append(run)
    shared: dict[str, str] = {}
    for common, starts in by_weights.items():
        # The weights that match a template, and their seed.
        matches: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for key, members in starts.items():
            if len({run.seed for run in members}) == 1:
                for template in _seed_templates(members[0]):
                    matches[template][key] = members[0].seed
        for template, seeds in sorted(matches.items(), key=lambda item: -len(item[1])):
            new = {key: seed for key, seed in seeds.items() if key not in shared}
            if 1 < len(new) == len({*new.values()}):
                shared |= dict.fromkeys(new, f"{common} {template}")
    return shared


def _seed_templates(run: LoadedRun) -> list[str]:
    """Return the path of the starting weights with the seed replaced, in each possible way.

    The path `runs/1/1` of a run with seed 1 may be that of `runs/1/${seed}`.
    """
    parts = re.split(rf"(?<!\d){run.seed}(?!\d)", str(run.config.get(INIT_FROM)))
    gaps = len(parts) - 1
    if not isinstance(run.seed, int) or not 0 < gaps <= MAX_GAPS:
        return []
    return [
        "".join(part + gap for part, gap in zip(parts, [*chosen, ""], strict=True))
        for chosen in product((str(run.seed), "${seed}"), repeat=gaps)
        if "${seed}" in chosen
    ]
