"""Print what differs between runs in their configs and in their outcomes.

Settings that are equal aren't printed, nor, of three runs or more, outcomes that are equal.
"""

import argparse
from pathlib import Path

from resnet_sweep.compare.collection import read_run
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.diff_view import diff_view, draw_curves
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diff`."""
    parser.epilog = (
        "The exit status is 0 if the runs are the same, 1 if they differ, and 2 if an error "
        "occurred. Runs are the same if all settings that decide what is trained are the same "
        "(including the seed, the precision and the data), and their states and all outcomes but "
        "the time. Times, paths, loggers, names of choices, devices, threads, hosts, versions and "
        "commits may differ."
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


def run(arguments: argparse.Namespace) -> int:
    """Print what differs between runs; return 0 if they are the same, else 1."""
    if len(arguments.runs) < 2:
        raise ConfigError(
            f"there is nothing to compare {arguments.runs[0]} with: name two runs or more"
        )
    comparison = Comparison([read_run(name) for name in arguments.runs])
    if arguments.curves is not None:
        draw_curves(comparison.runs, arguments.curves)
    if arguments.json:
        console.write(comparison.json())
    else:
        for part in diff_view(comparison, console.width):
            console.print(part, soft_wrap=False)
    return 0 if comparison.same else 1
