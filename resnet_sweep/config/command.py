"""Commands as text: overrides in Hydra's grammar, and commands to paste into a shell."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from hydra.core.override_parser.types import Quote, QuotedString

from resnet_sweep.config import COLLECTION_GROUPS, OBJECT_GROUPS, PRESET_GROUPS
from resnet_sweep.errors import ConfigError

# Settings whose values are filter expressions.
_CONDITIONS = ("sweep_filter", "baseline")
# Values that Hydra's grammar doesn't parse as text, such as numbers, alone or in a list.
_NOT_TEXT = re.compile(
    r"(?i)(?<![^,[])(null|true|false|nan|[-+]?inf|[-+.]*\d[-+.\w]*)(?![^],])|^\{.*"
)

# Characters of lists, mappings, functions and quotes; an interpolation, which quotes may contain.
_SYNTAX = {*"[]{}(),'\""}
_INTERPOLATION = re.compile(r"\$\{[^{}]*\}")


def format_command(
    arguments: Iterable[str],
    setting: Literal["hydra.run.dir", "hydra.sweep.dir"],
    directory: Path,
    processes: int = 1,
) -> str:
    """Return a command for a shell, with torchrun if it needs several processes."""
    program = f"torchrun --nproc_per_node={processes}" if processes > 1 else "python"
    path = relative_path(directory)
    if not re.fullmatch(r"[\w./:+@%-]+", path):
        path = quote_text(path)
    return f"{program} -m resnet_sweep {shlex.join([*arguments, f'{setting}={path}'])}"


def relative_path(directory: Path) -> str:
    """Return the path of a directory, relative to the current one if that contains it."""
    current = Path.cwd()
    return str(directory.relative_to(current) if directory.is_relative_to(current) else directory)


def quote_override(argument: str) -> str:
    """Return an override with the quotes that Hydra's grammar needs; leave a flag unchanged.

    These values get quotes: filter expressions, choices whose names look like numbers, texts with
    characters outside of ASCII, and paths in the home directory, which are also expanded.
    """
    key, equals, value = argument.partition("=")
    name = key.lstrip("+")
    if not equals or key.startswith("-"):
        return argument
    if name in _CONDITIONS and value not in ("", "null") and value[0] not in "'\"$":
        return f"{key}={quote_text(value)}"
    if (path := value.strip("'\"")).startswith("~/"):
        try:
            return f"{key}={quote_text(str(Path(path).expanduser()))}"
        except RuntimeError as error:
            raise ConfigError(
                f"{argument} needs a home directory, but this user has none: write the whole path"
            ) from error
    if not value.isascii() and not _SYNTAX & {*_INTERPOLATION.sub("", value)}:
        return f"{key}={quote_text(value)}"
    if name in OBJECT_GROUPS or name in COLLECTION_GROUPS or name in PRESET_GROUPS:
        return f"{key}={_NOT_TEXT.sub(lambda found: quote_text(found[0]), value)}"
    return argument


def path_override(setting: str, path: str | Path) -> str:
    """Return the override that sets a directory, with the quotes that Hydra's grammar needs."""
    return f"{setting}={quote_text(str(path))}"


def quote_text(text: str) -> str:
    """Return a text as a quoted value in Hydra's grammar."""
    return QuotedString(text, Quote.single).with_quotes()
