"""Print a table of runs, newest first.

The columns are state, start, best and final validation accuracy, time, and the settings that
differ. Runs that differ only in the seed are one row. It shows the mean and the sample standard
deviation over n runs. Unfinished runs and duplicates aren't counted.

A KEY is one of: a setting (optim.lr); a config group (optim), which stands for the name of its
choice (sgd); a key of run.json (best.val_acc, seconds, state, host). The keys best and final are
the best and the final validation accuracy.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.text import Text

from resnet_sweep.compare.collection import LOGGED_RUNS, find_runs
from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import read_reference
from resnet_sweep.compare.ranking import NearestRuns, Ranking
from resnet_sweep.compare.runs_table import RunsTable
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import in_use_error, is_held

# Where runs are written by default.
DEFAULT_DIRECTORIES = ("outputs", "multirun")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `runs`."""
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        help="a directory to search for runs, a run directory, logged_run_1 or logged_run_2 "
        "(default: outputs and multirun)",
    )
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument("--no-group", action="store_true", help="print a row for every run")
    grouping.add_argument(
        "--group-by",
        metavar="KEY[,KEY]",
        type=_keys,
        help="print one row for each combination of values of these keys",
    )
    grouping.add_argument(
        "--baseline",
        metavar="CONDITION",
        help="compare with the runs that match CONDITION, for example 'optim.lr == 0.1': rank the "
        "settings by best accuracy, and print each difference, paired by seed, with a 95%% "
        "interval",
    )
    grouping.add_argument(
        "--nearest-to",
        metavar="REFERENCE",
        action="append",
        help="rank the rows by how far their learning curves are from those of REFERENCE, in "
        "percentage points; REFERENCE is logged_run_1, a run directory or a metrics.csv; can be "
        "repeated",
    )
    parser.add_argument(
        "--sort", metavar="[-]KEY", help="sort by a key; -KEY sorts in descending order"
    )
    parser.add_argument(
        "--filter",
        metavar="CONDITION",
        help="only the runs that match CONDITION, for example 'optim.lr < 0.1 and state == "
        '"finished"\'; runs are filtered before they are grouped',
    )
    parser.add_argument("--top", metavar="N", type=int, help="print only the first N rows")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    form.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--delete",
        action="store_true",
        help="delete the directories of these runs, after printing the table and asking; needs DIR "
        "or --filter",
    )
    parser.add_argument("--yes", action="store_true", help="delete without asking")


def run(arguments: argparse.Namespace) -> None:
    """Print the table that the arguments ask for."""
    directories = arguments.directories or [*filter(os.path.isdir, DEFAULT_DIRECTORIES)]
    if not directories:
        raise ConfigError(
            f"this folder has neither {' nor '.join(DEFAULT_DIRECTORIES)}: name a directory that "
            "contains runs"
        )
    if arguments.top is not None and arguments.top < 1:
        raise ConfigError(f"--top is {arguments.top}: it must be at least 1")
    ranked = arguments.baseline is not None or bool(arguments.nearest_to)
    for option in ("sort", "top", "csv", "json"):
        if ranked and getattr(arguments, option):
            given = "--nearest-to" if arguments.baseline is None else "--baseline"
            raise ConfigError(f"{given} prints a ranked table: leave out --{option}")
    _check_delete(arguments, ranked)
    runs_table = RunsTable(
        find_runs(directories),
        only=FilterExpression(arguments.filter) if arguments.filter is not None else None,
        keys=() if arguments.no_group else arguments.group_by,
        sort=arguments.sort,
        top=arguments.top,
    )
    if arguments.json or arguments.csv:
        console.write(runs_table.json() if arguments.json else runs_table.csv())
        return
    runs = [run for group in runs_table.groups for run in group.runs]
    table: RunsTable | Ranking | NearestRuns = runs_table
    notes = []
    if arguments.baseline is not None:
        baseline = FilterExpression(arguments.baseline)
        check_fields(baseline.names, map(run_fields, runs))
        ranking = Ranking(runs, baseline)
        table, notes = ranking, ranking.notes()
        if ranking.command is not None:
            notes.append(f"Reproduce the best run: {ranking.command}")
    elif arguments.nearest_to:
        table = NearestRuns(
            runs, {name: read_reference(name, "--nearest-to=") for name in arguments.nearest_to}
        )
    text = Text()
    if runs:
        header, *lines = table.lines(console.width if console.is_terminal else None)
        text.append(header, style="bold")
        text.append("".join(f"\n{line}" for line in lines))
    else:
        text.append("no runs")
    text.append("".join(f"\n\n{note}" for note in notes))
    if runs_table.broken:
        text.append("\n\nThese can't be read:", style="bold")
        for run in runs_table.broken:
            text.append(f"\n  {safe_text(run.name)}: {safe_text(run.error)}")
    console.print(text)
    if arguments.delete and runs:
        _delete(runs, arguments.yes)


def _check_delete(arguments: argparse.Namespace, ranked: bool) -> None:
    if arguments.yes and not arguments.delete:
        raise ConfigError("--yes belongs to --delete: add --delete, or leave --yes out")
    if not arguments.delete:
        return
    if ranked or arguments.csv or arguments.json:
        raise ConfigError(
            "--delete prints the table of the runs: leave out --baseline, --nearest-to, --csv and "
            "--json"
        )
    if not (arguments.directories or arguments.filter):
        raise ConfigError(
            "--delete would delete all runs in outputs and multirun: name directories, or choose "
            "runs with --filter"
        )
    if not (arguments.yes or (sys.stdin.isatty() and console.is_terminal)):
        raise ConfigError("--delete asks before it deletes, but this isn't a terminal: add --yes")


def _delete(runs: Sequence[LoadedRun], confirmed: bool) -> None:
    """Delete runs, after asking unless it is confirmed.

    Raises:
        ConfigError: a run is being trained or is part of the package, and nothing was deleted; or a
            file can't be deleted.
    """
    # Imported here because YAML takes a moment, and the table doesn't need it.
    from resnet_sweep.runs.run import delete_run

    for run in runs:
        if run.directory.parent == LOGGED_RUNS:
            raise ConfigError(f"{run.name} is part of the package: leave it out")
        if is_held(run.directory, run.record.heartbeat):
            raise in_use_error(run.directory, run.record.heartbeat)
    size = sum(path.lstat().st_size for run in runs for path in run.directory.rglob("*"))
    question = f"Delete {pluralize(len(runs), 'run')} ({size / 2**20:,.1f} MiB)? [y/N] "
    if not (confirmed or input(question).strip().lower() in ("y", "yes")):
        console.print("nothing was deleted")
        return
    for run in runs:
        try:
            delete_run(run.directory)
        except OSError as error:
            raise ConfigError(
                f"{safe_text(str(run.directory))} can't be deleted ({error.strerror}): make it "
                "writable, and repeat the command"
            ) from error
    console.print(f"deleted {pluralize(len(runs), 'run')}", markup=False)


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",")]
    if not all(keys):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty key: separate keys by commas")
    return keys
