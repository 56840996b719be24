"""Commands for people to repeat."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString


def command(words: Iterable[str], setting: str, directory: Path, processes: int = 1) -> str:
    """Return a command of this program as it is typed in a shell.

    Args:
        words: flags and overrides.
        setting: "hydra.run.dir" or "hydra.sweep.dir".
        directory: its value.
        processes: that share the run.
    """
    program = f"torchrun --nproc_per_node={processes}" if processes > 1 else "python"
    words = [*words, directory_override(setting, directory)]
    return f"{program} -m resnet_sweep {shlex.join(words)}"


def directory_override(setting: str, directory: Path) -> str:
    """Return an override that sets a directory, quoted for Hydra's grammar where that is needed."""
    path = relative(directory)
    if not re.fullmatch(r"[\w./:+@%-]+", path):
        path = QuotedString(path, Quote.single).with_quotes()
    return f"{setting}={path}"


def relative(directory: Path) -> str:
    """Return a directory relative to the current one, if it is inside of it."""
    here = Path.cwd()
    return str(directory.relative_to(here) if directory.is_relative_to(here) else directory)
