"""What a run asks of its disk, and a trial of a study of its database: counts, not times.

python -m benchmarks.operations [WORD...]        # needs strace
python -m benchmarks.operations --storage URL    # null: SQLite

Of runs on digits, in a folder of their own. WORDs are overrides of theirs.
"""

import argparse
import contextlib
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

# Of the run that is traced; of the trials that are counted, fewer and more.
EPOCHS, FEW, MANY = 3, 3, 13
RUN = (
    "experiment=quickstart", "data.limit_train=200", "data.limit_test=100", "trainer.threads=1",
    "trainer.device=cpu",
)  # fmt: skip
STUDY = (
    "--multirun", "hydra/sweeper=optuna", "hydra/sweeper/pruner=median", "hydra.sweep.dir=study",
    "hydra.sweeper.pruner.n_startup_trials=1000", "optim.lr=interval(0.01,0.3)",
)  # fmt: skip
# System calls, by what a server of files is asked for.
KINDS = {
    "looks": ("newfstatat", "stat", "lstat", "statx", "access", "faccessat", "readlink"),
    "directories made": ("mkdir", "mkdirat"),
    "renames": ("rename", "renameat", "renameat2"),
    "removals": ("unlink", "unlinkat", "rmdir"),
    "syncs": ("fsync", "fdatasync"),
    "locks": ("flock",),
    "files opened": ("open", "openat"),
    "bytes written": ("write", "pwrite64", "writev"),
}
KIND_OF = {call: kind for kind, calls in KINDS.items() for call in calls}
LINE = re.compile(r"\d+ +(?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)")


def trace(folder: Path, words: Sequence[str]) -> Path:
    """The log of the system calls that the command of a run makes."""
    log = folder / "log"
    calls = ",".join(f"?{call}" for call in KIND_OF)
    subprocess.run(
        ["strace", "-f", "-y", "--seccomp-bpf", f"--trace={calls}", "-o", str(log),
         sys.executable, "-m", "resnet_sweep", *words, "hydra.run.dir=run"],
        cwd=folder, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return log


def file_operations(log: Path) -> tuple[Counter, Counter, int]:
    """What a run asked of the disk, in its run directory.

    Returns:
        All of it; what came between the end of the first epoch and that of the last, when
        `metrics.csv` gets its name; and how many epochs that are.
    """
    total: Counter = Counter()
    between: Counter = Counter()
    # It is written once before the first epoch.
    marks, at_mark = 0, Counter()
    for line in whole_lines(log.read_text(errors="replace")):
        found = LINE.match(line)
        if found is None or not ('"run/' in line or f"{log.parent}/run" in line):
            continue
        kind = KIND_OF[found["call"]]
        if kind == "files opened" and "O_CREAT" in found["arguments"]:
            kind = "files opened to write"
        total[kind] += max(0, int(found["result"])) if kind == "bytes written" else 1
        if kind == "renames" and line.count("metrics.csv") == 2:
            marks += 1
            if marks == 2:
                at_mark = total.copy()
            between = total - at_mark
    return total, between, marks - 2


def whole_lines(log: str) -> list[str]:
    """The lines of strace, of which it cuts some in two: those of threads side by side."""
    lines: list[str] = []
    begun: dict[str, str] = {}
    for line in log.splitlines():
        process, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[process] = line.removesuffix("<unfinished ...>")
        elif resumed := re.match(r" *<\.\.\. \w+ resumed>(.*)", rest):
            lines.append(begun.pop(process, "") + resumed[1])
        else:
            lines.append(line)
    return lines


def statements(folder: Path, words: Sequence[str]) -> Counter:
    """What the command of a study asks of its database; in a process of its own."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    folder.mkdir()
    os.chdir(folder)
    sys.argv = ["resnet_sweep", *words]
    counts: Counter = Counter()
    event.listen(
        Engine, "before_cursor_execute",
        lambda connection, cursor, text, *rest: counts.update([text.split()[0].upper()]),
    )  # fmt: skip
    event.listen(Engine, "commit", lambda connection: counts.update(["COMMIT"]))
    with contextlib.suppress(SystemExit), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        runpy.run_module("resnet_sweep", run_name="__main__")
    return counts


def main() -> None:
    """Count, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--storage", help="of a study, whose statements are counted instead")
    parser.add_argument("words", nargs="*")
    arguments = parser.parse_args()
    words = [*RUN, *arguments.words]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if arguments.storage is None:
            log = trace(folder, [*words, f"trainer.epochs={EPOCHS}"])
            total, between, count = file_operations(log)
            print("| in its directory | a run | and each epoch |\n|---|---|---|")
            for kind in sorted(total):
                each = between[kind] / count
                print(f"| {kind} | {total[kind] - EPOCHS * each:,.0f} | {each:,.1f} |")
            return
        counts = []
        for trials, epochs in ((2, FEW), (6, FEW), (2, MANY)):
            study = f"t{trials}e{epochs}"
            asked = [
                *STUDY, *words, f"hydra.sweeper.storage={arguments.storage}",
                f"hydra.sweeper.study_name={study}", f"hydra.sweeper.n_trials={trials}",
                f"trainer.epochs={epochs}",
            ]  # fmt: skip
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                counts.append(process.submit(statements, folder / study, asked).result())
        base, wider, longer = counts
        print("| statements | a worker | each trial | and each epoch |\n|---|---|---|---|")
        for kind in sorted(set().union(*counts)):
            epoch = (longer[kind] - base[kind]) / (2 * (MANY - FEW))
            trial = (wider[kind] - base[kind]) / 4 - FEW * epoch
            rest = base[kind] - 2 * (trial + FEW * epoch)
            print(f"| {kind} | {rest:,.0f} | {trial:,.1f} | {epoch:,.1f} |")


if __name__ == "__main__":
    main()
