"""The table of runs: their states, their outcomes, and the settings that differ."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from resnet_sweep.compare.diff_columns import MISSING, cells, diff_columns, row_at
from resnet_sweep.compare.filter_expression import (
    FilterExpression,
    RunFields,
    check_fields,
    run_fields,
)
from resnet_sweep.compare.format import format_duration, format_number, format_table, safe_text
from resnet_sweep.compare.group import (
    Group,
    Statistic,
    ValueOf,
    format_mean_sd,
    group_by,
    group_replicates,
)
from resnet_sweep.compare.html import html_table
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, metrics_of
from resnet_sweep.runs.metrics import FurtherMetric


class Column(NamedTuple):
    """A column of a table with a row for each group of runs.

    Attributes:
        title: header of the column.
        value: returns the value of a group.
        format: formats the value for the printed table.
        is_statistic: whether the value is a Statistic, which has two columns in CSV.
    """

    title: str
    value: Callable[[Group], Any]
    format: Callable[[Any], str]
    is_statistic: bool = False

    def cells(self, groups: Iterable[Group]) -> list[str]:
        """Return the cells of the printed column, header first."""
        return [self.title, *(self.format(self.value(group)) for group in groups)]


def _statistic(title: str, value_of: ValueOf, form: Callable[[Statistic | None], str]) -> Column:
    return Column(title, lambda group: group.statistic(value_of), form, is_statistic=True)


def _accuracy(statistic: Statistic | None) -> str:
    return format_mean_sd(statistic, 2, "%")


def _minute(time: str | None) -> str:
    return safe_text(time[:16].replace("T", " ")) if time else "unknown"


# The columns that every table has, by their names in JSON and CSV.
COLUMNS: dict[str, Column] = {
    "state": Column("state", lambda group: group.state, safe_text),
    "started": Column("started", lambda group: group.runs[0].record.started, _minute),
    "n": Column("n", lambda group: len(group.counted), str),
    "best": _statistic("best", lambda run: run.best_accuracy, _accuracy),
    "final": _statistic("final", lambda run: run.final_accuracy, _accuracy),
    "seconds": _statistic(
        "time",
        lambda run: run.record.seconds,
        lambda seconds: format_duration(seconds and seconds.mean),
    ),
    "cpu_share": _statistic(
        "cpu",
        lambda run: run.record.cpu_share,
        lambda share: format_number(share and share.mean, 0, "%"),
    ),
    "reused": Column("reused", lambda group: group.reused, str),
}
# The share of the CPU time is printed if it can explain why some runs took longer than others: if
# a run took longer than this, and the smallest share is less than this part of the largest one.
MIN_SECONDS, MAX_SHARE_RATIO = 60, 0.8


class RunsTable:
    """A table with a row for each group of runs.

    Args:
        runs: the runs, in the order of the rows.
        only: condition for the runs to include; None includes all.
        keys: fields that are equal for the runs of a group; None groups replicates, and an empty
            sequence makes a group of each run.
        sort: field by which the groups are sorted, preceded by `-` for the largest first. A group's
            value is the mean of numbers, and for other fields the value of its newest run. Groups
            without a value come last. None keeps the order of the runs.
        top: number of groups to include; None for all.

    Attributes:
        groups: groups of runs, in the order of the rows.
        differences: settings and choices that differ, with the value of each group.
        annotations: columns of the tags and the notes, if a run has some.
        broken: runs that can't be read.

    Raises:
        ConfigError: no run has a field that an argument names.
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
        # The fields of thousands of runs take time, so they are computed only if they are needed.
        fields = {run: run_fields(run) for run in loaded} if named or only else {}
        check_fields(named, fields.values(), in_expression=False)
        if only is not None:
            check_fields(only.names, fields.values())
            loaded = [run for run in loaded if only.matches(fields[run])]
        if keys is None:
            groups = group_replicates(loaded)
        elif keys:
            groups = group_by(loaded, lambda run: tuple(repr(fields[run].get(key)) for key in keys))
        else:
            groups = [Group([run]) for run in loaded]
        if sort is not None:
            groups = _sorted(groups, sort, fields)
        self.groups = groups[:top]
        self.columns = COLUMNS | _further_columns(self.groups)
        self.annotations = _annotation_columns(self.groups)
        self.differences = self._differences(keys, fields)

    def _differences(
        self, keys: Sequence[str] | None, fields: Mapping[LoadedRun, RunFields]
    ) -> dict[str, list[Any]]:
        if keys:
            newest = [group.runs[0] for group in self.groups]
            return {key: [fields[run].get(key, MISSING) for run in newest] for key in keys}
        differences = diff_columns([group.representative for group in self.groups])
        if keys is None:
            differences.pop("seed", None)
            seeds = [
                sorted((run.seed for run in group.counted), key=_sort_key) for group in self.groups
            ]
            if len({repr(seed) for group_seeds in seeds for seed in group_seeds}) > 1:
                differences["seed"] = [found[0] if len(found) == 1 else found for found in seeds]
        return differences

    def lines(self, width: int | None) -> list[str]:
        """Return the rows of the table as text, header first, see `format_table`."""
        rows, right = self._rows()
        return format_table(rows, right, width)

    def _repr_html_(self) -> str:
        return html_table(*self._rows())

    def _rows(self) -> tuple[list[tuple[str, ...]], range]:
        """Return the rows of cells, header first, and the columns that are aligned on the right."""
        selected = dict(self.columns)
        if all(len(group.runs) == 1 for group in self.groups):
            del selected["n"]
        if not any(group.reused for group in self.groups):
            del selected["reused"]
        if not self._differ_in_cpu_share():
            del selected["cpu_share"]
        outcomes = [column.cells(self.groups) for column in selected.values()]
        # The names of runs come last because they are the longest.
        names = ["run", *map(_name, self.groups)]
        annotations = [column.cells(self.groups) for column in self.annotations.values()]
        columns = [*outcomes, *cells(self.differences), *annotations, names]
        return [*zip(*columns, strict=True)], range(2, len(outcomes))

    def _differ_in_cpu_share(self) -> bool:
        records = [run.record for group in self.groups for run in group.counted]
        shares = [record.cpu_share for record in records if record.cpu_share is not None]
        longest = max((record.seconds or 0.0 for record in records), default=0.0)
        return longest > MIN_SECONDS and min(shares, default=0) < MAX_SHARE_RATIO * max(
            shares, default=0
        )

    def json(self) -> str:
        """Return the table as JSON."""
        content = {
            "runs": [
                {
                    "names": [run.name for run in group.runs],
                    **{
                        name: _json_value(column, group)
                        for name, column in (self.columns | self.annotations).items()
                    },
                    "differences": row_at(self.differences, index),
                }
                for index, group in enumerate(self.groups)
            ],
            "damaged": [{"name": run.name, "reason": run.error} for run in self.broken],
        }
        return json.dumps(content, indent=2)

    def csv(self) -> str:
        """Return the table as CSV, with all digits; broken runs are left out."""
        columns: list[list[Any]] = [["run", *(group.runs[0].name for group in self.groups)]]
        for name, column in self.columns.items():
            values = [column.value(group) for group in self.groups]
            if column.is_statistic:
                columns.append([name, *(value and value.mean for value in values)])
                columns.append([f"{name}_sd", *(value and value.sd for value in values)])
            else:
                columns.append([name, *values])
        columns = [[MISSING if value is None else value for value in column] for column in columns]
        columns += [[name, *values] for name, values in self.differences.items()]
        columns += [
            [name, *(column.format(column.value(group)) for group in self.groups)]
            for name, column in self.annotations.items()
        ]
        text = io.StringIO()
        lines = zip(*columns, strict=True)
        csv.writer(text, lineterminator="\n").writerows(map(_csv_cell, line) for line in lines)
        return text.getvalue().removesuffix("\n")


def _annotation_columns(groups: Sequence[Group]) -> dict[str, Column]:
    """Return columns for the tags and the notes, if runs have some."""
    columns = {
        "tags": Column("tags", _tags, lambda tags: safe_text(", ".join(tags))),
        "note": Column("note", _note, safe_text),
    }
    return {name: column for name, column in columns.items() if any(map(column.value, groups))}


def _tags(group: Group) -> list[str]:
    return [*dict.fromkeys(tag for run in group.runs for tag in run.tags)]


def _note(group: Group) -> str:
    return "; ".join(dict.fromkeys(run.note for run in group.runs if run.note))


def _further_columns(groups: Iterable[Group]) -> dict[str, Column]:
    """Return a column for each further metric of the runs, by its name in `metrics.csv`."""
    metrics = metrics_of(run for group in groups for run in group.runs)
    return {metric.column: _further_column(metric) for metric in metrics}


def _further_column(metric: FurtherMetric) -> Column:
    digits, unit = (2, "%") if metric.percent else (4, "")
    return _statistic(
        metric.column,
        lambda run: run.best_metrics.get(metric.column),
        lambda statistic: format_mean_sd(statistic, digits, unit),
    )


def _json_value(column: Column, group: Group) -> Any:
    value = column.value(group)
    return value._asdict() if isinstance(value, Statistic) else value


def _csv_cell(value: Any) -> Any:
    if _is_number(value):
        return value
    text = "" if value is MISSING else safe_text(value)
    # A spreadsheet would interpret such a text as a formula.
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _sorted(
    groups: Sequence[Group], sort: str, fields: Mapping[LoadedRun, RunFields]
) -> list[Group]:
    name = sort.removeprefix("-")

    def value_of(group: Group) -> Any:
        if name == "started":
            # As texts, times in different time zones would be in the wrong order.
            return group.runs[0].started
        values = [fields[run].get(name) for run in group.counted]
        numbers = [value for value in values if value is not None]
        if numbers and all(map(_is_number, numbers)):
            return fmean(numbers)
        return values[0]

    found = [(value_of(group), group) for group in groups]
    found.sort(key=lambda pair: _sort_key(pair[0]), reverse=sort.startswith("-"))
    return [group for _, group in sorted(found, key=lambda pair: pair[0] is None)]


def _sort_key(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts numbers by size, and after them all other values as text."""
    return (False, value) if _is_number(value) else (True, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(group: Group) -> str:
    others = len(group.runs) - 1
    return safe_text(group.runs[0].name) + (f" and {others} more" if others else "")
