"""The words of commands: quoted for Hydra's grammar, and for people to repeat."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from hydra.core.override_parser.types import Quote, QuotedString

from resnet_sweep.config import COLLECTION_GROUPS, OBJECT_GROUPS, PRESET_GROUPS

# Settings whose values are filter expressions.
_CONDITIONS = ("sweep_filter", "baseline")
# What Hydra's grammar reads as a number or another value that isn't text: alone, or in a list.
_NOT_TEXT = re.compile(
    r"(?i)(?<![^,[])(null|true|false|nan|[-+]?inf|[-+.]*\d[-+.\w]*)(?![^],])|^\{.*"
)


def format_command(
    words: Iterable[str],
    setting: Literal["hydra.run.dir", "hydra.sweep.dir"],
    directory: Path,
    processes: int = 1,
) -> str:
    """Return a command of this program as it is typed in a shell, for a number of processes."""
    program = f"torchrun --nproc_per_node={processes}" if processes > 1 else "python"
    path = relative_path(directory)
    if not re.fullmatch(r"[\w./:+@%-]+", path):
        path = _quote(path)
    return f"{program} -m resnet_sweep {shlex.join([*words, f'{setting}={path}'])}"


def relative_path(directory: Path) -> str:
    """Return a directory relative to the current one, if it is inside of it."""
    here = Path.cwd()
    return str(directory.relative_to(here) if directory.is_relative_to(here) else directory)


def quote_override(word: str) -> str:
    """Return an override with quotes where Hydra's grammar needs them and people leave them out.

    These are around an operator, around a path in the home directory, which is expanded, and around
    the name of a choice that reads as a number.
    """
    key, equals, value = word.partition("=")
    name = key.lstrip("+")
    if not equals or key.startswith("-"):
        return word
    if name in _CONDITIONS and value not in ("", "null") and value[0] not in "'\"$":
        return f"{key}={_quote(value)}"
    if (path := value.strip("'\"")).startswith("~/"):
        return f"{key}={_quote(str(Path(path).expanduser()))}"
    if name in OBJECT_GROUPS or name in COLLECTION_GROUPS or name in PRESET_GROUPS:
        return f"{key}={_NOT_TEXT.sub(lambda found: _quote(found[0]), value)}"
    return word


def _quote(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
