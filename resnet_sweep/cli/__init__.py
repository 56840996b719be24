"""The command line: training with Hydra's overrides, or a subcommand.

A subcommand is a module of this package with `add_arguments(parser)` and `run(arguments)`, which
returns the exit status, or None for 0, and raises ConfigError for a wrong request. The module's
docstring is a part of `--help`. It is imported when it is called, so that `runs`, `diff` and
`report` wait for neither torch nor Hydra.
"""

# Few imports: an interrupt while they load ends with a traceback.
import os
import sys
from importlib import import_module

from resnet_sweep.output import tolerant_output

SUBCOMMANDS = ("runs", "diff", "report", "evaluate", "features", "show")
INTERRUPTED = 130


def main() -> None:
    """Run the command line, and exit with its status."""
    with tolerant_output():
        _run()


def _run() -> None:
    first, *rest = sys.argv[1:] or [""]
    if os.environ.get("RESNET_SWEEP_TRUSTED_PACKAGES"):
        # A console script doesn't look for packages in the current folder, as `python -m` does.
        sys.path.append(os.getcwd())
    try:
        if first in SUBCOMMANDS:
            _run_subcommand(first, rest)
        elif not first or "=" in first or first.startswith(("-", "~")):
            if first == "-sc" and os.environ.get("COMP_LINE", "").count(" ") == 1:
                # The shell completes the first word; Hydra adds the overrides.
                print(*SUBCOMMANDS)
            # Overrides and flags are Hydra's.
            from resnet_sweep.cli.train import main as train

            train(sys.argv[1:])
        else:
            _refuse(first)
    except KeyboardInterrupt:
        # While modules are imported, or before a run has begun.
        sys.exit(INTERRUPTED)


def _run_subcommand(name: str, words: list[str]) -> None:
    import argparse

    from resnet_sweep.console import run_command

    subcommand = import_module(f"resnet_sweep.cli.{name}")
    parser = argparse.ArgumentParser(
        prog=f"python -m resnet_sweep {name}", description=subcommand.__doc__
    )
    subcommand.add_arguments(parser)
    arguments = parser.parse_intermixed_args(_joined(words))
    # From diff, the status 1 means that the runs differ.
    run_command(lambda: subcommand.run(arguments), crashed=2 if name == "diff" else 1)


def _joined(words: list[str]) -> list[str]:
    """Join `--sort -KEY` to one word, because argparse would take -KEY for an option."""
    for at in range(len(words) - 1):
        if words[at] == "--sort":
            return [*words[:at], f"--sort={words[at + 1]}", *words[at + 2 :]]
    return words


def _refuse(word: str) -> None:
    from difflib import get_close_matches

    from resnet_sweep.compare.format import escaped

    close = get_close_matches(word, SUBCOMMANDS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    print(
        f"error: there is no subcommand {escaped(word)}{hint}: name one of "
        f"{', '.join(SUBCOMMANDS)}, or write an override as NAME=VALUE",
        file=sys.stderr,
    )
    sys.exit(2)
