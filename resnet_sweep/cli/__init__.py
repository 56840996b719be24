"""The command line: training with Hydra's overrides, or a subcommand.

A subcommand is a module of this package with two functions. `add_arguments(parser)` adds its
arguments. `run(arguments)` returns the exit status, or None for 0, and raises ConfigError for an
invalid request. `--help` prints the module's docstring. A module is imported when its subcommand is
called, so `runs` (without `--delete`), `diff`, `report` and `annotate` import neither torch nor
Hydra.
"""

# These imports are few, because Ctrl-C during an import prints a traceback.
import os
import sys
from importlib import import_module
from typing import NoReturn

from resnet_sweep.output import tolerant_output

SUBCOMMANDS = (
    *("runs", "diff", "report", "annotate"),
    *("evaluate", "features", "export", "show", "judge"),
)
# The exit status after a crash, if 1 means something else.
CRASHED = {"diff": 2, "judge": 4}
INTERRUPTED = 130


def main() -> None:
    """Run the command line, and exit with its status."""
    with tolerant_output():
        _run()


def _run() -> None:
    first, *rest = sys.argv[1:] or [""]
    if os.environ.get("RESNET_SWEEP_TRUSTED_PACKAGES"):
        # `python -m` searches the current folder for packages, but a console script doesn't.
        sys.path.append(os.getcwd())
    try:
        if first in SUBCOMMANDS:
            _run_subcommand(first, rest)
        elif not first or "=" in first or first.startswith(("-", "~")):
            if first == "-sc" and os.environ.get("COMP_LINE", "").count(" ") == 1:
                # The first word is being completed; Hydra prints the overrides.
                print(*SUBCOMMANDS)
            # Hydra handles overrides and flags.
            from resnet_sweep.cli.train import main as train

            train(sys.argv[1:])
        else:
            _print_unknown(first)
    except KeyboardInterrupt:
        # Ctrl-C was pressed during imports, or before a run started.
        sys.exit(INTERRUPTED)


def _run_subcommand(name: str, arguments: list[str]) -> None:
    import argparse

    from resnet_sweep.console import run_command
    from resnet_sweep.errors import ConfigError

    subcommand = import_module(f"resnet_sweep.cli.{name}")

    class Parser(argparse.ArgumentParser):
        """Raises errors as one sentence instead of printing the usage."""

        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{message} (see {self.prog} --help)")

    parser = Parser(prog=f"python -m resnet_sweep {name}", description=subcommand.__doc__)
    subcommand.add_arguments(parser)

    def run() -> int | None:
        parsed = parser.parse_intermixed_args(_join_sort_key(arguments))
        status: int | None = subcommand.run(parsed)
        return status

    run_command(run, crashed=CRASHED.get(name, 1))


def _join_sort_key(arguments: list[str]) -> list[str]:
    """Join `--sort -KEY` to `--sort=-KEY`, because argparse would parse -KEY as an option."""
    for index in range(len(arguments) - 1):
        if arguments[index] == "--sort":
            joined = f"--sort={arguments[index + 1]}"
            return [*arguments[:index], joined, *arguments[index + 2 :]]
    return arguments


def _print_unknown(word: str) -> None:
    from difflib import get_close_matches

    from resnet_sweep.compare.format import escape

    close = get_close_matches(word, SUBCOMMANDS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    print(
        f"error: there is no subcommand {escape(word)}{hint}: use {', '.join(SUBCOMMANDS)}, or an "
        "override such as GROUP=CHOICE or KEY=VALUE, without spaces around =",
        file=sys.stderr,
    )
    sys.exit(2)
