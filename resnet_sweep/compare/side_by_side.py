"""A comparison as text for people."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.cells import cell_len

from resnet_sweep.compare.comparison import FIGURES, PRECISION, Comparison
from resnet_sweep.compare.table import GAP, pad
from resnet_sweep.compare.text import shown
from resnet_sweep.compare.varying import ABSENT

# A row with a longer name isn't part of a table.
LONGEST_NAME = 40
# As many columns must have room in a table; the values of a row that leaves none go below it.
LEAST_COLUMNS = 3


class Line(NamedTuple):
    """A line of text; headings begin a part."""

    text: str
    heading: bool = False


@dataclass(frozen=True)
class Row:
    """Something that differs.

    Attributes:
        name: of it.
        cells: its value in each run.
        difference: of the second run's value from the first's, where there is one.
    """

    name: str
    cells: Sequence[str]
    difference: str = ""


def side_by_side(comparison: Comparison, width: int) -> Iterator[Line]:
    """Write the runs' names, then only what differs, and of two runs all figures.

    Args:
        comparison: of the runs.
        width: of a line; a value that is too long for it goes on in the next.
    """
    entries = comparison.entries
    labels = [_label(at) for at in range(len(entries))]
    across = max(map(len, labels)) + GAP
    for label, entry in zip(labels, entries, strict=True):
        reason = f" ({shown(entry.record.reason)})" if entry.record.reason else ""
        yield Line(f"{label:{across}}{shown(entry.name)}: {shown(entry.state)}{reason}")

    settings = {name: each for name, each in comparison.settings.items() if name != PRECISION}
    parts = {
        "Choices": _rows(comparison.choices),
        "Settings": _rows(settings),
        "Outcome": [*_rows(comparison.states), *_figures(comparison)],
        "Environment": _rows(comparison.environment),
    }
    for title, rows in parts.items():
        if rows:
            yield Line("")
            yield from _part(title, rows, labels, width)
        if title == "Settings" and not comparison.settings:
            yield Line("")
            yield Line("All settings that decide what is trained are the same.")
        elif title == "Settings" and comparison.replicates:
            yield Line("  Only the seed differs.")
    yield from _notes(comparison, labels, width)


def _label(at: int) -> str:
    return chr(ord("A") + at) if at < 26 else str(at + 1)


def _rows(differences: Mapping[str, Sequence[Any]]) -> list[Row]:
    return [
        Row(shown(name), [_cell(value) for value in values])
        for name, values in sorted(differences.items())
        # That a group is empty in one run is seen by its settings in another.
        if not ({} in values and any(other.startswith(f"{name}.") for other in differences))
    ]


def _cell(value: Any) -> str:
    return "not there" if value is ABSENT else shown(value)


def _figures(comparison: Comparison) -> Iterator[Row]:
    for figure in FIGURES:
        values = comparison.values(figure)
        if len(values) > 2 and len(set(values)) == 1:
            continue
        cells = [figure.show(value) for value in values]
        difference = ""
        if len(values) == 2 and None not in values:
            change = values[1] - values[0]
            difference = figure.show(change, sign="+") if change else "same"
        if any(value is not None for value in values):
            yield Row(figure.name, cells, difference)


def _part(title: str, rows: Sequence[Row], labels: Sequence[str], width: int) -> Iterator[Line]:
    """A table with a column for each run, or several below each other where they don't fit."""
    short = [row for row in rows if cell_len(row.name) <= LONGEST_NAME]
    first = max([len(title), *(cell_len(row.name) + GAP for row in short)]) + GAP
    change = f"{labels[1]} - {labels[0]}" if any(row.difference for row in rows) else ""
    last = max(len(change), *(len(row.difference) for row in rows))
    room = width - first - (last and last + GAP)
    longest = room // min(len(labels), LEAST_COLUMNS) - GAP
    short = [row for row in short if max(map(cell_len, row.cells)) <= longest]
    cell = max([1, *(cell_len(each) for row in short for each in row.cells)])
    fitting = max(1, room // (cell + GAP))
    for start in range(0, len(labels), fitting):
        chosen = slice(start, start + fitting)
        header = [pad(label, cell, right=True) for label in labels[chosen]]
        header += [pad(change, last, right=True)]
        yield Line((pad(title, first) + (" " * GAP).join(header)).rstrip(), heading=True)
        for row in short:
            cells = [pad(each, cell, right=True) for each in row.cells[chosen]]
            cells += [pad(row.difference, last, right=True)] if row.difference else []
            yield Line((pad(f"  {row.name}", first) + (" " * GAP).join(cells)).rstrip())
    for row in rows:
        if row not in short:
            yield Line(f"  {row.name}")
            for label, each in zip(labels, row.cells, strict=True):
                yield from _wrapped(f"    {label}  ", each, width)


def _notes(comparison: Comparison, labels: Sequence[str], width: int) -> Iterator[Line]:
    """What a reader of the figures should know; a note of all runs once."""
    whose: dict[str, list[str]] = {}
    for label, record in zip(labels, comparison.records, strict=True):
        for note in dict.fromkeys(record.notes):
            whose.setdefault(note, []).append(label)
    if whose:
        yield Line("")
        yield Line("Notes", heading=True)
    everyone = "both" if len(labels) == 2 else "all"
    for note, of in sorted(whose.items(), key=lambda item: (len(item[1]), item[1])):
        owners = everyone if len(of) == len(labels) else ", ".join(of)
        yield from _wrapped(f"  {owners}: ", shown(note), width)


def _wrapped(start: str, text: str, width: int) -> Iterator[Line]:
    lines = textwrap.wrap(text, max(20, width - len(start)), break_on_hyphens=False) or [""]
    for at, line in enumerate(lines):
        yield Line((" " * len(start) if at else start) + line)
