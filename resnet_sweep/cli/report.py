"""Write a report of runs: an HTML page, or a training log in Markdown for one or two runs.

The page is self-contained. It shows a table of the runs, their curves, differences and figures.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_sweep.compare.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `report`."""
    parser.add_argument(
        "paths",
        metavar="DIR",
        nargs="+",
        help="a directory that contains runs, a run directory, logged_run_1 or logged_run_2",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="FILE.html for a page, FILE.md for a log (default: DIR/report.html)",
    )
    parser.add_argument(
        "--reference",
        metavar="RUN",
        action="append",
        default=[],
        help="draw the curves of RUN beside those of the runs on the page; RUN is a run directory "
        "or logged_run_1; can be repeated (default: the setting reference of the runs)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Write a report of the runs in the given directories, and print its path."""
    print(report(arguments.paths, arguments.output, arguments.reference))


def report(paths: Sequence[str], output: Path | None, references: Sequence[str] = ()) -> Path:
    """Write the report of the runs and studies in the given directories; see `write_report`."""
    is_page = output is None or output.suffix == ".html"
    return write_report(paths, output, _studies(paths) if is_page else (), references)


def _studies(paths: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """Return the plots of the studies in the given directories."""
    from resnet_sweep.studies import study_directories

    tops = [Path(path) for path in paths if os.path.isdir(path)]
    found = [directory for top in tops for directory in study_directories(top)]
    if not found:
        return []
    # Imported here because Optuna takes a second, and most reports don't need it.
    from resnet_sweep.studies.plots import plot_studies

    return plot_studies(found)
