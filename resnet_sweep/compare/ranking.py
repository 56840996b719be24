"""The variants of a sweep, best first, and what each did to the baseline."""

import math
from collections.abc import Callable, Sequence

from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.content import repeating_command
from resnet_sweep.compare.effect import Effect
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.facts import facts
from resnet_sweep.compare.group import COMPLETE, Group, Statistic, replicates, spread
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.table import lay_out
from resnet_sweep.compare.text import shown, span
from resnet_sweep.compare.varying import ABSENT, variants


class Ranking:
    """Groups of replicates in the order of what they are judged by.

    Args:
        entries: of the runs, in any states; those that can't be read are left out.
        baseline: that holds for the runs which the others are compared with; None compares none.
        objective: what they are judged by; None for the best validation accuracy.

    Attributes:
        objective: as above.
        groups: best first, by the mean over the runs that count; those without a complete run last.
        baseline: the group that the others are compared with; None if there is no such one.
        effects: what each group did to the baseline; None where one of both has no complete run,
            and of the baseline itself.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        baseline: Condition | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.objective = objective or Objective()
        sound = [entry for entry in entries if entry.record is not None]
        self._damaged = len(entries) - len(sound)
        self._values = {entry: self.objective.value(entry) for entry in sound}
        self.groups = sorted(replicates(sound), key=self._order)
        self._condition = baseline
        self._matching = [
            group
            for group in self.groups
            if baseline is not None and any(baseline.holds(facts(run)) for run in group.entries)
        ]
        self.baseline = self._matching[0] if len(self._matching) == 1 else None
        self.effects = [self._effect(group) for group in self.groups]

    @property
    def best(self) -> Group | None:
        """The first group, if it has a complete run."""
        first = self.groups[0] if self.groups else None
        known = first is not None and self._statistic(first) is not None
        return first if known and first.complete else None

    @property
    def command(self) -> str | None:
        """What trains the best run of the best group once more; None if there is none."""
        if self.best is None:
            return None
        known = [entry for entry in self.best.counted if self._values[entry] is not None]
        best = max(known, key=lambda entry: self.objective.gain(self._values[entry]))
        return repeating_command(best.record)

    def lines(self, width: int | None) -> list[str]:
        """The table for people.

        Args:
            width: of the terminal; None if there is none.

        Returns:
            The header and each group as text, of a line or several.
        """
        columns = [
            [shown(name), *("" if value is ABSENT else shown(value) for value in values)]
            for name, values in variants([group.entries[0] for group in self.groups]).items()
        ]
        left = len(columns)
        columns.append(["n", *(str(len(group.counted)) for group in self.groups)])
        if self.objective.name != "val_acc":
            columns.append([self.objective.title, *map(self._judged, self.groups)])
        columns += [
            ["best", *(_accuracy(group, _best) for group in self.groups)],
            ["final", *(_accuracy(group, _final) for group in self.groups)],
            ["time", *map(_time, self.groups)],
        ]
        right = frozenset(range(left, len(columns)))
        if self.baseline is not None:
            columns += [
                ["difference", *map(self._difference, self.effects)],
                ["verdict", *map(self.verdict, self.groups, self.effects)],
            ]
        if any(group.state not in COMPLETE for group in self.groups):
            columns.append(["state", *(shown(group.state) for group in self.groups)])
        return lay_out(list(zip(*columns, strict=True)), right, width)

    def notes(self) -> list[str]:
        """What a reader of the table should know, a sentence each."""
        effects = [effect for effect in self.effects if effect is not None]
        measured = [effect for effect in effects if effect.interval is not None]
        found = []
        if self._damaged:
            found.append(f"runs that can't be read, and are left out: {self._damaged}")
        if self._condition is not None and self.baseline is None:
            count = len(self._matching)
            found.append(
                f"nothing is compared, since baseline={shown(self._condition.text)} holds for "
                + (f"{count} variants instead of one" if count else "none of the runs")
            )
        elif self.baseline is not None and not self.baseline.complete:
            found.append("nothing is compared yet, since the baseline has no complete run")
        if measured:
            found.append(
                "differences are means over the seeds that both have, with a 95% interval; of 20 "
                "variants without any effect, one looks better or worse"
            )
        if not all(effect.paired for effect in effects):
            found.append(
                "where a variant shares no two seeds with the baseline, the difference is that of "
                "means"
            )
        if len(measured) < len(effects):
            found.append("too few runs to tell a difference from noise: replicates=3 can")
        if effects and any(group.unstable for group in self.groups):
            found.append(
                "seeds of a variant diverged: its figures are those of the seeds that didn't, so "
                "that it looks better than it is"
            )
        return found

    def _order(self, group: Group) -> tuple[bool, float]:
        statistic = self._statistic(group)
        gain = self.objective.gain(statistic.mean) if statistic else -math.inf
        return not group.complete, -gain

    def _statistic(self, group: Group) -> Statistic | None:
        return group.figure(self._values.get)

    def _effect(self, group: Group) -> Effect | None:
        compared = self.baseline is not None and group is not self.baseline
        if compared and group.complete and self.baseline.complete:
            return Effect.between(group, self.baseline, self._values.get)
        return None

    def _judged(self, group: Group) -> str:
        return spread(self._statistic(group), self.objective.digits)

    def _difference(self, effect: Effect | None) -> str:
        if effect is None:
            return ""
        ends = effect.interval or ()
        interval = ", ".join(self.objective.difference(end) for end in ends)
        return self.objective.difference(effect.mean) + (f" [{interval}]" if interval else "")

    def verdict(self, group: Group, effect: Effect | None) -> str:
        """In words what an effect comes to.

        Args:
            group, effect: of `groups` and `effects`, at one place.

        Returns:
            "baseline", "unstable" of a variant with seeds that diverged, what `Effect.verdict`
            says, or nothing where there is no effect.
        """
        if group is self.baseline:
            return "baseline"
        if effect is not None and group.unstable:
            return "unstable"
        return effect.verdict(self.objective.gain) if effect else ""


def _best(entry: Entry) -> float | None:
    return entry.record.best and entry.record.best["val_acc"]


def _final(entry: Entry) -> float | None:
    return entry.record.final and entry.record.final["val_acc"]


def _accuracy(group: Group, of: Callable[[Entry], float | None]) -> str:
    return spread(group.figure(of), 2, "%")


def _time(group: Group) -> str:
    seconds = group.figure(lambda entry: entry.record.seconds)
    return span(seconds and seconds.mean)
