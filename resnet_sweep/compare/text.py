"""Values of a run as text that is safe to print."""

import json
from typing import Any

from resnet_sweep.runs.record import duration

# A longer value says no more to a person, and might never end.
LONGEST = 300


def shown(value: Any) -> str:
    """A value on one line: as in a config, cut if it is long, and unable to command a terminal.

    Control characters, invisible ones and those that turn the direction of writing are escaped.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    return escaped(text)


def escaped(text: str) -> str:
    """A text on one line, unable to command a terminal: see `shown`, which cuts it as well."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def number(value: float | None, digits: int, unit: str = "", sign: str = "") -> str:
    """A figure with a number of decimals, or `unknown`; `sign` is "+" for differences."""
    if value is None:
        return "unknown"
    # What isn't a real figure mustn't fill the screen.
    shape = f"{sign},.{digits}f" if abs(value) < 1e12 else f"{sign}.3g"
    return format(value, shape) + unit


def percent(accuracy: float | None) -> str:
    """An accuracy, or `unknown`."""
    return number(accuracy, 2, "%")


def span(seconds: float | None, sign: str = "") -> str:
    """A time span for people, or `unknown`; `sign` is "+" for differences."""
    if seconds is None:
        return "unknown"
    mark = "-" if seconds < 0 else sign
    return mark + (duration(abs(seconds)) if abs(seconds) < 1e12 else f"{abs(seconds):.3g} s")
