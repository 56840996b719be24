"""Compare the time that searches with and without a pruner take to reach the same accuracy.

python -m benchmarks.study [--seeds 10] [--trials 12] [--epochs 9] [--images 1000] [--parallel 2]
    [--output RESULTS.jsonl] [OVERRIDE ...]
python -m benchmarks.study --replay [CURVES.csv.gz] [--replays 200] [--trials 60] [--margin 1]

The first command runs four searches for each seed, with one worker each:

- A study without a pruner, which trains each trial to its end, as the sweeper of Hydra's Optuna
  plugin does. Its best accuracy on held-out training images is the target.
- A study with Hyperband, which has three times as many trials, since it prunes most of them.
- A study with Hyperband that promotes. It has as many trials as the first study, and then promotes
  the pruned trials until one of them reaches the target.
- The same with three times as many trials.

The time counts from the command to the end of the first run that reaches the target. Then this run,
or the best run if none reaches it, is trained again with new seeds. The mean of their accuracies is
the confirmed accuracy. `--parallel` is the number of seeds at a time; each search has one thread.
With `--output`, each result is appended to a file. The same command reads the file, and runs only
the searches that it lacks.

The second command replays searches over recorded curves, see `study_replay`. The default table is
that of `recorded_curves`.
"""

import json
import math
import os
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import LOG, start_python, temporary_folder
from benchmarks.recorded_curves import RECORDED
from benchmarks.study_replay import replay
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.compare.loaded_run import LoadedRun

SPACE = (
    "optim.lr=tag(log,interval(0.001,0.5))",
    "optim.momentum=interval(0.5,0.98)",
    "optim.weight_decay=tag(log,interval(1e-5,1e-2))",
    "model.dropout=interval(0.0,0.4)",
)
# Seeds of the runs that confirm a result. The searches have smaller ones.
NEW_SEEDS = (1001, 1002, 1003)
# Seconds that no search takes. With a time limit, a study promotes all pruned trials.
UNLIMITED = 10**7
FULL = "every trial to its end"
# Exit statuses of a study that aren't errors: success, failed trials, interrupted, and SIGTERM.
EXPECTED_STATUSES = (0, 1, 75, -15)


class Search(NamedTuple):
    """A kind of search.

    Attributes:
        overrides: of the command.
        trials: number of trials, as a multiple of that of the first search.
    """

    overrides: Sequence[str]
    trials: int = 1


HYPERBAND = ("hydra/sweeper/pruner=hyperband",)
PROMOTING = (*HYPERBAND, "hydra.sweeper.promote=true", f"hydra.sweeper.timeout={UNLIMITED}")
SEARCHES: Mapping[str, Search] = {
    FULL: Search(["hydra/sweeper/pruner=none"]),
    "Hyperband": Search(HYPERBAND, trials=3),
    "Hyperband, promotes": Search(PROMOTING),
    "Hyperband, promotes, 3 x trials": Search(PROMOTING, trials=3),
}


class SearchResult(NamedTuple):
    """The result of a search.

    Attributes:
        seconds: from the command to the target; None if the search didn't reach it.
        epochs: trained until then; all epochs if the search didn't reach the target.
        best: accuracy of the run that reached the target, or the best accuracy, percent.
        confirmed: the mean of this run's accuracies with new seeds, percent.
    """

    seconds: float | None
    epochs: int
    best: float
    confirmed: float


def complete_runs(folder: Path) -> list[LoadedRun]:
    """Return the runs below a folder that were trained to their end, in the order of their ends."""
    if not folder.exists():
        return []
    runs = [
        run
        for run in find_runs([folder])
        if isinstance(run, LoadedRun) and run.state in COMPLETE and run.record.best
    ]
    return sorted(runs, key=end_time)


def end_time(run: LoadedRun) -> float:
    """Return the end of a run, seconds since 1970."""
    return datetime.fromisoformat(run.record.ended).timestamp()


def search(folder: Path, overrides: Sequence[str], target: float | None) -> SearchResult:
    """Run a search until it has reached the target, and confirm its result.

    Args:
        folder: an empty folder.
        overrides: of the command.
        target: accuracy to reach, percent; None for the best accuracy of the whole search.

    Raises:
        SystemExit: a command failed.
    """
    start = time.time()
    process = start_python(
        ["-m", "resnet_sweep", "--multirun", *overrides, "hydra.sweep.dir=search"], folder
    )
    while process.poll() is None:
        time.sleep(1)
        runs = complete_runs(folder / "search")
        if target is not None and any(run.best_accuracy >= target for run in runs):
            process.terminate()
            break
    check_status(process.wait(), folder)
    runs = complete_runs(folder / "search")
    best = max(run.best_accuracy for run in runs)
    goal = best if target is None else target
    reached = next((run for run in runs if run.best_accuracy >= goal), None)
    found = reached or max(runs, key=lambda run: run.best_accuracy)
    # The search may have begun another trial before it was stopped.
    ended = math.inf if reached is None else end_time(reached)
    epochs = sum(
        len(run.metrics.rows)
        for run in find_runs([folder / "search"])
        if isinstance(run, LoadedRun) and run.started <= ended
    )
    seconds = reached and ended - start
    return SearchResult(seconds, epochs, found.best_accuracy, confirm(folder, found))


def confirm(folder: Path, run: LoadedRun) -> float:
    """Train a run again with new seeds; return the mean of their best accuracies."""
    seeds = ",".join(map(str, NEW_SEEDS))
    overrides = [*run.record.overrides, f"seed={seeds}", "hydra.sweep.dir=confirmation"]
    process = start_python(["-m", "resnet_sweep", "--multirun", *overrides], folder)
    check_status(process.wait(), folder)
    accuracies = [found.best_accuracy for found in complete_runs(folder / "confirmation")]
    # A run that diverges has no accuracy.
    return statistics.fmean(accuracies) if accuracies else math.nan


def check_status(status: int, folder: Path) -> None:
    """Exit with the output of a command if its exit status is unexpected."""
    if status not in EXPECTED_STATUSES:
        raise SystemExit(f"exit status {status}:\n{(folder / LOG).read_text()}")


def compare_searches(
    seed: int, trials: int, common: Sequence[str], known: Mapping[str, SearchResult]
) -> Iterator[tuple[str, SearchResult]]:
    """Run the searches with one seed whose results aren't known; yield their names and results."""
    target = known[FULL].best if FULL in known else None
    for name, kind in SEARCHES.items():
        if name in known:
            continue
        overrides = (
            "hydra/sweeper=optuna",
            *kind.overrides,
            *common,
            f"hydra.sweeper.sampler.seed={seed}",
            f"hydra.sweeper.n_trials={trials * kind.trials}",
        )
        with temporary_folder() as folder:
            result = search(folder, overrides, target)
        if target is None:
            target = result.best
        print(f"seed {seed}, {name}: {result}", file=sys.stderr, flush=True)
        yield name, result


def read_results(
    path: Path | None, settings: Mapping[str, Any]
) -> defaultdict[int, dict[str, SearchResult]]:
    """Return the results in a file with these settings, by seed and by name of the search."""
    found: defaultdict[int, dict[str, SearchResult]] = defaultdict(dict)
    if path is not None and path.exists():
        for line in map(json.loads, path.read_text().splitlines()):
            if line["settings"] == settings:
                found[line["seed"]][line["search"]] = SearchResult(**line["result"])
    return found


def measure(arguments: Any) -> dict[int, dict[str, SearchResult]]:
    """Run the searches of all seeds; return their results by seed and name."""
    settings = {
        "trials": arguments.trials,
        "epochs": arguments.epochs,
        "images": arguments.images,
        "overrides": arguments.overrides,
    }
    # The file may be given by a path that isn't absolute, and the searches have own folders.
    found = read_results(arguments.output, settings)
    common = (
        *SPACE,
        f"trainer.epochs={arguments.epochs}",
        f"data.limit_train={arguments.images}",
        f"data.holdout={arguments.images}",
        "trainer.threads=1",
        "trainer.device=cpu",
        "logger=csv",
        *arguments.overrides,
    )
    lock = threading.Lock()

    def run(seed: int) -> None:
        for name, result in compare_searches(seed, arguments.trials, common, {**found[seed]}):
            with lock:
                found[seed][name] = result
                if arguments.output is not None:
                    line = {"seed": seed, "search": name, "result": result._asdict()}
                    with arguments.output.open("a") as file:
                        file.write(json.dumps({"settings": settings} | line) + "\n")

    with ThreadPoolExecutor(arguments.parallel) as pool:
        # The list lets an error of a thread end the command.
        list(pool.map(run, range(arguments.seeds)))
    return {seed: found[seed] for seed in range(arguments.seeds)}


def format_range(values: Sequence[float | None], digits: int = 0) -> str:
    """Return the median and the range. None is larger than all numbers, and becomes "never"."""
    numbers = [math.inf if value is None else value for value in values]
    median, low, high = (
        f"{value:.{digits}f}" if math.isfinite(value) else "never"
        for value in (statistics.median(numbers), min(numbers), max(numbers))
    )
    return f"{median} ({low} to {high})"


def print_results(results: Mapping[int, Mapping[str, SearchResult]]) -> None:
    """Print a table in Markdown: medians and ranges over the seeds."""
    print(f"{os.cpu_count()} cores, {len(results)} seeds, medians and ranges\n")
    columns = (
        "search",
        "seconds to the target",
        "epochs to it",
        "share of the time of the first search",
        "seeds without the target",
        "claimed, %",
        "confirmed, %",
    )
    print(table_header(*columns))
    for name in SEARCHES:
        found = [searches[name] for searches in results.values()]
        shares = [
            result.seconds and result.seconds / searches[FULL].seconds
            for result, searches in zip(found, results.values(), strict=True)
        ]
        cells = (
            format_range([result.seconds for result in found]),
            format_range([result.epochs for result in found]),
            format_range(shares, 2),
            f"{shares.count(None)} of {len(found)}",
            format_range([result.best for result in found], 1),
            format_range([result.confirmed for result in found], 1),
        )
        print(table_row(name, *cells))


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
    """Run or replay the searches, and print a table in Markdown."""
    parser = make_parser("study", __doc__)
    for name, default, help_text in (
        ("seeds", 10, "number of seeds"),
        ("trials", 12, "trials without a pruner"),
        ("epochs", 9, "epochs in a trial"),
        ("images", 1000, "images to train on; as many are held out"),
        ("parallel", 1, "seeds at a time"),
        ("replays", 200, "number of replays"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, help=f"{help_text} (default: {default})"
        )
    parser.add_argument(
        "--output", type=Path, metavar="RESULTS.jsonl", help="file to which results are appended"
    )
    parser.add_argument(
        "--replay",
        nargs="?",
        type=Path,
        const=RECORDED,
        metavar="CURVES.csv.gz",
        help="replay searches over recorded curves (default: data/recorded_curves.csv.gz)",
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=1.0,
        help="standard errors between the best accuracy and the target of a replay (default: 1)",
    )
    add_overrides(parser)
    arguments = parser.parse_intermixed_args()
    if arguments.replay is not None:
        results = replay(arguments.replays, arguments.trials, arguments.margin, arguments.replay)
        print_replays(results)
    else:
        print_results(measure(arguments))


if __name__ == "__main__":
    main()
