"""A comparison as tables for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from resnet_sweep.compare.comparison import OUTCOMES, PRECISION, Comparison
from resnet_sweep.compare.diff_columns import MISSING
from resnet_sweep.compare.format import shown

# Characters that the column of a run needs; where the columns don't fit, there are several tables.
COLUMN_WIDTH = 10
LEAST_COLUMNS = 2
LONGEST_NAME = 30


@dataclass(frozen=True)
class Difference:
    """A row of a table.

    Attributes:
        name: of what differs.
        values: its value in each run.
        change: the difference of the second run's value from the first's, where there is one.
    """

    name: str
    values: Sequence[str]
    change: str = ""


def diff_view(comparison: Comparison, width: int) -> Iterator[RenderableType]:
    """Yield what to print: the runs' names, then what differs, and all outcomes of two runs.

    Args:
        comparison: of the runs.
        width: of the terminal.
    """
    labels = [_label(at) for at in range(len(comparison.runs))]
    for label, run in zip(labels, comparison.runs, strict=True):
        reason = f" ({shown(run.record.reason)})" if run.record.reason else ""
        yield Text(f"{label:3}{shown(run.name)}: {shown(run.state)}{reason}")

    settings = {name: values for name, values in comparison.settings.items() if name != PRECISION}
    yield from _tables("Choices", _differences(comparison.choices), labels, width)
    yield from _tables("Settings", _differences(settings), labels, width)
    if not comparison.settings:
        yield "\nAll settings that decide what is trained are the same."
    elif comparison.replicates:
        yield "  Only the seed differs."
    outcomes = [*_differences(comparison.states), *_outcomes(comparison)]
    yield from _tables("Outcome", outcomes, labels, width)
    yield from _tables("Environment", _differences(comparison.environment), labels, width)
    yield from _notes(comparison, labels)


def _label(at: int) -> str:
    return chr(ord("A") + at) if at < 26 else str(at + 1)


def _differences(differences: Mapping[str, Sequence[Any]]) -> list[Difference]:
    return [
        Difference(shown(name), ["not there" if v is MISSING else shown(v) for v in values])
        for name, values in sorted(differences.items())
        # A group that is empty in one run is seen by the settings that it has in another.
        if not ({} in values and any(other.startswith(f"{name}.") for other in differences))
    ]


def _outcomes(comparison: Comparison) -> Iterator[Difference]:
    for outcome in OUTCOMES:
        values = comparison.values(outcome)
        if len(values) > 2 and len(set(values)) == 1:
            continue
        change = ""
        if len(values) == 2:
            one, other = values
            if one is not None and other is not None:
                change = outcome.show(other - one, sign="+") if other != one else "same"
        if any(value is not None for value in values):
            yield Difference(outcome.name, [outcome.show(value) for value in values], change)


def _tables(
    title: str, rows: Sequence[Difference], labels: Sequence[str], width: int
) -> Iterator[RenderableType]:
    """Yield a table with a column for each run, or several tables where the columns don't fit."""
    names = min(LONGEST_NAME, max((len(row.name) + 4 for row in rows), default=0))
    fitting = max(LEAST_COLUMNS, (width - names) // COLUMN_WIDTH)
    changes = any(row.change for row in rows)
    for start in range(0, len(labels) if rows else 0, fitting):
        columns = slice(start, start + fitting)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column(title, overflow="fold")
        for label in labels[columns]:
            table.add_column(label, justify="right", overflow="fold")
        if changes:
            table.add_column(f"{labels[1]} - {labels[0]}", justify="right")
        for row in rows:
            cells = [*row.values[columns], *([row.change] if changes else [])]
            table.add_row(Text(f"  {row.name}"), *map(Text, cells))
        yield Text()
        yield table


def _notes(comparison: Comparison, labels: Sequence[str]) -> Iterator[RenderableType]:
    """Yield the notes of the runs; a note of several runs once."""
    owners: dict[str, list[str]] = {}
    for label, run in zip(labels, comparison.runs, strict=True):
        for note in dict.fromkeys(run.record.notes):
            owners.setdefault(note, []).append(label)
    if not owners:
        return
    yield Text("\nNotes", style="bold")
    everyone = "both" if len(labels) == 2 else "all"
    notes = Table.grid(padding=(0, 1, 0, 0))
    for note, of in sorted(owners.items(), key=lambda item: (len(item[1]), item[1])):
        who = everyone if len(of) == len(labels) else ", ".join(of)
        notes.add_row(Text(f"  {who}:"), Text(shown(note)))
    yield notes
