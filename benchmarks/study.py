"""How long searches take to the same best value: the stock sweeper, and studies that prune.

python -m benchmarks.study [--seeds 5] [--trials 30] [--epochs 9] [--images 2000]

Each seed searches four times: with the stock Optuna sweeper, which trains every trial to its end;
and with `hydra/sweeper=study` and Hyperband, with one worker and with two. What is timed is how
long each takes to the best value that the stock sweeper has after all its trials, on held-out
training images, and how many epochs were trained until then.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.entry import Entry

SPACE = (
    "optim.lr=tag(log,interval(0.001,0.5))", "optim.momentum=interval(0.5,0.98)",
    "optim.weight_decay=tag(log,interval(1e-5,1e-2))", "model.dropout=interval(0.0,0.4)",
)  # fmt: skip


class Search(NamedTuple):
    """What came of a search.

    Attributes:
        seconds: from its beginning to the target, or None if it never got there.
        epochs: that were trained by then; all of them, if it never got there.
        total: seconds to its end.
        best: value, percent.
    """

    seconds: float | None
    epochs: int
    total: float
    best: float


def search(
    folder: Path, words: Sequence[str], workers: int, target: float | None
) -> tuple[Search, list[Entry]]:
    """Carry a search out with some workers, and see when it reached the target."""
    begun, moment = time.time(), time.monotonic()
    command = [sys.executable, "-m", "resnet_sweep", "--multirun", *words, "hydra.sweep.dir=search"]
    processes = []
    for number in range(workers):
        log = (folder / f"worker{number}.log").open("w")
        processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
    status = [process.wait() for process in processes]
    total = time.monotonic() - moment
    if any(code not in (0, 1) for code in status):
        raise SystemExit(f"a worker ended with {status}: see {folder}")
    runs = [entry for entry in find_runs([folder / "search"]) if entry.record is not None]
    best = max(entry.record.best["val_acc"] for entry in runs if entry.record.best)
    reached, epochs = None, sum(len(entry.metrics.rows) for entry in runs)
    goal = best if target is None else target
    at = []
    for entry in runs:
        if entry.record.best and entry.record.best["val_acc"] >= goal:
            at.append(datetime.fromisoformat(entry.record.ended).timestamp())
    if at:
        reached = max(min(at) - begun, 0.0)
        epochs = sum(
            len(entry.metrics.rows)
            for entry in runs
            if datetime.fromisoformat(entry.record.ended).timestamp() <= min(at)
        )
    return Search(reached, epochs, total, best), runs


def spread(values: Sequence[float | None], digits: int = 0) -> str:
    """Median and range."""
    known = [value for value in values if value is not None]
    if not known:
        return "never"
    middle, low, high = (
        f"{value:.{digits}f}" for value in (statistics.median(known), min(known), max(known))
    )
    told = f"{middle} ({low} to {high})"
    return told if len(known) == len(values) else f"{told}, in {len(known)} of {len(values)}"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Time searches to the same best value.")
    for name, default in (("seeds", 5), ("trials", 30), ("epochs", 9), ("images", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--experiment", default=None, help="such as quickstart, for digits")
    arguments = parser.parse_args()
    common = [
        *SPACE, f"trainer.epochs={arguments.epochs}", f"data.limit_train={arguments.images}",
        f"data.holdout={arguments.images // 4}", "trainer.threads=1", "trainer.device=cpu",
        "logger=csv", f"hydra.sweeper.n_trials={arguments.trials}",
    ]  # fmt: skip
    if arguments.experiment:
        common.insert(0, f"experiment={arguments.experiment}")
    else:
        common.insert(0, "model=resnet8v2")
    ways = {
        "stock": (1, ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1"]),
        "study": (1, ["hydra/sweeper=study", "hydra/sweeper/pruner=hyperband"]),
        "study, two workers": (2, ["hydra/sweeper=study", "hydra/sweeper/pruner=hyperband"]),
    }
    found: dict[str, list[Search]] = {way: [] for way in ways}
    for seed in range(arguments.seeds):
        target = None
        for way, (workers, words) in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                drawn = f"hydra.sweeper.sampler.seed={seed}"
                one, _ = search(Path(folder), [*words, *common, drawn], workers, target)
            target = one.best if target is None else target
            found[way].append(one)
            print(f"seed {seed}, {way}: {one}", file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, {arguments.seeds} seeds, medians and ranges\n")
    print("| sweeper | seconds to the stock one's best | epochs to it | seconds in all | best, % |")
    print("|---|---|---|---|---|")
    for way, searches in found.items():
        columns = [
            spread([each.seconds for each in searches]),
            spread([each.epochs for each in searches]),
            spread([each.total for each in searches]),
            spread([each.best for each in searches], 2),
        ]
        print(f"| {way} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
