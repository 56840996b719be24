"""Commands for people to repeat."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

# A job may have Hydra change the working directory; users stay where they are.
STARTED_IN = Path.cwd()


def command(words: Iterable[str], setting: str, directory: Path, processes: int = 1) -> str:
    """A command of this program, as one types it in a shell.

    Args:
        words: flags and overrides.
        setting: "hydra.run.dir" or "hydra.sweep.dir".
        directory: its value.
        processes: that share the run.
    """
    place = relative(directory)
    if not re.fullmatch(r"[\w./:+@%-]+", place):
        # For Hydra's grammar; the shell's quotes come around it.
        place = QuotedString(place, Quote.single).with_quotes()
    program = f"torchrun --nproc_per_node={processes}" if processes > 1 else "python"
    return f"{program} -m resnet_sweep " + shlex.join([*words, f"{setting}={place}"])


def relative(directory: Path) -> str:
    """A directory as a user would type it."""
    inside = directory.is_relative_to(STARTED_IN)
    return str(directory.relative_to(STARTED_IN) if inside else directory)
