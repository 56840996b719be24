"""Values and tables of runs as text that is safe to print."""

import json
import math
import shlex
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len

from resnet_sweep.runs.record import Record, duration

LONGEST_VALUE = 300
# Significant digits of a number for people, and of any number in full.
FEW_DIGITS, ALL_DIGITS = 4, 17
# Spaces between the columns of a table.
GAP = 2


def shown(value: Any, digits: int = ALL_DIGITS) -> str:
    """Return a value on one line as in a config, `rounded`, `escaped`, cut to 300 characters."""
    text = value
    if not isinstance(value, str):
        text = json.dumps(rounded(value, digits), ensure_ascii=False)
    if len(text) > LONGEST_VALUE:
        text = f"{text[:LONGEST_VALUE]}…"
    return escaped(text)


def shown_briefly(values: Sequence[Any]) -> list[str]:
    """Return values as `shown` does, with four digits, or with more if different ones need them."""
    different = len({repr(value) for value in values})
    for digits in (FEW_DIGITS, 2 * FEW_DIGITS, ALL_DIGITS):
        texts = [shown(value, digits) for value in values]
        if len({*texts}) == different:
            break
    return texts


def rounded(value: Any, digits: int) -> Any:
    """Return a value with so many significant digits of fractions, alone or in a list."""
    if isinstance(value, list):
        return [rounded(entry, digits) for entry in value]
    if not isinstance(value, float) or digits == ALL_DIGITS:
        return value
    # All digits before the point are kept.
    large = 10**digits <= abs(value) < math.inf
    return round(value) if large else float(f"{value:.{digits}g}")


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
    """Return a number with so many decimals, or `unknown`; `sign` is "+" for differences."""
    return "unknown" if value is None else format(value, f"{sign},.{digits}f") + unit


def percent(accuracy: float | None) -> str:
    """Return an accuracy with two decimals, or `unknown`."""
    return number(accuracy, 2, "%")


def pluralize(count: int, noun: str) -> str:
    """Return a count with a noun in the singular or the plural: 1 job, 1,200 jobs."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


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
    return escaped(shlex.join(["python", "-m", "resnet_sweep", *record.hydra_flags, *overrides]))


def format_table(
    rows: Sequence[Sequence[str]], right: Collection[int], width: int | None = None
) -> list[str]:
    """Lay out rows of cells in aligned columns, and return a text for each row.

    Args:
        rows: the first is the header; all have the same length.
        right: positions of the columns that are aligned on the right.
        width: the width to which the widest columns are folded; None folds nothing.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths = _narrowed(widths, width)
    return ["\n".join(_lines(row, widths, right)) for row in rows]


def _narrowed(widths: Sequence[int], width: int) -> list[int]:
    """Return widths that fit side by side; the widest columns share what the others leave."""
    room = width - GAP * (len(widths) - 1)
    narrowed = list(widths)
    for place, at in enumerate(sorted(range(len(widths)), key=lambda at: widths[at])):
        share = room // (len(widths) - place)
        narrowed[at] = max(1, min(widths[at], share))
        room -= narrowed[at]
    return narrowed


def _lines(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    """Return the lines of a row, several if a cell is wider than its column."""
    lines = []
    folded = (_fold(cell, width) for cell, width in zip(row, widths, strict=True))
    for parts in zip_longest(*folded, fillvalue=""):
        cells = []
        for at, (part, width) in enumerate(zip(parts, widths, strict=True)):
            spaces = " " * (width - cell_len(part))
            cells.append(spaces + part if at in right else part + spaces)
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def _fold(text: str, width: int) -> list[str]:
    """Break a text into lines of so many cells, between words where it is possible."""
    if cell_len(text) <= width:
        return [text]
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(), width, overflow="fold")]
