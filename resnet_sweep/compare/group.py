"""Runs that are put together, such as replicates, and the statistics of their figures."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import number

# The states of runs that trained as long as they were meant to.
COMPLETE = frozenset({"finished", "stopped_early"})


class Statistic(NamedTuple):
    """A figure over several runs.

    Attributes:
        mean: arithmetic.
        sd: standard deviation of the sample (over n - 1); None for a single run.
        n: how many runs it is of.
    """

    mean: float
    sd: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Statistic | None":
        """The statistic of the values that are known; None if none is."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        mean = math.fsum(known) / len(known)
        if len(known) == 1:
            return cls(mean, None, 1)
        spread = math.dist(known, [mean] * len(known))
        return cls(mean, spread / math.sqrt(len(known) - 1), len(known))


@dataclass(frozen=True)
class Group:
    """Runs that are put together.

    Attributes:
        entries: with sound records, newest first; at least one.
    """

    entries: Sequence[Entry]

    @cached_property
    def counted(self) -> list[Entry]:
        """The runs that figures are taken of: the complete ones, or all if none is.

        Of runs with the same settings and seed, which say the same twice, the newest counts.
        """
        complete = [entry for entry in self.entries if entry.state in COMPLETE]
        newest: dict[tuple[str, str], Entry] = {}
        for entry in complete or self.entries:
            newest.setdefault((entry.replicate_key, repr(entry.settings.get("seed"))), entry)
        return list(newest.values())

    def figure(self, of: Callable[[Entry], float | None]) -> Statistic | None:
        """The statistic of a figure over the runs that count."""
        return Statistic.of(map(of, self.counted))

    @property
    def complete(self) -> bool:
        """Whether there is a run that trained as long as it was meant to."""
        return any(entry.state in COMPLETE for entry in self.entries)

    @property
    def unstable(self) -> bool:
        """Whether a seed has diverged, so that the runs that count are the lucky ones."""
        counted = {repr(entry.settings.get("seed")) for entry in self.counted}
        return any(
            entry.state == "diverged" and repr(entry.settings.get("seed")) not in counted
            for entry in self.entries
        )

    @property
    def state(self) -> str:
        """The state that all are in, or how many are in each."""
        states = Counter(entry.state for entry in self.entries)
        if len(states) == 1:
            return self.entries[0].state
        return ", ".join(f"{count} {state}" for state, count in states.most_common())


def spread(statistic: Statistic | None, digits: int, unit: str = "") -> str:
    """A mean with the standard deviation, where there is one, or `unknown`."""
    if statistic is None or statistic.sd is None:
        return number(statistic and statistic.mean, digits, unit)
    return f"{number(statistic.mean, digits)} ± {number(statistic.sd, digits, unit)}"


def grouped(entries: Iterable[Entry], key: Callable[[Entry], Hashable]) -> list[Group]:
    """Put together the runs that have the same key; groups are in the order of their first runs."""
    groups: defaultdict[Any, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[key(entry)].append(entry)
    return [Group(members) for members in groups.values()]


def replicates(entries: Iterable[Entry]) -> list[Group]:
    """Put together the runs that differ only in their seeds."""
    return grouped(entries, lambda entry: entry.replicate_key)
