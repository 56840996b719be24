"""Print what differs between runs in their configs and in their outcomes.

Equal settings aren't printed. With three or more runs, equal outcomes aren't printed either.
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
        "The exit status is 0 if the runs are the same, 1 if they differ, and 2 after an error. "
        "Runs are the same if their states, their outcomes and all settings that affect training "
        "are equal, including the seed, the precision and the data. Times, paths, loggers, names "
        "of choices, devices, threads, hosts, versions and commits may differ."
    )
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        help="a run directory, logged_run_1 or logged_run_2",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--curves",
        metavar="FILE.png",
        type=Path,
        help="write a figure with the accuracy and loss curves of the runs",
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the differences between runs; return 0 if the runs are the same, else 1."""
    if len(arguments.runs) < 2:
        raise ConfigError(
            f"diff needs two runs or more, but only {arguments.runs[0]} is given: name another run"
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
