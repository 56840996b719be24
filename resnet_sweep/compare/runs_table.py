"""The table of runs: their states and outcomes, and what differs between them."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from resnet_sweep.compare.diff_columns import MISSING, cells, diff_columns, row
from resnet_sweep.compare.filter_expression import (
    FilterExpression,
    RunFields,
    check_fields,
    run_fields,
)
from resnet_sweep.compare.format import format_table, shown, span
from resnet_sweep.compare.group import Group, Statistic, ValueOf, grouped, replicates, spread
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun


class Column(NamedTuple):
    """A column of a table with a row for each group of runs.

    Attributes:
        title: the header for people.
        value: returns the value of a group.
        text: formats the value for people.
        has_spread: whether the value is a Statistic, which has two columns in CSV.
    """

    title: str
    value: Callable[[Group], Any]
    text: Callable[[Any], str]
    has_spread: bool = False

    def cells(self, groups: Iterable[Group]) -> list[str]:
        """Return the column for people, the title first."""
        return [self.title, *(self.text(self.value(group)) for group in groups)]


def _statistic(title: str, value_of: ValueOf, text: Callable[[Statistic | None], str]) -> Column:
    return Column(title, lambda group: group.statistic(value_of), text, has_spread=True)


def _accuracy(statistic: Statistic | None) -> str:
    return spread(statistic, 2, "%")


def _minute(time: str | None) -> str:
    return shown(time[:16].replace("T", " ")) if time else "unknown"


# What a table has of each group, by the names in JSON and CSV.
COLUMNS: Mapping[str, Column] = {
    "state": Column("state", lambda group: group.state, shown),
    "started": Column("started", lambda group: group.runs[0].record.started, _minute),
    "n": Column("n", lambda group: len(group.counted), str),
    "best": _statistic("best", lambda run: run.best_accuracy, _accuracy),
    "final": _statistic("final", lambda run: run.final_accuracy, _accuracy),
    "seconds": _statistic(
        "time", lambda run: run.record.seconds, lambda seconds: span(seconds and seconds.mean)
    ),
}


class RunsTable:
    """Groups of runs, with a row for each.

    Args:
        runs: in order.
        only: the runs to show; None for all.
        keys: the fields that the runs of a group have in common; None groups replicates, and an
            empty sequence makes a group of each run.
        sort: the field by which groups are sorted, with `-` before it for the largest first. Of
            numbers their mean counts, of anything else the value of the newest run. Groups without
            it come last. None keeps the order of the runs.
        top: the number of groups to show; None for all.

    Attributes:
        groups: in order.
        varying: what differs between the groups: the values of each, by name.
        broken: the runs that can't be read.

    Raises:
        ConfigError: no run has a field that is asked for.
    """

    def __init__(
        self,
        runs: Sequence[LoadedRun | BrokenRun],
        only: FilterExpression | None = None,
        keys: Sequence[str] | None = None,
        sort: str | None = None,
        top: int | None = None,
    ) -> None:
        self.broken = [run for run in runs if isinstance(run, BrokenRun)]
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        named = [*(keys or ()), *([] if sort is None else [sort.removeprefix("-")])]
        # The fields of thousands of runs are made only where they are needed.
        fields = {run: run_fields(run) for run in loaded} if named or only else {}
        check_fields(named, fields.values(), in_expression=False)
        if only is not None:
            check_fields(only.names, fields.values())
            loaded = [run for run in loaded if only.matches(fields[run])]
        if keys is None:
            groups = replicates(loaded)
        elif keys:
            groups = grouped(loaded, lambda run: tuple(repr(fields[run].get(key)) for key in keys))
        else:
            groups = [Group([run]) for run in loaded]
        if sort is not None:
            groups = _sorted(groups, sort, fields)
        self.groups = groups[:top]
        self.varying = self._varying(keys, fields)

    def _varying(
        self, keys: Sequence[str] | None, fields: Mapping[LoadedRun, RunFields]
    ) -> dict[str, list[Any]]:
        newest = [group.runs[0] for group in self.groups]
        if keys:
            return {key: [fields[run].get(key, MISSING) for run in newest] for key in keys}
        varying = diff_columns(newest)
        if keys is None:
            varying.pop("seed", None)
            seeds = [
                sorted((run.seed for run in group.counted), key=_rank) for group in self.groups
            ]
            if len({repr(seed) for group_seeds in seeds for seed in group_seeds}) > 1:
                varying["seed"] = [found[0] if len(found) == 1 else found for found in seeds]
        return varying

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first, for a terminal of a width, if any."""
        shown_columns = dict(COLUMNS)
        if all(len(group.runs) == 1 for group in self.groups):
            del shown_columns["n"]
        outcomes = [column.cells(self.groups) for column in shown_columns.values()]
        # The names of runs come last because they are the longest.
        names = ["run", *map(_name, self.groups)]
        columns = [*outcomes, *cells(self.varying), names]
        return format_table([*zip(*columns, strict=True)], range(2, len(outcomes)), width)

    def json(self) -> str:
        """Return the table for programs."""
        content = {
            "runs": [
                {
                    "names": [run.name for run in group.runs],
                    **{name: _json_value(column, group) for name, column in COLUMNS.items()},
                    "varies": row(self.varying, number),
                }
                for number, group in enumerate(self.groups)
            ],
            "damaged": [{"name": run.name, "reason": run.error} for run in self.broken],
        }
        return json.dumps(content, indent=2)

    def csv(self) -> str:
        """Return the rows for spreadsheets, with all digits; broken runs are left out."""
        columns: list[list[Any]] = [["run", *(group.runs[0].name for group in self.groups)]]
        for name, column in COLUMNS.items():
            values = [column.value(group) for group in self.groups]
            if column.has_spread:
                columns.append([name, *(value and value.mean for value in values)])
                columns.append([f"{name}_sd", *(value and value.sd for value in values)])
            else:
                columns.append([name, *values])
        columns = [[MISSING if value is None else value for value in column] for column in columns]
        columns += [[name, *values] for name, values in self.varying.items()]
        text = io.StringIO()
        lines = zip(*columns, strict=True)
        csv.writer(text, lineterminator="\n").writerows(map(_csv_cell, line) for line in lines)
        return text.getvalue().removesuffix("\n")


def _json_value(column: Column, group: Group) -> Any:
    value = column.value(group)
    return value._asdict() if isinstance(value, Statistic) else value


def _csv_cell(value: Any) -> Any:
    if _is_number(value):
        return value
    text = "" if value is MISSING else shown(value)
    # A spreadsheet would take it for a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _sorted(
    groups: Sequence[Group], sort: str, fields: Mapping[LoadedRun, RunFields]
) -> list[Group]:
    name = sort.removeprefix("-")

    def value_of(group: Group) -> Any:
        if name == "started":
            # Texts of times in different zones sort otherwise.
            return group.runs[0].started
        values = [fields[run].get(name) for run in group.counted]
        numbers = [value for value in values if value is not None]
        if numbers and all(map(_is_number, numbers)):
            return fmean(numbers)
        return values[0]

    found = [(value_of(group), group) for group in groups]
    found.sort(key=lambda pair: _rank(pair[0]), reverse=sort.startswith("-"))
    return [group for _, group in sorted(found, key=lambda pair: pair[0] is None)]


def _rank(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts numbers by size, and then everything else as text."""
    return (False, value) if _is_number(value) else (True, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(group: Group) -> str:
    others = len(group.runs) - 1
    return shown(group.runs[0].name) + (f" and {others} more" if others else "")
