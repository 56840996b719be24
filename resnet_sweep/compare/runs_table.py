"""The table of runs: their states and outcomes, and what differs between them."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.filter_expression import (
    FilterExpression,
    RunFields,
    check_fields,
    run_fields,
)
from resnet_sweep.compare.format import format_table, shown, span
from resnet_sweep.compare.group import Group, Statistic, grouped, replicates, spread
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun

_VALUES: Mapping[str, Callable[[LoadedRun], float | None]] = {
    "best": lambda run: run.best_accuracy,
    "final": lambda run: run.final_accuracy,
    "seconds": lambda run: run.record.seconds,
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
        columns: what differs between the groups: the values of each, by name.
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
        names = {*(keys or ()), *(only.names if only else ())}
        names |= {sort.removeprefix("-")} if sort is not None else set()
        # The fields of thousands of runs are made only where they are needed.
        fields = {run: run_fields(run) for run in loaded} if names or only else {}
        check_fields(names, fields.values())
        if only is not None:
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
        self.columns = self._columns(keys, fields)

    def _columns(
        self, keys: Sequence[str] | None, fields: Mapping[LoadedRun, RunFields]
    ) -> dict[str, list[Any]]:
        newest = [group.runs[0] for group in self.groups]
        if keys:
            return {key: [fields[run].get(key, MISSING) for run in newest] for key in keys}
        columns = diff_columns(newest)
        if keys is None:
            columns.pop("seed", None)
            seeds = [
                sorted((run.seed for run in group.counted), key=_rank) for group in self.groups
            ]
            if len({repr(seed) for group_seeds in seeds for seed in group_seeds}) > 1:
                columns["seed"] = [found[0] if len(found) == 1 else found for found in seeds]
        return columns

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first.

        Args:
            width: of the terminal; None if there is none.
        """
        several = any(len(group.runs) > 1 for group in self.groups)
        # The name of a run comes last because it is the longest.
        header = ["state", "started", *["n"] * several, "best", "final", "time"]
        rows = [[*header, *map(shown, self.columns), "run"]]
        for number, group in enumerate(self.groups):
            values = _statistics(group)
            seconds = values["seconds"]
            rows.append(
                [
                    shown(group.state),
                    _minute(group),
                    *[str(len(group.counted))] * several,
                    spread(values["best"], 2, "%"),
                    spread(values["final"], 2, "%"),
                    span(seconds and seconds.mean),
                    *(_cell(column[number]) for column in self.columns.values()),
                    _name(group),
                ]
            )
        return format_table(rows, range(2, 5 + several), width)

    def errors(self) -> list[str]:
        """Return a line for each run that can't be read."""
        return [f"{shown(run.name)}: {shown(run.error)}" for run in self.broken]

    def json(self) -> str:
        """Return the table for programs."""
        content = {
            "runs": [
                {
                    "names": [run.name for run in group.runs],
                    "n": len(group.counted),
                    "state": group.state,
                    "started": group.runs[0].record.started,
                    **{
                        name: statistic and statistic._asdict()
                        for name, statistic in _statistics(group).items()
                    },
                    "varies": {
                        name: values[number]
                        for name, values in self.columns.items()
                        if values[number] is not MISSING
                    },
                }
                for number, group in enumerate(self.groups)
            ],
            "damaged": [{"name": run.name, "reason": run.error} for run in self.broken],
        }
        return json.dumps(content, indent=2)

    def csv(self) -> str:
        """Return the rows for spreadsheets, with all digits; broken runs are left out."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        values = [name + end for name in _VALUES for end in ("", "_sd")]
        header = ["run", "n", "state", "started", *values, *map(shown, self.columns)]
        writer.writerow(map(_inert, header))
        for number, group in enumerate(self.groups):
            writer.writerow(
                [
                    _inert(shown(group.runs[0].name)),
                    len(group.counted),
                    _inert(shown(group.state)),
                    _inert(shown(group.runs[0].record.started or "")),
                    *(
                        value
                        for statistic in _statistics(group).values()
                        for value in (statistic[:2] if statistic else (None, None))
                    ),
                    *(
                        values[number]
                        if _is_number(values[number])
                        else _inert(_cell(values[number]))
                        for values in self.columns.values()
                    ),
                ]
            )
        return text.getvalue().removesuffix("\n")


def _statistics(group: Group) -> dict[str, Statistic | None]:
    return {name: group.statistic(value_of) for name, value_of in _VALUES.items()}


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
            return sum(numbers) / len(numbers)
        return values[0]

    ranked = [(value_of(group), group) for group in groups]
    present = [pair for pair in ranked if pair[0] is not None]
    present.sort(key=lambda pair: _rank(pair[0]), reverse=sort.startswith("-"))
    return [group for _, group in present] + [group for value, group in ranked if value is None]


def _rank(value: Any) -> tuple[bool, Any]:
    """Return a key that sorts numbers by size, and then everything else as text."""
    return (False, value) if _is_number(value) else (True, str(value))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _minute(group: Group) -> str:
    started = group.runs[0].record.started
    return shown(started[:16].replace("T", " ")) if started else "unknown"


def _name(group: Group) -> str:
    others = len(group.runs) - 1
    return shown(group.runs[0].name) + (f" and {others} more" if others else "")


def _inert(text: str) -> str:
    """Return text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _csv_cell(value: Any) -> Any:
    return value if _is_number(value) else _inert(_cell(value))


def _cell(value: Any) -> str:
    return "" if value is MISSING else shown(value)
