"""Print a table of runs, newest first.

The columns are state, start, best and final validation accuracy, time, and the settings that
differ. Runs that differ only in the seed are one row. It shows the mean and the sample standard
deviation over n runs. Unfinished runs and duplicates aren't counted.

A KEY is one of: a setting (optim.lr); a config group (optim), which stands for the name of its
choice (sgd); a key of run.json (best.val_acc, seconds, state, host). The keys best and final are
the best and the final validation accuracy. The keys tags and note are those of annotate.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from rich.prompt import Confirm
from rich.text import Text

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.loaded_run import LoadedRun, metrics_of
from resnet_sweep.compare.objective import Objective, read_reference
from resnet_sweep.compare.ranking import NearestRuns, Ranking
from resnet_sweep.compare.runs_table import RunsTable
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError

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
        "--objective",
        metavar="NAME",
        help="with --baseline: the value to rank and compare by, one of val_acc (the default), "
        "val_loss, seconds, parameters, or a further metric such as val_top5",
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
    form.add_argument(
        "--delete",
        action="store_true",
        help="delete the runs in the table, after a question; name DIR or use --filter",
    )
    parser.add_argument("--yes", action="store_true", help="with --delete: don't ask")


def run(arguments: argparse.Namespace) -> int:
    """Print the table that the arguments ask for, and delete the runs in it if they say so."""
    directories = arguments.directories or [*filter(os.path.isdir, DEFAULT_DIRECTORIES)]
    if not directories:
        raise ConfigError(
            f"this folder has neither {' nor '.join(DEFAULT_DIRECTORIES)}: name a directory that "
            "contains runs"
        )
    if arguments.yes and not arguments.delete:
        raise ConfigError("--yes answers the question of --delete: add --delete, or leave it out")
    if arguments.top is not None and arguments.top < 1:
        raise ConfigError(f"--top is {arguments.top}: it must be at least 1")
    ranked = arguments.baseline is not None or bool(arguments.nearest_to)
    for option in ("sort", "top", "csv", "json", "delete"):
        if ranked and getattr(arguments, option):
            given = "--nearest-to" if arguments.baseline is None else "--baseline"
            instead = ", or choose the value with --objective" if option == "sort" else ""
            raise ConfigError(f"{given} prints a ranked table: leave out --{option}{instead}")
    if arguments.objective is not None and arguments.baseline is None:
        raise ConfigError(
            f"--objective={arguments.objective} only applies to --baseline: add it, or use --sort"
        )
    if arguments.objective == "distance_to_reference":
        raise ConfigError(
            "--objective=distance_to_reference has no reference: use --nearest-to=REFERENCE instead"
        )
    if arguments.delete:
        _check_delete(arguments)
    runs_table = RunsTable(
        # A copy of a run is another directory to delete.
        find_runs(directories, copies=arguments.delete),
        only=FilterExpression(arguments.filter) if arguments.filter is not None else None,
        keys=() if arguments.no_group or arguments.delete else arguments.group_by,
        sort=arguments.sort,
        top=arguments.top,
    )
    if arguments.json or arguments.csv:
        console.write(runs_table.json() if arguments.json else runs_table.csv())
        return 0
    runs = [run for group in runs_table.groups for run in group.runs]
    table: RunsTable | Ranking | NearestRuns = runs_table
    notes = []
    if arguments.baseline is not None:
        baseline = FilterExpression(arguments.baseline)
        check_fields(baseline.names, map(run_fields, runs))
        objective = Objective(arguments.objective or "val_acc", metrics=metrics_of(runs))
        ranking = Ranking(runs, baseline, objective)
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
    return _delete(runs, directories, arguments.yes) if arguments.delete and runs else 0


def _check_delete(arguments: argparse.Namespace) -> None:
    """Raise ConfigError if no runs are chosen for `--delete`, or if its question can't be asked."""
    if not arguments.directories and arguments.filter is None:
        raise ConfigError("--delete needs a choice of runs: name DIR, or add --filter CONDITION")
    if arguments.group_by:
        raise ConfigError("--delete prints a row for every run: leave out --group-by")
    if not arguments.yes and not sys.stdin.isatty():
        raise ConfigError(
            "--delete asks before it deletes, but the input isn't a terminal: add --yes"
        )


def _delete(runs: Sequence[LoadedRun], directories: Iterable[str], yes: bool) -> int:
    """Delete runs after a question, and return the exit status."""
    # Imported here because it imports Hydra, and the table doesn't need it.
    from resnet_sweep.sweeps.deletion import Deletion

    places = [*directories, *filter(os.path.isdir, DEFAULT_DIRECTORIES)]
    deletion = Deletion(runs, find_runs(places, copies=True))
    if deletion.copies:
        copies = pluralize(len(deletion.copies), "run")
        console.print(
            f"{copies} elsewhere, such as {safe_text(deletion.copies[0].name)}, will have no "
            "weights, because they are copies of these runs.",
            markup=False,
        )
    size = f"{pluralize(len(runs), 'run')} ({deletion.size / 1e6:,.1f} MB)"
    if not yes and not Confirm.ask(f"Delete {size}?", console=console, default=False):
        console.print("nothing was deleted")
        return 0
    failed, remarks = deletion.carry_out()
    for remark in remarks:
        console.print(remark, markup=False)
    console.print(f"deleted {size}" if not failed else f"{failed} of {size} not deleted")
    return 1 if failed else 0


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",")]
    if not all(keys):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty key: separate keys by commas")
    return keys
