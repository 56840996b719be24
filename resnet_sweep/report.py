"""The command `python -m resnet_sweep.report DIR`: runs as one HTML page, or as a training log."""

import argparse
import os
from pathlib import Path
from typing import Any

from resnet_sweep.console import carry_out
from resnet_sweep.errors import RequestError


def main() -> None:
    """Write a report of the runs in some directories."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.report",
        description="Write a report of runs: one HTML page that opens without a network, with "
        "their table, curves, differences and pictures; or, of one or two runs, a training log "
        "in Markdown.",
    )
    parser.add_argument(
        "paths", metavar="DIR", nargs="+",
        help="a directory with runs in it or below, a run directory, or the name of a logged run",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path,
        help="FILE.html for the page, FILE.md for the log (default: DIR/report.html)",
    )  # fmt: skip
    arguments = parser.parse_args()
    carry_out(lambda: print(report(arguments.paths, arguments.output)))


def report(paths: list[str], output: Path | None) -> Path:
    """Write the report of the runs in some directories.

    Args:
        paths: directories, run directories, or names of logged runs.
        output: whose suffix says which form is wanted; None writes a page into the directory.

    Returns:
        Where it is.

    Raises:
        RequestError: there is nothing to report, or not in this form, or it can't be written.
    """
    from resnet_sweep.compare.collection import LOGGED_RUNS, find_runs, logged_runs
    from resnet_sweep.compare.entry import Entry
    from resnet_sweep.compare.text import shown
    from resnet_sweep.runs.files import write_atomically

    named = ", ".join(map(shown, paths))
    entries = find_runs(paths)
    if not entries:
        raise RequestError(
            f"there is no run in {named} or below: name a directory that has some, such as outputs "
            "or multirun"
        )
    if output is None:
        if len(paths) > 1 or not os.path.isdir(paths[0]):
            raise RequestError(
                f"a report of {named} has no directory of its own: name its file, such as "
                "-o report.html"
            )
        output = Path(paths[0]) / "report.html"
    if output.suffix not in (".html", ".md"):
        raise RequestError(
            f"a report can't be written as {shown(str(output))}: name a file that ends in .html "
            "or, for a training log, in .md"
        )
    if output.suffix == ".md":
        from resnet_sweep.compare.training_log import write_log

        # As they were named, or else as they began.
        if len(paths) > 1:
            entries = [entry for path in paths for entry in find_runs([path])]
        else:
            entries.sort(key=lambda entry: entry.started or 0.0)
        text = write_log(entries)
    else:
        from resnet_sweep.compare.content import build_content
        from resnet_sweep.compare.page import render

        references = [Entry.read(LOGGED_RUNS / name, name) for name in logged_runs()]
        own = {os.path.realpath(entry.directory) for entry in entries}
        text = render(
            build_content(
                " ".join(paths) if paths != ["."] else Path.cwd().name,
                entries,
                [each for each in references if os.path.realpath(each.directory) not in own],
                _studies(paths),
            )
        )
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise RequestError(
            f"{shown(str(output))} can't be written ({error.strerror}): name another file with -o"
        ) from error
    return output


def _studies(paths: list[str]) -> list[dict[str, Any]]:
    """The plots of the studies in some directories."""
    from resnet_sweep.sweeps.study.place import study_directories

    tops = [Path(path) for path in paths if os.path.isdir(path)]
    found = [directory for top in tops for directory in study_directories(top)]
    if not found:
        return []
    # Imported here because Optuna takes a second that other reports needn't wait.
    from resnet_sweep.sweeps.study.plots import plot_studies

    return plot_studies(found)


if __name__ == "__main__":
    main()
