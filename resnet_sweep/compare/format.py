"""Values and tables of runs as text that is safe to print."""

import io
import json
import shlex
from collections.abc import Collection, Sequence
from typing import Any

from rich.cells import cell_len

from resnet_sweep.runs.record import Record, duration

LONGEST_VALUE = 300
# Spaces between the columns of a table, and the width of a column that isn't folded.
GAP, SHORT = 2, 11


def shown(value: Any) -> str:
    """Return a value on one line as in a config, cut to 300 characters, with `escaped` text."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > LONGEST_VALUE:
        text = f"{text[:LONGEST_VALUE]}…"
    return escaped(text)


def escaped(text: str) -> str:
    """Return a text on one line that can't send commands to a terminal.

    Control characters, invisible ones and those that change the direction of writing are written
    as escape sequences.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def number(value: float | None, digits: int, unit: str = "", sign: str = "") -> str:
    """Return a number with so many decimals, or `unknown`.

    Args:
        value: the number; None if it isn't known.
        digits: the number of decimals.
        unit: appended to the number.
        sign: "+" to show the sign of a difference.
    """
    return "unknown" if value is None else format(value, f"{sign},.{digits}f") + unit


def percent(accuracy: float | None) -> str:
    """Return an accuracy with two decimals, or `unknown`."""
    return number(accuracy, 2, "%")


def span(seconds: float | None, sign: str = "") -> str:
    """Return a time span for people, or `unknown`; `sign` is "+" for differences."""
    if seconds is None:
        return "unknown"
    return ("-" if seconds < 0 else sign) + duration(abs(seconds))


def reproduce_command(record: Record) -> str:
    """Return the command that trains a run once more, in a new directory."""
    overrides = [
        override
        for override in record.overrides
        if not override.startswith(("trainer.resume=", "sweep="))
    ]
    return escaped(shlex.join(["python", "-m", "resnet_sweep", *record.flags, *overrides]))


def format_table(
    rows: Sequence[Sequence[str]], right: Collection[int], width: int | None = None
) -> list[str]:
    """Lay out rows of cells as lines of text with aligned columns.

    Args:
        rows: the first is the header; all have the same length.
        right: positions of the columns that are aligned on the right.
        width: of the terminal, where cells are folded if a row is longer. None doesn't fold.

    Returns:
        The header, and then the lines of the table. A folded header is one text of several lines.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if width is not None and sum(widths) + GAP * (len(widths) - 1) > width:
        return _folded(rows, widths, right, width)
    lines = []
    for row in rows:
        cells = []
        for at, (cell, column) in enumerate(zip(row, widths, strict=True)):
            spaces = " " * (column - cell_len(cell))
            cells.append(spaces + cell if at in right else cell + spaces)
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def _folded(
    rows: Sequence[Sequence[str]], widths: Sequence[int], right: Collection[int], width: int
) -> list[str]:
    """Lay out rows with the cells of the widest columns folded."""
    # Rich takes a second for some thousand rows, so it lays out only what has to be folded.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Short columns aren't folded, unless the others would get too narrow by that.
    short = [column for column in widths if column <= SHORT]
    wide = len(widths) - len(short)
    keep_short = sum(short) + wide * SHORT + GAP * (len(widths) - 1) <= width
    table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    header, *body = rows
    for at, name in enumerate(header):
        table.add_column(
            Text(name),
            justify="right" if at in right else "left",
            overflow="fold",
            no_wrap=keep_short and widths[at] <= SHORT,
        )
    for row in body:
        table.add_row(*map(Text, row))
    console = Console(file=io.StringIO(), width=width)
    heading: list[str] = []
    lines: list[str] = []
    for segments in console.render_lines(table, pad=False):
        text = "".join(segment.text for segment in segments).rstrip()
        bold = any(segment.style is not None and segment.style.bold for segment in segments)
        (heading if bold else lines).append(text)
    return ["\n".join(heading), *lines]
