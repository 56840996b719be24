"""Rankings of groups of replicates, by an objective or by the distance from references."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from resnet_sweep.compare.collection import Definition
from resnet_sweep.compare.diff_columns import cells, variants
from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import format_table, reproduce_command, safe_text
from resnet_sweep.compare.group import (
    COMPLETE,
    Group,
    Statistic,
    format_mean_sd,
    group_replicates,
)
from resnet_sweep.compare.html import html_lines, html_table
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, metrics_of
from resnet_sweep.compare.objective import Objective, distance
from resnet_sweep.compare.paired_test import (
    ERROR_RATE,
    MeanDifference,
    compare_with_baseline,
    group_verdicts,
    same_data,
)
from resnet_sweep.compare.replication import UNDECIDED, ReplicationRule
from resnet_sweep.compare.runs_table import COLUMNS
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import ENDED


class Ranking:
    """The variants of a sweep, best first, with their differences from a baseline.

    Args:
        runs: runs in any state; broken runs are left out.
        baseline: a condition. A variant matches it if one of its runs meets it. With None, nothing
            is compared.
        objective: value by which the variants are ranked; None for the best validation accuracy.
        rule: decides the verdicts of a sweep with `replicates=auto`; None for a sweep whose number
            of seeds was chosen in advance.

    Attributes:
        groups: the variants, sorted by their means over `Group.counted`, best first. Variants
            without a complete run come last.
        baseline: the variant with which the others are compared; None unless exactly one matches.
        differences: for each variant, its difference from the baseline. An entry is None for the
            baseline itself, and if the variant or the baseline has no complete run or no value of
            the objective.
        verdicts: for each variant, "baseline", "better", "worse", "within noise", "too few runs"
            or "unstable", see `paired_test.group_verdicts`; "" for another one without a
            difference. With a rule, those of `ReplicationRule.verdicts`.
    """

    def __init__(
        self,
        runs: Sequence[LoadedRun | BrokenRun],
        baseline: FilterExpression | None = None,
        objective: Objective | None = None,
        rule: ReplicationRule | None = None,
    ) -> None:
        self.objective, self.rule = objective or Objective(), rule
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        self._broken = len(runs) - len(loaded)
        self._values = {run: self.objective.value(run) for run in loaded}
        self.groups = sorted(group_replicates(loaded), key=self._order)
        self._expression = baseline
        self._matching = [
            group
            for group in self.groups
            if baseline is not None and any(baseline.matches(run_fields(run)) for run in group.runs)
        ]
        self.baseline = self._matching[0] if len(self._matching) == 1 else None
        self.differences = self._differences()
        self.verdicts = self._verdicts()

    @property
    def mismatch(self) -> str | None:
        """Why nothing is compared, a clause, if not exactly one variant is the baseline."""
        if self._expression is None or self.baseline is not None:
            return None
        count = len(self._matching)
        found = f"{count} variants instead of one" if count else "none of the runs"
        return f"baseline={safe_text(self._expression.text)} matches {found}"

    @property
    def best(self) -> Group | None:
        """The best group; None if no group has a complete run and a value."""
        for group in self.groups[:1]:
            if group.complete and self._statistic(group) is not None:
                return group
        return None

    @property
    def best_run(self) -> LoadedRun | None:
        """The best run of the best group; None if `best` is None."""
        if self.best is None:
            return None
        values = {run: self._values[run] for run in self.best.counted}
        gains = {run: self.objective.gain(v) for run, v in values.items() if v is not None}
        return max(gains, key=gains.__getitem__)

    @property
    def command(self) -> str | None:
        """The command that reproduces `best_run`; None if it is None."""
        return None if self.best_run is None else reproduce_command(self.best_run.record)

    def rows(self) -> list[list[str]]:
        """Return the cells of the table, header first."""
        return self._rows()[0]

    def lines(self, width: int | None) -> list[str]:
        """Return the rows of the table as text, header first, see `format_table`."""
        rows, right = self._rows()
        return format_table(rows, right, width)

    def __str__(self) -> str:
        return "\n".join(self.lines(None))

    def _repr_html_(self) -> str:
        return html_table(*self._rows()) + html_lines(self.notes())

    def _rows(self) -> tuple[list[list[str]], range]:
        """Return the cells of the table, header first, and the positions of columns of numbers."""
        columns = cells(variants([group.representative for group in self.groups]))
        left = len(columns)
        columns.append(COLUMNS["n"].cells(self.groups))
        if self.objective.name != "val_acc":
            digits, unit = self.objective.digits, self.objective.unit
            values = [format_mean_sd(self._statistic(group), digits, unit) for group in self.groups]
            columns.append([self.objective.title, *values])
        columns += [COLUMNS[name].cells(self.groups) for name in ("best", "final", "seconds")]
        right = range(left, len(columns))
        if self.baseline is not None:
            columns += [
                ["difference", *map(self._format_difference, self.differences)],
                ["verdict", *self.verdicts],
            ]
        if any(group.state not in COMPLETE for group in self.groups):
            columns.append(COLUMNS["state"].cells(self.groups))
        return [list(row) for row in zip(*columns, strict=True)], right

    def notes(self) -> list[str]:
        """Return remarks that help to read the table, one sentence each."""
        differences = [difference for difference in self.differences if difference is not None]
        compared = [group for group in self.groups if group.complete]
        measured = [found for found in differences if found.standard_error is not None]
        notes = []
        if self._broken:
            notes.append(f"number of runs left out because they can't be read: {self._broken}")
        if self.mismatch is not None:
            notes.append(f"nothing is compared, because {self.mismatch}")
        elif self.baseline is not None and not self.baseline.complete:
            notes.append("nothing is compared yet, because the baseline has no complete run")
        if measured:
            paired = any(difference.paired for difference in measured)
            kind = "are means over the seeds shared with the baseline, with" if paired else "have"
            rate = self.rule.level if self.rule else ERROR_RATE
            number = len(self.rule.looks) if self.rule else 1
            looks = f" over all {number} readings" if number > 1 else ""
            notes.append(f"differences {kind} a {100 * (1 - rate):.5g}% confidence interval{looks}")
            notes.extend(self._describe_noise(measured))
        judged = [
            difference
            for difference, group in zip(self.differences, self.groups, strict=True)
            if difference is not None
            and difference.standard_error is not None
            and not group.unstable
        ]
        if len(judged) > 1:
            notes.append(
                f"verdicts allow for the {len(judged)} comparisons: at most 5% of the variants "
                "that are called better or worse are expected to have no effect, so an interval "
                f"without 0 may be {'undecided' if self.rule else 'within noise'}"
            )
        if not all(difference.paired for difference in differences):
            notes.append(
                "if a variant shares no seed with the baseline, or only one although both have "
                "several, the difference is the difference of the means over all seeds"
            )
        if others := sum(
            difference is not None and not same_data(group, self.baseline)
            for group, difference in zip(self.groups, self.differences, strict=True)
            if self.baseline is not None
        ):
            notes.append(
                f"number of variants with other data than the baseline: {others}; a part of their "
                "differences is due to the data"
            )
        if measured and len({frozenset(map(_seed, group.counted)) for group in compared}) > 1:
            notes.append(
                "the means of the variants are over different seeds, so compare the variants by "
                "their differences"
            )
        if len(measured) < len(differences):
            notes.append(
                "too few runs to distinguish a difference from noise: train replicates=3 or more"
            )
        if differences and any(group.unstable for group in self.groups):
            notes.append(
                "a variant is unstable if one of its seeds diverged: its values are means over "
                "the other seeds, so it looks better than it is"
            )
        return notes

    def _describe_noise(self, measured: Sequence[MeanDifference]) -> Iterator[str]:
        """Yield which estimate of the noise the intervals use."""
        own = sum(not difference.moderated for difference in measured)
        if not own:
            yield "the intervals use the noise of all variants (moderated t)"
        elif own < len(measured):
            yield (
                f"{len(measured) - own} intervals use the noise of all variants (moderated t), and "
                f"{own} only the noise of the variant and the baseline (t), because it is larger "
                "than that of the others, because there are fewer than 3 pairs, because a seed "
                "diverged, or because the data differ"
            )

    def _order(self, group: Group) -> tuple[bool, float]:
        statistic = self._statistic(group)
        gain = self.objective.gain(statistic.mean) if statistic else -math.inf
        return not group.complete, -gain

    def _statistic(self, group: Group) -> Statistic | None:
        return group.statistic(self._values.__getitem__)

    def _differences(self) -> list[MeanDifference | None]:
        baseline = self.baseline
        if baseline is None:
            return [None] * len(self.groups)
        variants = [group for group in self.groups if group is not baseline]
        found = iter(compare_with_baseline(variants, baseline, self._values.__getitem__))
        return [None if group is baseline else next(found) for group in self.groups]

    def _verdicts(self) -> list[str]:
        if self.baseline is None:
            return [""] * len(self.groups)
        if self.rule is None:
            found = group_verdicts(self.groups, self.differences, self.objective.gain)
        else:
            found = self.rule.verdicts(self.groups, self.differences, self.objective.gain)
        return [
            "baseline" if group is self.baseline else verdict
            for group, verdict in zip(self.groups, found, strict=True)
        ]

    def _format_difference(self, difference: MeanDifference | None) -> str:
        if difference is None:
            return ""
        error_rate = self.rule.error_rate if self.rule else ERROR_RATE
        return self.objective.format_interval(difference.mean, difference.interval(error_rate))


def _seed(run: LoadedRun) -> str:
    return repr(run.seed)


def rank(
    runs: Sequence[LoadedRun | BrokenRun],
    baseline: FilterExpression | None,
    objective: Objective,
    rule: ReplicationRule | None,
) -> Ranking:
    """Return the ranking of a sweep; the arguments are those of `Ranking`.

    With a rule, the differences contain all seeds, and the verdicts are those of the looks: a
    verdict stays as it was decided, although other variants got more seeds later. A variant without
    a look is undecided, unless a seed diverged.
    """
    ranking = Ranking(runs, baseline, objective, rule)
    if rule is None:
        return ranking
    loaded = [run for run in runs if isinstance(run, LoadedRun) and isinstance(run.seed, int)]
    first = min((run.seed for run in loaded), default=0)
    found: dict[LoadedRun, str] = {}

    def verdict_on(group: Group, default: str = UNDECIDED) -> str:
        return next((found[run] for run in group.runs if run in found), default)

    for count in rule.looks:
        look = Ranking(
            [run for run in loaded if run.seed < first + count], baseline, objective, rule
        )
        if look.baseline is None or not _has_ended(look.baseline, count):
            break
        for group, verdict in zip(look.groups, look.verdicts, strict=True):
            if verdict_on(group) == UNDECIDED and _has_ended(group, count):
                found |= dict.fromkeys(group.runs, verdict)
    # These verdicts don't depend on the differences.
    fixed = ("", "baseline", "unstable")
    ranking.verdicts = [
        verdict_on(group, verdict if verdict in fixed else UNDECIDED)
        for group, verdict in zip(ranking.groups, ranking.verdicts, strict=True)
    ]
    return ranking


def _has_ended(group: Group, count: int) -> bool:
    """Return whether the runs of `count` seeds of a group have ended."""
    return len({run.seed for run in group.runs if run.state in ENDED}) >= count


def rank_sweep(definition: Definition, runs: Sequence[LoadedRun | BrokenRun]) -> Ranking:
    """Return the ranking of the runs of a sweep, with its baseline, objective and rule.

    Raises:
        ConfigError: the baseline or the objective isn't valid.
    """
    baseline = None if definition.baseline is None else FilterExpression(definition.baseline)
    objective = Objective.from_config(definition.settings, metrics_of(runs))
    rule = None
    if (found := definition.replication) is not None:
        rule = ReplicationRule(found.maximum, found.margin, level=found.level)
    return rank(runs, baseline, objective, rule)


class NearestRuns:
    """Groups of replicates, sorted by their distance from the nearest of some references.

    Args:
        runs: runs to rank; broken runs are left out.
        references: maps the name of a reference in the table to its rows of metrics, as
            `read_reference` returns them.

    Attributes:
        groups: groups of replicates, nearest first. Groups without a complete run come last.
        distances: distances of the groups from each reference; None if a distance is unknown.
    """

    def __init__(
        self, runs: Iterable[LoadedRun | BrokenRun], references: Mapping[str, Sequence[Row]]
    ) -> None:
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        self._values = {
            name: {run: distance(run.metrics.rows, rows) for run in loaded}
            for name, rows in references.items()
        }
        self.groups = self._sorted(group_replicates(loaded), *references)
        self.distances = {
            name: [self._distance(group, name) for group in self.groups] for name in references
        }

    def ranked(self, reference: str) -> list[Group]:
        """Return the groups, sorted by their distance from one reference."""
        return self._sorted(self.groups, reference)

    def lines(self, width: int | None) -> list[str]:
        """Return the rows of the table as text, header first, see `format_table`."""
        columns = [
            [safe_text(name), *(format_mean_sd(distance, 2) for distance in distances)]
            for name, distances in self.distances.items()
        ]
        columns.append(COLUMNS["n"].cells(self.groups))
        columns.append(["epochs", *map(_epochs_of, self.groups)])
        right = range(len(columns))
        columns += cells(variants([group.representative for group in self.groups]))
        columns.append(["run", *(safe_text(group.counted[0].name) for group in self.groups)])
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
    """Return the number of epochs of the counted runs, or its range, as text."""
    counts = {len(run.metrics.rows) for run in group.counted}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
