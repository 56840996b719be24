"""The subcommand `diff`: what differs between runs in their configs and in their outcomes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from resnet_sweep.compare.collection import read_run
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.diff_view import diff_view, draw_curves
from resnet_sweep.console import console, run_command
from resnet_sweep.errors import ConfigError


def main(words: Sequence[str]) -> None:
    """Print what differs between runs, and exit with 0 if nothing does, 1 or 2."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep diff",
        description="Print what differs between runs in their configs and in their outcomes. "
        "Settings that are equal aren't printed, nor, of three runs or more, outcomes that are "
        "equal.",
        epilog="The exit status is 0 if the runs are the same, 1 if they differ, and 2 if an error "
        "occurred. Runs are the same if all settings that decide what is trained are the same "
        "(including the seed, the precision and the data), and their states and all outcomes but "
        "the time. Times, paths, loggers, names of choices, devices, threads, hosts, versions and "
        "commits may differ.",
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run directory, or a run of the training log: logged_run_1, logged_run_2",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--curves",
        metavar="FILE.png",
        type=Path,
        help="draw accuracy and loss of the runs into a figure",
    )
    arguments = parser.parse_args(words)
    # After a crash the status isn't 1, which means that the runs differ.
    run_command(
        lambda: 0 if diff(arguments.runs, arguments.json, arguments.curves) else 1, crashed=2
    )


def diff(names: Sequence[str], json: bool, curves: Path | None) -> bool:
    """Print what differs between runs.

    Args:
        names: directories, or names of logged runs.
        json: print JSON.
        curves: a PNG file to draw the curves into, or None.

    Returns:
        Whether the runs are the same.

    Raises:
        ConfigError: a run can't be read, or the figure can't be written.
    """
    if len(names) < 2:
        raise ConfigError(f"there is nothing to compare {names[0]} with: name two runs or more")
    comparison = Comparison([read_run(name) for name in names])
    if curves is not None:
        draw_curves(comparison.runs, curves)
    if json:
        console.write(comparison.json())
    else:
        for part in diff_view(comparison, console.width):
            console.print(part, soft_wrap=False)
    return comparison.same
