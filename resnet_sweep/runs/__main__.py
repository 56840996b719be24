"""The command `python -m resnet_sweep.runs [DIR...]`: a table of runs."""

import argparse
import sys
from pathlib import Path

from rich.text import Text

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.distance import read_reference
from resnet_sweep.compare.identification import Identification
from resnet_sweep.compare.overview import Overview
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.console import carry_out, console
from resnet_sweep.errors import RequestError

# Where runs land.
DEFAULT_DIRECTORIES = ("outputs", "multirun")


def main() -> None:
    """Print a table of the runs below some directories."""
    parser = argparse.ArgumentParser(
        prog="python -m resnet_sweep.runs",
        description="A table of runs, newest first: state, start, best and final validation "
        "accuracy, time, and what varies among them. Runs that differ only in their seed are one "
        "line, with the mean and the standard deviation (of the sample) over the n of them that "
        "are complete and repeat no other. KEY is a setting (optim.lr), a config group for the "
        "choice made there (optim), "
        "or a key of run.json (best.val_acc, seconds, state, host); best and final alone are the "
        "validation accuracies.",
    )
    parser.add_argument(
        "directories", metavar="DIR", nargs="*",
        help="where to look, also in folders below; a run; or logged_run_1, logged_run_2 "
        "(default: outputs and multirun)",
    )  # fmt: skip
    grouping = parser.add_mutually_exclusive_group()
    grouping.add_argument("--each", action="store_true", help="a line for every single run")
    grouping.add_argument(
        "--group-by", metavar="KEY[,KEY]", type=_keys,
        help="a line for the runs that have these in common",
    )  # fmt: skip
    grouping.add_argument(
        "--baseline", metavar="CONDITION",
        help="rank what varies by the best accuracy, and tell its difference from the runs of "
        "which this holds, such as 'optim.lr == 0.1': paired by seed, with a 95%% interval",
    )  # fmt: skip
    grouping.add_argument(
        "--near", metavar="REFERENCE", action="append",
        help="rank what varies by the distance of its curves from those of a run (logged_run_1, a "
        "directory, a metrics.csv), in points; may be given several times",
    )  # fmt: skip
    parser.add_argument("--sort", metavar="[-]KEY", help="sort; with - before it, largest first")
    parser.add_argument(
        "--where", metavar="CONDITION",
        help="only some runs, such as 'optim.lr < 0.1 and state == \"finished\"': comparisons, "
        "and, or, not, in; of single runs, before replicates are put together",
    )  # fmt: skip
    parser.add_argument("--top", metavar="N", type=int, help="only the first N lines")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="as comma-separated values")
    form.add_argument("--json", action="store_true", help="as JSON")
    arguments = parser.parse_args(_joined(sys.argv[1:]))
    carry_out(lambda: tell_runs(arguments))


def tell_runs(arguments: argparse.Namespace) -> None:
    """Print the table that the arguments ask for.

    Raises:
        RequestError: there is nothing to look into, or no such key.
    """
    directories = arguments.directories or [
        name for name in DEFAULT_DIRECTORIES if Path(name).is_dir()
    ]
    if not directories:
        raise RequestError(
            f"there is no {' and no '.join(DEFAULT_DIRECTORIES)} here: name a directory with runs"
        )
    if arguments.top is not None and arguments.top < 1:
        raise RequestError(f"--top must be a whole number at least 1, but is {arguments.top}")
    ranked = "--baseline" if arguments.baseline is not None else arguments.near and "--near"
    for option in ("sort", "top", "csv", "json"):
        if ranked and getattr(arguments, option):
            raise RequestError(f"{ranked} ranks by itself, as a table: leave out --{option}")
    overview = Overview(
        find_runs(directories),
        where=Condition(arguments.where) if arguments.where is not None else None,
        keys=() if arguments.each else arguments.group_by,
        sort=arguments.sort,
        top=arguments.top,
    )
    if arguments.json or arguments.csv:
        console.write(overview.json() if arguments.json else overview.csv())
        return
    entries = [entry for group in overview.groups for entry in group.entries]
    notes = []
    table: Overview | Ranking | Identification = overview
    if arguments.baseline is not None:
        table = Ranking(entries, Condition(arguments.baseline))
        notes = [*table.notes(), *([f"to repeat the best: {table.command}"] if table.best else [])]
    elif arguments.near:
        table = Identification(entries, {each: read_reference(each) for each in arguments.near})
    text = Text()
    if entries:
        header, *lines = table.lines(console.width if console.is_terminal else None)
        text.append(header, style="bold")
        text.append("".join(f"\n{line}" for line in lines))
    else:
        text.append("no runs")
    text.append("".join(f"\n\n{note}" for note in notes))
    if overview.damaged:
        text.append("\n\nThese can't be read:", style="bold")
        text.append("".join(f"\n  {line}" for line in overview.damage()))
    console.print(text)


def _keys(text: str) -> list[str]:
    keys = [key.strip() for key in text.split(",")]
    if not all(keys):
        raise argparse.ArgumentTypeError("name one key or several, with commas between")
    return keys


def _joined(words: list[str]) -> list[str]:
    """The words with `--sort -KEY` as one, which would be taken for an option otherwise."""
    for at in range(len(words) - 1):
        if words[at] == "--sort":
            return [*words[:at], f"--sort={words[at + 1]}", *words[at + 2 :]]
    return words


if __name__ == "__main__":
    main()
