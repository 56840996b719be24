"""How long searches take to the same value: without a pruner, and with one.

python -m benchmarks.study [--seeds 5] [--trials 30] [--epochs 9] [--images 4000]

With each seed three searches take turns: a study that trains every trial to its
end, and `hydra/sweeper=optuna` with Hyperband, by one worker and by two. The target is the best
value that the first one has after all its trials, on held-out training images, less one
standard error of an accuracy on so few images: a trial that comes so near can't be told from the
best. Each is timed from its command to the end of the first run that reaches the target; a study
has three times as many trials to get there, most of which it prunes.
"""

import argparse
import math
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
from resnet_sweep.compare.loaded_run import LoadedRun

SPACE = (
    "optim.lr=tag(log,interval(0.001,0.5))", "optim.momentum=interval(0.5,0.98)",
    "optim.weight_decay=tag(log,interval(1e-5,1e-2))", "model.dropout=interval(0.0,0.4)",
)  # fmt: skip


class Search(NamedTuple):
    """What came of a search.

    Attributes:
        seconds: from its command to the target, or None if it never got there.
        epochs: that were trained by then; all of them, if it never got there.
        best: value, percent.
    """

    seconds: float | None
    epochs: int
    best: float


def ended_runs(folder: Path) -> list[LoadedRun]:
    """The runs of a search that have ended with a value, the first one first."""
    if not (folder / "search").exists():
        return []
    entries = [
        entry
        for entry in find_runs([folder / "search"])
        if isinstance(entry, LoadedRun) and entry.record.ended and entry.record.best
    ]
    return sorted(entries, key=moment_of)


def moment_of(entry: LoadedRun) -> float:
    """When a run ended, seconds since 1970."""
    return datetime.fromisoformat(entry.record.ended).timestamp()


def search(
    folder: Path, words: Sequence[str], workers: int, target: float | None, held_out: int
) -> tuple[Search, float]:
    """Carry a search out with some workers, until it has reached the target.

    Args:
        folder: to do it in.
        words: of the command.
        workers: how many times it is started.
        target: value to be reached, percent; None searches to the end, and then sets it.
        held_out: images that a value is of.

    Returns:
        What came of it, and the target.
    """
    begun = time.time()
    command = [sys.executable, "-m", "resnet_sweep", "--multirun", *words, "hydra.sweep.dir=search"]
    processes = []
    for number in range(workers):
        log = (folder / f"worker{number}.log").open("w")
        processes.append(subprocess.Popen(command, cwd=folder, stdout=log, stderr=log))
    while any(process.poll() is None for process in processes):
        time.sleep(1)
        if target is not None and any(
            entry.record.best["val_acc"] >= target for entry in ended_runs(folder)
        ):
            for process in processes:
                process.terminate()
            break
    status = [process.wait() for process in processes]
    if any(code not in (0, 1, 75, -15) for code in status):
        raise SystemExit(f"a worker ended with {status}: see {folder}")
    runs = ended_runs(folder)
    best = max(entry.record.best["val_acc"] for entry in runs)
    if target is None:
        target = best - 100 * math.sqrt(best / 100 * (1 - best / 100) / held_out)
    reached = next((run for run in runs if run.record.best["val_acc"] >= target), None)
    # Two workers train at once: what the other has begun by then counts as far as it got.
    by_then = [
        row
        for entry in find_runs([folder / "search"])
        for row in entry.metrics.rows
        if reached is None or entry.started < moment_of(reached)
    ]
    seconds = reached and moment_of(reached) - begun
    return Search(seconds, len(by_then), best), target


def spread(values: Sequence[float | None], digits: int = 0) -> str:
    """Median and range, of which None, for never, is above all others."""
    every = [math.inf if value is None else value for value in values]
    middle, low, high = statistics.median(every), min(every), max(every)
    middle, low, high = (
        f"{value:.{digits}f}" if math.isfinite(value) else "never" for value in (middle, low, high)
    )
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description="Time searches to the same best value.")
    for name, default in (("seeds", 5), ("trials", 30), ("epochs", 9), ("images", 4000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--experiment", default=None, help="such as quickstart, for digits")
    arguments = parser.parse_args()
    held_out = arguments.images // 2
    common = [
        *SPACE, f"trainer.epochs={arguments.epochs}", f"data.limit_train={arguments.images}",
        f"data.holdout={held_out}", "trainer.threads=1", "trainer.device=cpu", "logger=csv",
    ]  # fmt: skip
    if arguments.experiment:
        common.insert(0, f"experiment={arguments.experiment}")
    else:
        common.insert(0, "model=resnet8v2")
    ways = {
        "no pruner": (1, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=none"]),
        "study": (1, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=hyperband"]),
        "study, two workers": (2, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=hyperband"]),
    }
    found: dict[str, list[Search]] = {way: [] for way in ways}
    for seed in range(arguments.seeds):
        target = None
        for way, (workers, words) in ways.items():
            trials = arguments.trials * (1 if target is None else 3)
            drawn = [f"hydra.sweeper.sampler.seed={seed}", f"hydra.sweeper.n_trials={trials}"]
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                one, target = search(place, [*words, *common, *drawn], workers, target, held_out)
            found[way].append(one)
            print(f"seed {seed}, to {target:.2f}%, {way}: {one}", file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, {arguments.seeds} seeds, medians and ranges\n")
    print("| sweeper | seconds to the target | epochs to it | share of the time without a pruner |")
    print("|---|---|---|---|")
    for way, searches in found.items():
        shares = [
            one.seconds and one.seconds / other.seconds
            for one, other in zip(searches, found["no pruner"], strict=True)
        ]
        columns = [
            spread([each.seconds for each in searches]),
            spread([each.epochs for each in searches]),
            spread(shares, 2),
        ]
        print(f"| {way} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
