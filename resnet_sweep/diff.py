"""The command `python -m resnet_sweep.diff RUN RUN`: how runs differ, and what came of it."""

import argparse
from pathlib import Path

from rich.text import Text

from resnet_sweep.compare.collection import read_run
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.curves import draw_curves
from resnet_sweep.compare.side_by_side import side_by_side
from resnet_sweep.console import carry_out, console
from resnet_sweep.errors import RequestError


def main() -> None:
    """Print how runs differ, and exit with 0 if they don't, 1 if they do, 2 if it can't be told."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.diff",
        description="How the settings of runs differ, and what came of it. Settings that are equal "
        "aren't shown, nor, of three runs or more, figures that are equal.",
        epilog="The exit status is 0 if the runs are the same, 1 if they differ, and 2 for "
        "trouble. They are the same if all settings that decide what is trained are (also the "
        "seed, the precision and the data), the state, and all figures of the outcome but the "
        "time. Times, paths, loggers, names of choices, devices, threads, hosts, versions and "
        "commits may differ.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+",
        help="a run directory, or a run of the training log: logged_run_1, logged_run_2",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--curves", metavar="FILE.png", type=Path,
        help="draw accuracy and loss of the runs into one picture",
    )  # fmt: skip
    arguments = parser.parse_args()
    # 1 would say that the runs differ.
    carry_out(lambda: 0 if diff(arguments.runs, arguments.json, arguments.curves) else 1, crashed=2)


def diff(runs: list[str], json: bool, curves: Path | None) -> bool:
    """Print how runs differ.

    Args:
        runs: directories, or names of logged runs.
        json: print it for programs.
        curves: a picture to draw, or None.

    Returns:
        Whether they are the same.

    Raises:
        RequestError: one of them can't be read, or the picture can't be written.
    """
    if len(runs) < 2:
        raise RequestError(f"there is nothing to compare {runs[0]} with: name two runs or more")
    comparison = Comparison([read_run(run) for run in runs])
    if curves is not None:
        draw_curves(comparison.entries, curves)
    if json:
        console.write(comparison.json())
        return comparison.same
    text = Text()
    for line in side_by_side(comparison, console.width):
        text.append(f"{line.text}\n", style="bold" if line.heading else "")
    console.print(text, end="")
    return comparison.same


if __name__ == "__main__":
    main()
