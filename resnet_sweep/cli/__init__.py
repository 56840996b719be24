"""The command line: training with Hydra's overrides, or a subcommand.

A subcommand is a module of this package with a function `main` that takes the words behind its
name. It is imported when it is called, so that `runs`, `diff` and `report` wait for neither torch
nor Hydra.
"""

import sys
from difflib import get_close_matches
from importlib import import_module

from resnet_sweep.console import forgiving_output

SUBCOMMANDS = ("runs", "diff", "report", "evaluate", "features", "show")


def main() -> None:
    """Run the command line, and exit with its status."""
    with forgiving_output():
        _run()


def _run() -> None:
    first, *rest = sys.argv[1:] or [""]
    if first in SUBCOMMANDS:
        import_module(f"resnet_sweep.cli.{first}").main(rest)
    elif not first or "=" in first or first.startswith(("-", "~")):
        # Overrides and flags are Hydra's.
        from resnet_sweep.cli.train import main as train

        train(sys.argv[1:])
    else:
        from resnet_sweep.compare.format import escaped

        print(f"error: {escaped(_unknown(first))}", file=sys.stderr)
        sys.exit(2)


def _unknown(word: str) -> str:
    """Return the error message for a word that is no subcommand."""
    close = get_close_matches(word, SUBCOMMANDS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return (
        f"there is no subcommand {word}{hint}: name one of {', '.join(SUBCOMMANDS)}, or write an "
        "override as NAME=VALUE"
    )
