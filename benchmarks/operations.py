"""Count the file operations of a run, or the database statements of a study.

python -m benchmarks.operations [OVERRIDE...]                  # requires strace
python -m benchmarks.operations --storage URL [OVERRIDE...]    # null: SQLite

The runs train on digits in a temporary folder.
"""

import contextlib
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import temporary_folder

# Epochs of the traced run, and of the short and the long trials.
EPOCHS, SHORT, LONG = 3, 3, 13
RUN = (
    "experiment=quickstart",
    "data.limit_train=200",
    "data.limit_test=100",
    "trainer.threads=1",
    "trainer.device=cpu",
)
STUDY = (
    "--multirun",
    "hydra/sweeper=optuna",
    "hydra/sweeper/pruner=median",
    "hydra.sweep.dir=study",
    "hydra.sweeper.pruner.n_startup_trials=1000",
    "optim.lr=interval(0.01,0.3)",
)
# System calls by the kind of request that a file server receives.
KINDS = {
    "stat calls": ("newfstatat", "stat", "lstat", "statx", "access", "faccessat", "readlink"),
    "directories created": ("mkdir", "mkdirat"),
    "renames": ("rename", "renameat", "renameat2"),
    "removals": ("unlink", "unlinkat", "rmdir"),
    "syncs": ("fsync", "fdatasync"),
    "locks": ("flock",),
    "files opened": ("open", "openat"),
    "bytes written": ("write", "pwrite64", "writev"),
}
KIND_OF = {call: kind for kind, calls in KINDS.items() for call in calls}
LINE = re.compile(r"\d+ +(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")


def trace(folder: Path, overrides: Sequence[str]) -> Path:
    """Run a training under strace, and return the log of its system calls."""
    log = folder / "log"
    calls = ",".join(f"?{call}" for call in KIND_OF)
    strace = ["strace", "-f", "-y", "--seccomp-bpf", f"--trace={calls}", "-o", str(log)]
    command = [sys.executable, "-m", "resnet_sweep", *overrides, "hydra.run.dir=run"]
    subprocess.run([*strace, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return log


def file_operations(log: Path) -> tuple[Counter, Counter, int]:
    """Count the operations of a run in its run directory.

    An epoch ends when the new `metrics.csv` replaces the old one.

    Returns:
        The counts of the whole run, the counts between the ends of the first and of the last
        epoch, and the number of epochs between them.
    """
    total: Counter = Counter()
    between: Counter = Counter()
    # The first metrics.csv is written before the first epoch.
    writes, at_first_epoch = 0, Counter()
    for line in join_lines(log.read_text(errors="replace")):
        match = LINE.match(line)
        if match is None or not ('"run/' in line or f"{log.parent}/run" in line):
            continue
        kind = KIND_OF[match["call"]]
        if kind == "files opened":
            kind = f"files opened to {'write' if 'O_CREAT' in match['arguments'] else 'read'}"
        total[kind] += max(0, int(match["result"])) if kind == "bytes written" else 1
        if kind == "renames" and line.count("metrics.csv") == 2:
            writes += 1
            if writes == 2:
                at_first_epoch = total.copy()
            between = total - at_first_epoch
    return total, between, writes - 2


def join_lines(log: str) -> list[str]:
    """Return the lines of strace, with the two parts of each interrupted call joined."""
    lines: list[str] = []
    unfinished: dict[str, str] = {}
    for line in log.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            unfinished[process] = line.removesuffix("<unfinished ...>")
        elif resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest):
            lines.append(unfinished.pop(process, "") + resumed[1])
        else:
            lines.append(line)
    return lines


def count_statements(folder: Path, arguments: Sequence[str]) -> Counter:
    """Run a study in this process, and return the counts of its SQL statements by kind.

    This changes the working directory, `sys.argv` and stdout of the process.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    folder.mkdir()
    os.chdir(folder)
    sys.argv = ["resnet_sweep", *arguments]
    counts: Counter = Counter()
    event.listen(
        Engine,
        "before_cursor_execute",
        lambda connection, cursor, text, *rest: counts.update([text.split()[0].upper()]),
    )
    event.listen(Engine, "commit", lambda connection: counts.update(["COMMIT"]))
    with contextlib.suppress(SystemExit), open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
        runpy.run_module("resnet_sweep", run_name="__main__")
    return counts


def print_file_operations(overrides: Sequence[str]) -> None:
    """Trace a run, and print the counts of an epoch and of the rest of the run."""
    with temporary_folder() as folder:
        log = trace(folder, [*overrides, f"trainer.epochs={EPOCHS}"])
        total, between, epochs = file_operations(log)
    print(table_header("file operation", "once per run", "per epoch"))
    for kind in sorted(total):
        epoch = between[kind] / epochs
        print(table_row(kind, f"{total[kind] - EPOCHS * epoch:,.0f}", f"{epoch:,.1f}"))


def print_statements(storage: str, overrides: Sequence[str]) -> None:
    """Run studies of three sizes, and print the counts of a worker, a trial and an epoch."""
    counts = []
    with temporary_folder() as folder:
        for trials, epochs in ((2, SHORT), (6, SHORT), (2, LONG)):
            name = f"t{trials}e{epochs}"
            arguments = [
                *STUDY,
                *overrides,
                f"hydra.sweeper.storage={storage}",
                f"hydra.sweeper.study_name={name}",
                f"hydra.sweeper.n_trials={trials}",
                f"trainer.epochs={epochs}",
            ]
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                result = process.submit(count_statements, folder / name, arguments)
                counts.append(result.result())
    base, more_trials, more_epochs = counts
    print(table_header("statement", "once per worker", "once per trial", "per epoch"))
    for kind in sorted(set().union(*counts)):
        epoch = (more_epochs[kind] - base[kind]) / (2 * (LONG - SHORT))
        trial = (more_trials[kind] - base[kind]) / 4 - SHORT * epoch
        worker = base[kind] - 2 * (trial + SHORT * epoch)
        print(table_row(kind, f"{worker:,.0f}", f"{trial:,.1f}", f"{epoch:,.1f}"))


def main() -> None:
    """Count, and print a table in Markdown."""
    parser = make_parser("operations", __doc__)
    parser.add_argument(
        "--storage", help="count the statements of a study in this storage, not file operations"
    )
    add_overrides(parser)
    arguments = parser.parse_args()
    overrides = [*RUN, *arguments.overrides]
    if arguments.storage is None:
        print_file_operations(overrides)
    else:
        print_statements(arguments.storage, overrides)


if __name__ == "__main__":
    main()
