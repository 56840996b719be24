"""Values of a run as text that is safe to print."""

import json
from typing import Any

# A longer value says no more to a person, and might never end.
LONGEST = 300


def shown(value: Any) -> str:
    """A value on one line: as in a config, cut if it is long, and unable to command a terminal.

    Control characters, invisible ones and those that turn the direction of writing are escaped.
    """
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}…"
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )
