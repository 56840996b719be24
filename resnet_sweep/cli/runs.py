"""Print a table of runs, newest first.

It has their state, start, best and final validation accuracy, time, and the settings that differ.
Runs that differ only in their seed are one row, with the mean and the standard deviation (of the
sample) over the n of them that are complete and repeat no other. KEY is a setting (optim.lr), a
config group for the choice made there (optim), or a key of run.json (best.val_acc, seconds, state,
host); best and final alone are the validation accuracies.
"""

import argparse
import os

from rich.text import Text

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.objective import read_reference
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
        help="a directory that is searched with all folders below it, a run directory, or "
        "logged_run_1 or logged_run_2 (default: outputs and multirun)",
    )
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument("--no-group", action="store_true", help="a row for every single run")
    grouping.add_argument(
        "--group-by",
        metavar="KEY[,KEY]",
        type=_keys,
        help="a row for all runs that have the same values of these keys",
    )
    grouping.add_argument(
        "--baseline",
        metavar="CONDITION",
        help="rank the variants by their best accuracy, with their differences from the runs that "
        "match, such as 'optim.lr == 0.1', paired by seed and with a 95%% interval",
    )
    grouping.add_argument(
        "--nearest-to",
        metavar="REFERENCE",
        action="append",
        help="rank the variants by the distance of their curves from those of a run (logged_run_1, "
        "a directory, a metrics.csv), in points; may be given several times",
    )
    parser.add_argument("--sort", metavar="[-]KEY", help="sort; with - before it, largest first")
    parser.add_argument(
        "--filter",
        metavar="CONDITION",
        help="only the runs that match, such as 'optim.lr < 0.1 and state == \"finished\"', with "
        "comparisons, and, or, not, in, null, true, false; runs are filtered before grouping",
    )
    parser.add_argument("--top", metavar="N", type=int, help="only the first N rows")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print comma-separated values")
    form.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Print the table that the arguments ask for."""
    directories = arguments.directories or [*filter(os.path.isdir, DEFAULT_DIRECTORIES)]
    if not directories:
        raise ConfigError(
            f"there is no {' and no '.join(DEFAULT_DIRECTORIES)} here: name a directory with runs"
        )
    if arguments.top is not None and arguments.top < 1:
        raise ConfigError(f"--top must be a whole number at least 1, but is {arguments.top}")
    ranked = arguments.baseline is not None or bool(arguments.nearest_to)
    for option in ("sort", "top", "csv", "json"):
        if ranked and getattr(arguments, option):
            given = "--nearest-to" if arguments.baseline is None else "--baseline"
            raise ConfigError(f"{given} prints a ranked table: leave out --{option}")
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
        table = NearestRuns(runs, {name: read_reference(name) for name in arguments.nearest_to})
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


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",")]
    if not all(keys):
        raise argparse.ArgumentTypeError("name one key or several, with commas between")
    return keys
