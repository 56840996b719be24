"""Compare the time that searches with and without a pruner take to reach the same accuracy.

python -m benchmarks.study [--seeds 5] [--trials 30] [--epochs 9] [--images 4000]
python -m benchmarks.study --replay [CURVES.csv.gz] [--replays 200] [--trials 30] [--margin 1]

The first command runs four searches for each seed: a study without a pruner, which trains each
trial to its end, a study with Hyperband by one worker and by two, and a study with Hyperband that
promotes pruned trials. The target is the best accuracy that the study without a pruner reaches on
held-out training images, less one standard error of an accuracy on that number of images, since
accuracies that close can't be distinguished. The time counts from the command to the end of the
first run that reaches the target. The studies with Hyperband, which prune most of their trials,
have three times as many.

The second command replays searches over recorded curves, see `study_replay`. The default curves are
those of 16 variants of resnet8v2 with the seeds 0 to 5, on 2,500 images of CIFAR-100, validated on
2,500 others, for 12 epochs in batches of 32.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import start_python, temporary_folder
from benchmarks.study_replay import RECORDED, replay
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.loaded_run import LoadedRun

SPACE = (
    "optim.lr=tag(log,interval(0.001,0.5))",
    "optim.momentum=interval(0.5,0.98)",
    "optim.weight_decay=tag(log,interval(1e-5,1e-2))",
    "model.dropout=interval(0.0,0.4)",
)


# Exit statuses of a worker that aren't errors: success, failed trials, interrupted, and SIGTERM.
EXPECTED_STATUSES = (0, 1, 75, -15)


class SearchResult(NamedTuple):
    """The result of a search.

    Attributes:
        seconds: from the command to the target; None if the search didn't reach it.
        epochs: trained until then; all epochs if the search didn't reach the target.
        best: accuracy on the held-out images, percent.
    """

    seconds: float | None
    epochs: int
    best: float


def ended_runs(folder: Path) -> list[LoadedRun]:
    """Return the runs of a search that have ended with an accuracy, in the order of their ends."""
    if not (folder / "search").exists():
        return []
    runs = [
        run
        for run in find_runs([folder / "search"])
        if isinstance(run, LoadedRun) and run.record.ended and run.record.best
    ]
    return sorted(runs, key=end_time)


def end_time(run: LoadedRun) -> float:
    """Return the end of a run, seconds since 1970."""
    return datetime.fromisoformat(run.record.ended).timestamp()


def search(
    folder: Path, overrides: Sequence[str], workers: int, target: float | None, held_out: int
) -> tuple[SearchResult, float]:
    """Run a search until it has reached the target.

    Args:
        folder: an empty folder.
        overrides: of the command.
        workers: number of processes that run the command.
        target: accuracy to reach, percent; None runs the whole search, whose result sets the
            target.
        held_out: number of held-out images.

    Returns:
        The result, and the target.

    Raises:
        SystemExit: a worker failed.
    """
    start = time.time()
    command = ["-m", "resnet_sweep", "--multirun", *overrides, "hydra.sweep.dir=search"]
    processes = [
        start_python(command, folder, log=f"worker{number}.log") for number in range(workers)
    ]
    while any(process.poll() is None for process in processes):
        time.sleep(1)
        if target is not None and any(
            run.record.best["val_acc"] >= target for run in ended_runs(folder)
        ):
            for process in processes:
                process.terminate()
            break
    for number, process in enumerate(processes):
        status = process.wait()
        if status not in EXPECTED_STATUSES:
            output = (folder / f"worker{number}.log").read_text()
            raise SystemExit(f"worker {number} failed with exit status {status}:\n{output}")
    runs = ended_runs(folder)
    best = max(run.record.best["val_acc"] for run in runs)
    if target is None:
        target = best - 100 * math.sqrt(best / 100 * (1 - best / 100) / held_out)
    reached = next((run for run in runs if run.record.best["val_acc"] >= target), None)
    # With two workers, all epochs of a run that the other worker started before count too.
    epochs = [
        row
        for run in find_runs([folder / "search"])
        for row in run.metrics.rows
        if reached is None or run.started < end_time(reached)
    ]
    seconds = reached and end_time(reached) - start
    return SearchResult(seconds, len(epochs), best), target


def format_range(values: Sequence[float | None], digits: int = 0) -> str:
    """Return the median and the range. None is larger than all numbers, and becomes "never"."""
    numbers = [math.inf if value is None else value for value in values]
    median, low, high = (
        f"{value:.{digits}f}" if math.isfinite(value) else "never"
        for value in (statistics.median(numbers), min(numbers), max(numbers))
    )
    return f"{median} ({low} to {high})"


def print_replays(results: Mapping[str, Sequence[float]]) -> None:
    """Print a table in Markdown of the epochs until the target: medians and quartiles."""
    print(
        table_header(
            "search",
            "epochs to the target",
            "share of the epochs of random search",
            "replays without the target",
        )
    )
    full = results["random search"]
    for name, epochs in results.items():
        shares = [one / other for one, other in zip(epochs, full, strict=True)]
        missed = f"{sum(map(math.isinf, epochs))} of {len(epochs)}"
        print(table_row(name, format_quartiles(epochs), format_quartiles(shares, 2), missed))


def format_quartiles(values: Sequence[float], digits: int = 0) -> str:
    """Return the median and the quartiles. Infinity becomes "never"."""
    ranked = sorted(values)
    low, median, high = (
        f"{value:.{digits}f}" if math.isfinite(value) else "never"
        for value in (ranked[round(share * (len(ranked) - 1))] for share in (0.25, 0.5, 0.75))
    )
    return f"{median} ({low} to {high})"


def main() -> None:
    """Run all searches, and print a table in Markdown."""
    parser = make_parser("study", __doc__)
    for name, default, help_text in (
        ("seeds", 5, "number of seeds"),
        ("trials", 30, "trials without a pruner"),
        ("epochs", 9, "epochs in a trial"),
        ("images", 4000, "training images, half of which are held out"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{help_text} (default: {default})"
        )
    parser.add_argument(
        "--replay",
        nargs="?",
        type=Path,
        const=RECORDED,
        metavar="CURVES.csv.gz",
        help="replay searches over recorded curves (default: data/recorded_curves.csv.gz)",
    )
    parser.add_argument("--replays", type=int, default=200, help="number of replays (default: 200)")
    parser.add_argument(
        "--margin",
        type=float,
        default=1.0,
        help="standard errors between the best accuracy and the target of a replay (default: 1)",
    )
    parser.add_argument(
        "--experiment", help="for example quickstart, which trains on digits (default: resnet8v2)"
    )
    arguments = parser.parse_args()
    if arguments.replay is not None:
        results = replay(arguments.replays, arguments.trials, arguments.margin, arguments.replay)
        print_replays(results)
        return
    held_out = arguments.images // 2
    experiment = arguments.experiment
    common = [
        f"experiment={experiment}" if experiment else "model=resnet8v2",
        *SPACE,
        f"trainer.epochs={arguments.epochs}",
        f"data.limit_train={arguments.images}",
        f"data.holdout={held_out}",
        "trainer.threads=1",
        "trainer.device=cpu",
        "logger=csv",
    ]
    searches = {
        "no pruner": (1, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=none"]),
        "study": (1, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=hyperband"]),
        "study, promote": (
            1,
            [
                "hydra/sweeper=optuna",
                "hydra/sweeper/pruner=hyperband",
                "hydra.sweeper.promote=true",
            ],
        ),
        "study, two workers": (2, ["hydra/sweeper=optuna", "hydra/sweeper/pruner=hyperband"]),
    }
    results: dict[str, list[SearchResult]] = {name: [] for name in searches}
    for seed in range(arguments.seeds):
        target = None
        for name, (workers, overrides) in searches.items():
            trials = arguments.trials * (1 if target is None else 3)
            sampling = [f"hydra.sweeper.sampler.seed={seed}", f"hydra.sweeper.n_trials={trials}"]
            overrides = [*overrides, *common, *sampling]
            with temporary_folder() as folder:
                result, target = search(folder, overrides, workers, target, held_out)
            results[name].append(result)
            print(f"seed {seed}, to {target:.2f}%, {name}: {result}", file=sys.stderr, flush=True)
    print(f"{os.cpu_count()} cores, {arguments.seeds} seeds, medians and ranges\n")
    print(
        table_header(
            "sweeper",
            "seconds to the target",
            "epochs to it",
            "share of the time without a pruner",
        )
    )
    for name, by_seed in results.items():
        shares = [
            result.seconds and result.seconds / unpruned.seconds
            for result, unpruned in zip(by_seed, results["no pruner"], strict=True)
        ]
        print(
            table_row(
                name,
                format_range([result.seconds for result in by_seed]),
                format_range([result.epochs for result in by_seed]),
                format_range(shares, 2),
            )
        )


if __name__ == "__main__":
    main()
