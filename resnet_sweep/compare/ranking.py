"""Rankings of groups of replicates: by an objective, or by their distances from references."""

import math
from collections.abc import Iterable, Mapping, Sequence

from resnet_sweep.compare.diff_columns import cells, variants
from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import format_table, reproduce_command, shown
from resnet_sweep.compare.group import (
    COMPLETE,
    Group,
    Statistic,
    replicates,
    spread,
)
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.objective import Objective, distance
from resnet_sweep.compare.paired_test import MeanDifference
from resnet_sweep.compare.runs_table import COLUMNS
from resnet_sweep.runs.metrics import Row


class Ranking:
    """The variants of a sweep, best first, and how each differs from the baseline.

    Args:
        runs: in any states; those that can't be read are left out.
        baseline: matches the runs that the others are compared with; None compares none.
        objective: what they are ranked by; None for the best validation accuracy.

    Attributes:
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
        for group in self.groups[:1]:
            if group.complete and self._statistic(group) is not None:
                return group
        return None

    @property
    def command(self) -> str | None:
        """The command that reproduces the best run of the best group; None if there is none."""
        if self.best is None:
            return None
        values = {run: self._values[run] for run in self.best.counted}
        gains = {run: self.objective.gain(v) for run, v in values.items() if v is not None}
        return reproduce_command(max(gains, key=gains.__getitem__).record)

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first, for a terminal of a width, if any."""
        columns = cells(variants([group.runs[0] for group in self.groups]))
        left = len(columns)
        columns.append(COLUMNS["n"].cells(self.groups))
        if self.objective.name != "val_acc":
            digits = self.objective.digits
            values = [spread(self._statistic(group), digits) for group in self.groups]
            columns.append([self.objective.title, *values])
        columns += [COLUMNS[name].cells(self.groups) for name in ("best", "final", "seconds")]
        right = range(left, len(columns))
        if self.baseline is not None:
            columns += [
                ["difference", *map(self._difference, self.effects)],
                ["verdict", *map(self.verdict, self.groups, self.effects)],
            ]
        if any(group.state not in COMPLETE for group in self.groups):
            columns.append(COLUMNS["state"].cells(self.groups))
        return format_table([*zip(*columns, strict=True)], right, width)

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
        """Return in words what the effect of a group means.

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


class NearestRuns:
    """Groups of replicates in the order of their distances from some references, nearest first.

    Args:
        runs: the candidates; those that can't be read are left out.
        references: curves, see `read_reference`, by the names that the table gives them.

    Attributes:
        groups: by the distance from the nearest reference; those without a complete run come last.
        distances: the distances of the groups from each reference, None where it isn't known.
    """

    def __init__(
        self, runs: Iterable[LoadedRun | BrokenRun], references: Mapping[str, Sequence[Row]]
    ) -> None:
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        self._values = {
            name: {run: distance(run.metrics.rows, rows) for run in loaded}
            for name, rows in references.items()
        }
        self.groups = self._sorted(replicates(loaded), *references)
        self.distances = {
            name: [self._distance(group, name) for group in self.groups] for name in references
        }

    def ranked(self, reference: str) -> list[Group]:
        """Return the groups in the order of their distances from one of the references."""
        return self._sorted(self.groups, reference)

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first, for a terminal of a width, if any."""
        columns = [
            [shown(name), *(spread(distance, 2) for distance in distances)]
            for name, distances in self.distances.items()
        ]
        columns.append(COLUMNS["n"].cells(self.groups))
        columns.append(["epochs", *map(_epochs_of, self.groups)])
        right = range(len(columns))
        columns += cells(variants([group.runs[0] for group in self.groups]))
        columns.append(["run", *(shown(group.counted[0].name) for group in self.groups)])
        return format_table([*zip(*columns, strict=True)], right, width)

    def _distance(self, group: Group, reference: str) -> Statistic | None:
        return group.statistic(self._values[reference].__getitem__)

    def _sorted(self, groups: Iterable[Group], *references: str) -> list[Group]:
        def order(group: Group) -> tuple[bool, float]:
            found = (self._distance(group, reference) for reference in references)
            means = (statistic.mean for statistic in found if statistic is not None)
            return not group.complete, min(means, default=math.inf)

        return sorted(groups, key=order)


def _epochs_of(group: Group) -> str:
    """Return how many epochs the counted runs have, which limits what is compared."""
    counts = {len(run.metrics.rows) for run in group.counted}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
