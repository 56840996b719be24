"""The variants of a sweep, best first, and how each differs from the baseline."""

import math
from collections.abc import Callable, Sequence

from resnet_sweep.compare.diff_columns import MISSING, variants
from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import format_table, reproduce_command, shown, span
from resnet_sweep.compare.group import COMPLETE, Group, Statistic, replicates, spread
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import MeanDifference


class Ranking:
    """Groups of replicates in the order of an objective.

    Args:
        runs: in any states; those that can't be read are left out.
        baseline: matches the runs that the others are compared with; None compares none.
        objective: what they are ranked by; None for the best validation accuracy.

    Attributes:
        objective: as above.
        groups: best first, by the mean over the counted runs; those without a complete run come
            last.
        baseline: the group that the others are compared with; None if not exactly one matches.
        effects: the difference of each group from the baseline; None where one of both has no
            complete run, and of the baseline itself.
    """

    def __init__(
        self,
        runs: Sequence[LoadedRun | BrokenRun],
        baseline: FilterExpression | None = None,
        objective: Objective | None = None,
    ) -> None:
        self.objective = objective or Objective()
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        self._broken = len(runs) - len(loaded)
        self._values = {run: self.objective.value(run) for run in loaded}
        self.groups = sorted(replicates(loaded), key=self._order)
        self._expression = baseline
        self._matching = [
            group
            for group in self.groups
            if baseline is not None and any(baseline.matches(run_fields(run)) for run in group.runs)
        ]
        self.baseline = self._matching[0] if len(self._matching) == 1 else None
        self.effects = [self._effect(group) for group in self.groups]

    @property
    def best(self) -> Group | None:
        """The first group, if it has a complete run and a value."""
        first = self.groups[0] if self.groups else None
        if first is None or not first.complete or self._statistic(first) is None:
            return None
        return first

    @property
    def command(self) -> str | None:
        """The command that reproduces the best run of the best group; None if there is none."""
        if self.best is None:
            return None
        gains = [
            (self.objective.gain(value), run)
            for run in self.best.counted
            if (value := self._values[run]) is not None
        ]
        _, best = max(gains, key=lambda pair: pair[0])
        return reproduce_command(best.record)

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first.

        Args:
            width: of the terminal; None if there is none.
        """
        columns = [
            [shown(name), *("" if value is MISSING else shown(value) for value in values)]
            for name, values in variants([group.runs[0] for group in self.groups]).items()
        ]
        left = len(columns)
        columns.append(["n", *(str(len(group.counted)) for group in self.groups)])
        if self.objective.name != "val_acc":
            values = [
                spread(self._statistic(group), self.objective.digits) for group in self.groups
            ]
            columns.append([self.objective.title, *values])
        columns += [
            ["best", *(_accuracy(group, lambda run: run.best_accuracy) for group in self.groups)],
            ["final", *(_accuracy(group, lambda run: run.final_accuracy) for group in self.groups)],
            ["time", *map(_time, self.groups)],
        ]
        right = range(left, len(columns))
        if self.baseline is not None:
            columns += [
                ["difference", *map(self._difference, self.effects)],
                ["verdict", *map(self.verdict, self.groups, self.effects)],
            ]
        if any(group.state not in COMPLETE for group in self.groups):
            columns.append(["state", *(shown(group.state) for group in self.groups)])
        return format_table(list(zip(*columns, strict=True)), right, width)

    def notes(self) -> list[str]:
        """Return what has to be known to read the table, a sentence each."""
        effects = [effect for effect in self.effects if effect is not None]
        measured = [effect for effect in effects if effect.interval is not None]
        notes = []
        if self._broken:
            notes.append(f"left out because they can't be read: {self._broken} runs")
        if self._expression is not None and self.baseline is None:
            count = len(self._matching)
            notes.append(
                f"nothing is compared, because baseline={shown(self._expression.text)} matches "
                + (f"{count} variants instead of one" if count else "none of the runs")
            )
        elif self.baseline is not None and not self.baseline.complete:
            notes.append("nothing is compared yet, because the baseline has no complete run")
        if measured:
            notes.append(
                "differences are means over the seeds that both have, with a 95% interval; of 20 "
                "variants without any effect, one looks better or worse"
            )
        if not all(effect.paired for effect in effects):
            notes.append(
                "where a variant shares no two seeds with the baseline, the difference is that of "
                "the means"
            )
        if len(measured) < len(effects):
            notes.append(
                "too few runs to distinguish a difference from noise: train replicates=3 or more"
            )
        if effects and any(group.unstable for group in self.groups):
            notes.append(
                "seeds of a variant diverged: its values are those of the other seeds, so that it "
                "looks better than it is"
            )
        return notes

    def verdict(self, group: Group, effect: MeanDifference | None) -> str:
        """Return what an effect means in words.

        Args:
            group, effect: entries of `groups` and `effects` at the same position.

        Returns:
            "baseline", "unstable" for a variant with seeds that diverged, what
            `MeanDifference.verdict` returns, or "" if there is no effect.
        """
        if group is self.baseline:
            return "baseline"
        if effect is not None and group.unstable:
            return "unstable"
        return effect.verdict(self.objective.gain) if effect else ""

    def _order(self, group: Group) -> tuple[bool, float]:
        statistic = self._statistic(group)
        gain = self.objective.gain(statistic.mean) if statistic else -math.inf
        return not group.complete, -gain

    def _statistic(self, group: Group) -> Statistic | None:
        return group.statistic(self._values.__getitem__)

    def _effect(self, group: Group) -> MeanDifference | None:
        baseline = self.baseline
        if baseline is None or group is baseline or not (group.complete and baseline.complete):
            return None
        return MeanDifference.between(group, baseline, self._values.__getitem__)

    def _difference(self, effect: MeanDifference | None) -> str:
        if effect is None:
            return ""
        ends = ", ".join(map(self.objective.difference, effect.interval or ()))
        return self.objective.difference(effect.mean) + (f" [{ends}]" if ends else "")


def _accuracy(group: Group, value_of: Callable[[LoadedRun], float | None]) -> str:
    return spread(group.statistic(value_of), 2, "%")


def _time(group: Group) -> str:
    seconds = group.statistic(lambda run: run.record.seconds)
    return span(seconds and seconds.mean)
