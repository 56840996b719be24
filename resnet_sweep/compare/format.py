"""Format values and tables as text that is safe to print."""

import json
import math
import shlex
from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len

from resnet_sweep.runs.record import Record, duration

MAX_TEXT_LENGTH = 300
# Number of significant digits in a table, and of a number with all digits.
FEW_DIGITS, ALL_DIGITS = 4, 17
# Spaces between the columns of a table.
GAP = 2


def safe_text(value: Any, digits: int = ALL_DIGITS) -> str:
    """Return a value as one line of text that is safe to print.

    A text is returned as it is, and any other value as JSON with at most `digits` significant
    digits. Texts longer than MAX_TEXT_LENGTH are truncated, and `escape` is applied.
    """
    text = value
    if not isinstance(value, str):
        text = json.dumps(round_digits(value, digits), ensure_ascii=False)
    if len(text) > MAX_TEXT_LENGTH:
        text = f"{text[:MAX_TEXT_LENGTH]}…"
    return escape(text)


def distinct_texts(values: Sequence[Any]) -> list[str]:
    """Return values as `safe_text` does, with enough digits to distinguish different values."""
    different = len({repr(value) for value in values})
    for digits in (FEW_DIGITS, 2 * FEW_DIGITS, ALL_DIGITS):
        texts = [safe_text(value, digits) for value in values]
        if len({*texts}) == different:
            break
    return texts


def round_digits(value: Any, digits: int) -> Any:
    """Round a float, or the floats in a list, to a number of significant digits.

    Digits before the decimal point are always kept.
    """
    if isinstance(value, list):
        return [round_digits(entry, digits) for entry in value]
    if not isinstance(value, float) or digits == ALL_DIGITS:
        return value
    large = 10**digits <= abs(value) < math.inf
    return round(value) if large else float(f"{value:.{digits}g}")


def escape(text: str) -> str:
    """Return a text as one line without characters that a terminal could interpret.

    Control characters, invisible characters, and characters that change the direction of the text
    are written as escape sequences.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def format_number(value: float | None, digits: int, unit: str = "", sign: str = "") -> str:
    """Format a number with `digits` decimals; None is `unknown`, `sign="+"` is for differences."""
    return "unknown" if value is None else format(value, f"{sign},.{digits}f") + unit


def format_percent(accuracy: float | None) -> str:
    """Format an accuracy in percent with two decimals; None is `unknown`."""
    return format_number(accuracy, 2, "%")


def pluralize(count: int, noun: str) -> str:
    """Return a count with a noun in the singular or the plural: 1 job, 1,200 jobs."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def format_duration(seconds: float | None, sign: str = "") -> str:
    """Format a duration; None is `unknown`, `sign="+"` is for differences."""
    if seconds is None:
        return "unknown"
    return ("-" if seconds < 0 else sign) + duration(abs(seconds))


def reproduce_command(record: Record) -> str:
    """Return the command that trains a run again, in a new directory."""
    overrides = [
        override
        for override in record.overrides
        if not override.lstrip("+").startswith(("trainer.resume=", "sweep="))
    ]
    return escape(shlex.join(["python", "-m", "resnet_sweep", *record.hydra_flags, *overrides]))


def format_table(
    rows: Sequence[Sequence[str]], right: Collection[int], width: int | None = None
) -> list[str]:
    """Return rows of cells as text with aligned columns, one text per row.

    Args:
        rows: rows of equal length; the first is the header.
        right: positions of the columns that are aligned on the right.
        width: width of the table; the widest columns are wrapped to fit it. None doesn't wrap.
    """
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if width is not None:
        widths = _narrowed(widths, width)
    return ["\n".join(_lines(row, widths, right)) for row in rows]


def _narrowed(widths: Sequence[int], width: int) -> list[int]:
    """Return widths of columns that fit into `width`, by making the widest columns narrower."""
    available = width - GAP * (len(widths) - 1)
    narrowed = list(widths)
    for done, column in enumerate(sorted(range(len(widths)), key=widths.__getitem__)):
        share = available // (len(widths) - done)
        narrowed[column] = max(1, min(widths[column], share))
        available -= narrowed[column]
    return narrowed


def _lines(row: Sequence[str], widths: Sequence[int], right: Collection[int]) -> list[str]:
    """Return the lines of a row: several if a cell is wider than its column."""
    lines = []
    wrapped = (_wrap(cell, width) for cell, width in zip(row, widths, strict=True))
    for parts in zip_longest(*wrapped, fillvalue=""):
        cells = []
        for column, (part, width) in enumerate(zip(parts, widths, strict=True)):
            spaces = " " * (width - cell_len(part))
            cells.append(spaces + part if column in right else part + spaces)
        lines.append((" " * GAP).join(cells).rstrip())
    return lines


def _wrap(text: str, width: int) -> list[str]:
    """Break a text into lines that are at most `width` cells wide, between words if possible."""
    if cell_len(text) <= width:
        return [text]
    from rich.console import Console
    from rich.text import Text

    return [line.plain.rstrip() for line in Text(text).wrap(Console(), width, overflow="fold")]
