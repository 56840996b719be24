"""Measure the time and memory that many runs, jobs and trials need.

python -m benchmarks.scale [--part runs|sweep|grid|study|memory] [--runs 10000] [--jobs 100]
                           [--grid 100 1000 10000] [--trials 1000]

Parts:

- `runs`: the time and memory of `python -m resnet_sweep runs` and `python -m resnet_sweep report`
  on a directory of runs of 20 epochs, which this script writes. Each command runs three times in a
  fresh process.
- `sweep`: the memory of one process that trains many jobs of one step, and the memory that each
  further job adds, from the 20th job on.
- `grid`: the time that a sweep spends on each job besides training: to plan it, write its
  directory, launch it and write the results. It is measured for sweeps of several sizes.
- `study`: the time that a worker of a study spends on each trial besides training: to lock it,
  sample its parameters, look for duplicates, report three epochs, end it and write the results.
- `memory`: the memory of 1, 2 and 4 jobs at once on CIFAR-100, and the part that the images take.
"""

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.trial import TrialState

from benchmarks.command_line import make_parser
from benchmarks.markdown import median_and_range, table_header, table_row
from benchmarks.processes import (
    check_success,
    process_tree,
    proportional_memory,
    run_python,
    start_python,
    temporary_folder,
)
from benchmarks.timestamps import FILE, TIMESTAMPS_OVERRIDE
from resnet_sweep.compare.objective import Objective
from resnet_sweep.runs.metrics import write_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.studies.search_space import SearchSpace, TrialSampler
from resnet_sweep.studies.storage import open_storage, set_up_optuna
from resnet_sweep.studies.trial_queue import TrialQueue

EPOCHS = 20
REPETITIONS = 3
WINDOW = 100
ONE_STEP = (
    "experiment=quickstart",
    "data.limit_train=64",
    "data.limit_test=10",
    "trainer.epochs=1",
    "trainer.max_steps=1",
    "logger=csv",
)


def write_runs(folder: Path, count: int) -> None:
    """Write run directories of different settings, with five seeds for each combination."""
    for number in range(count):
        accuracy = 50 + number % 997 / 40
        row: dict[str, Any] = {"lr": 0.1, "train_loss": 1.2, "val_loss": 1.5, "grad_norm": 1.0}
        row |= {"seconds": 60.0, "images_per_second": 833.0}
        rows = [
            {**row, "epoch": epoch, "train_acc": accuracy + epoch, "val_acc": accuracy + epoch / 2}
            for epoch in range(1, EPOCHS + 1)
        ]
        last = rows[-1]
        seed, combination = number % 5, number // 5
        config = {
            "seed": seed,
            "model": {"_target_": "resnet_sweep.models.ResNet", "dropout": combination % 5 / 10},
            "data": {"_target_": "resnet_sweep.data.CIFAR100"},
            "optim": {
                "_target_": "torch.optim.SGD",
                "lr": (1 + combination % 20) / 100,
                "momentum": 0.9,
                "weight_decay": (1 + combination // 20) / 1e5,
            },
            "trainer": {"epochs": EPOCHS, "batch_size": 128},
        }
        directory = folder / str(number)
        directory.mkdir()
        write_metrics(directory, rows)
        Record(
            signature=f"{number:016x}",
            state="finished",
            config=config,
            choices={"model": "resnet8v2", "data": "cifar100", "optim": "sgd"},
            parameters=83_700,
            best={name: last[name] for name in ("epoch", "val_acc", "val_loss")},
            final={
                name: last[name]
                for name in ("epoch", "train_acc", "train_loss", "val_acc", "val_loss")
            },
            gap=last["train_acc"] - last["val_acc"],
            seconds=60.0 * EPOCHS,
            started="2026-01-02T03:04:05+00:00",
            ended="2026-01-02T03:24:05+00:00",
            host="localhost",
            device="cpu",
            threads=2,
            precision="float32",
            seed=seed,
        ).write(directory)


def measure_runs(count: int) -> Iterator[str]:
    """Yield the table of the commands that read many runs."""
    yield table_header(f"command, on {count:,} runs", "median, s", "from", "to", "memory, MB")
    with temporary_folder() as folder:
        (folder / "sweep").mkdir()
        write_runs(folder / "sweep", count)
        for command in (["runs", "sweep"], ["report", "sweep", "-o", "report.html"]):
            seconds, memory = [], []
            for _ in range(REPETITIONS):
                start = time.monotonic()
                memory.append(run_python(["-m", "resnet_sweep", *command], folder))
                seconds.append(time.monotonic() - start)
            cells = [*median_and_range(seconds, 1), f"{max(memory):,.0f}"]
            yield table_row(f"`{' '.join(command)}`", *cells)
        size = (folder / "report.html").stat().st_size
        yield f"\nThe report has {size / 1e6:.1f} MB."


def measure_sweep(count: int) -> Iterator[str]:
    """Yield the table of the memory of a process that trains many jobs."""
    command = ["-m", "resnet_sweep", "--multirun", f"seed=range(0,{count})", *ONE_STEP]
    points: list[tuple[int, float]] = []
    with temporary_folder() as folder:
        with start_python([*command, "hydra.sweep.dir=sweep"], folder) as process:
            while process.poll() is None:
                time.sleep(1)
                ended = len([*folder.glob("sweep/*/plots/lr.png")])
                memory = proportional_memory(process.pid)
                if memory and ended and (not points or points[-1][0] < ended):
                    points.append((ended, memory))
        check_success(process, folder)
    # The first jobs import modules, so they don't count for the growth.
    settled = [(ended, memory) for ended, memory in points if ended >= min(20, count // 2)]
    growth = statistics.linear_regression(*zip(*settled, strict=True)).slope
    ended, memory = points[-1]
    yield table_header(
        "jobs", "memory after the first, MB", "after the last", "each further job adds, MB"
    )
    yield table_row(f"{ended}", f"{points[0][1]:,.0f}", f"{memory:,.0f}", f"{growth:.3f}")
    yield f"\nBy these numbers, 1,000 jobs need {memory + growth * (1000 - ended):,.0f} MB."


def measure_grid(counts: Sequence[int]) -> Iterator[str]:
    """Yield the table of the time that sweeps of several sizes spend on each job."""
    yield table_header(
        "jobs of a sweep",
        "before the first starts, ms a job",
        "between two jobs, ms: median",
        "mean",
        "processor time between two jobs, ms: median",
        "mean",
    )
    for count in counts:
        with temporary_folder() as folder:
            sweep = ["--multirun", f"seed=range(0,{count})", "hydra.sweep.dir=sweep", *ONE_STEP]
            start = time.time()
            check_success(start_python(["-c", WITHOUT_TRAINING, *sweep], folder), folder)
            starts = [line.split() for line in (folder / "starts").read_text().splitlines()]
        clocks = [[float(value) for value in clock] for clock in zip(*starts, strict=True)]
        before = 1000 * (clocks[0][0] - start) / count
        gaps = (
            [1000 * (later - earlier) for earlier, later in itertools.pairwise(clock)]
            for clock in clocks
        )
        cells = itertools.chain.from_iterable(map(median_and_mean, gaps))
        yield table_row(f"{count:,}", f"{before:.1f}", *cells)


def median_and_mean(values: Sequence[float]) -> list[str]:
    """Return two cells."""
    return [f"{statistics.median(values):.1f}", f"{statistics.mean(values):.1f}"]


# A script that runs the command line, and replaces each training by a line with the time
# and the processor time in a file.
WITHOUT_TRAINING = """
import sys, time
from resnet_sweep import cli, jobs

file = open("starts", "w", buffering=1)

def train(planned, run, *args, **kwargs):
    print(time.time(), time.process_time(), file=file)
    row = {"lr": 0.1, "train_loss": 1.0, "train_acc": 50.0, "val_loss": 1.0, "val_acc": 50.0}
    run.write_metrics([{"epoch": 1, **row, "seconds": 1.0, "images_per_second": 100.0}])
    run.close("finished")

jobs.train = train
cli.main()
"""


def measure_study(count: int) -> Iterator[str]:
    """Yield the table of the time that a worker spends on each trial. A script writes the runs."""
    set_up_optuna()
    space = SearchSpace(["optim.lr=interval(0.01,0.3)"])
    plan: Any = SimpleNamespace(space=space, objectives=[Objective()], replicates=1)
    with temporary_folder() as folder:
        write_runs(folder, count)
        storage = open_storage(None, folder)
        sampler = TrialSampler({"_target_": "optuna.samplers.RandomSampler", "seed": 0}, space)
        study = optuna.create_study(storage=storage, direction="maximize", pruner=MedianPruner())
        queue = TrialQueue(study, storage, folder, count)
        results = StudyResults(queue, plan, {})
        wall, processor, in_pruner = [], [], []
        for number in range(count):
            start, processor_start, pruning = time.monotonic(), time.process_time(), 0.0
            lock = queue.take()
            assert lock is not None
            trial = sampler.sample(study, lock.id, lock.number)
            queue.mark_if_duplicate(trial, f"{number:016x}")
            for epoch in range(1, 4):
                trial.report(50.0 + epoch, epoch)
                pruning -= time.process_time()
                trial.should_prune()
                pruning += time.process_time()
            queue.end(trial, TrialState.COMPLETE, [53.0])
            results.of(queue.read(number))
            lock.release()
            results.save()
            wall.append(time.monotonic() - start)
            processor.append(time.process_time() - processor_start)
            in_pruner.append(pruning)
        results.save(now=True)
    yield table_header(
        "trials of a study, up to",
        f"ms for each of the last {WINDOW}: median",
        "mean",
        "processor time, ms: median",
        "mean",
        "in Optuna's pruner: median",
        "mean",
    )
    for end in sorted({WINDOW, 1000, count}):
        if end <= count:
            windows = (
                [1000 * value for value in values[max(0, end - WINDOW) : end]]
                for values in (wall, processor, in_pruner)
            )
            cells = itertools.chain.from_iterable(map(median_and_mean, windows))
            yield table_row(f"{end:,}", *cells)


def measure_memory() -> Iterator[str]:
    """Yield the table of the memory of several jobs at once, and of their images."""
    yield table_header(
        "jobs at once", "together, MB", "images mapped, sum over processes, MB", "held, MB"
    )
    for count in (1, 2, 4):
        command = ["-m", "resnet_sweep", "--multirun", f"seed=range(0,{count})", "model=resnet8v2"]
        command += ["data.limit_test=100", "trainer.epochs=1", "trainer.threads=1", "logger=csv"]
        command += ["hydra/launcher=pool", f"hydra.launcher.workers={count}", TIMESTAMPS_OVERRIDE]
        with (
            temporary_folder() as folder,
            start_python([*command, "hydra.sweep.dir=sweep"], folder) as process,
        ):
            # After some batches, whose images are chosen at random, a job has read most images.
            while process.poll() is None and any(
                not (folder / f"sweep/{job}/{FILE}").exists() for job in range(count)
            ):
                time.sleep(1)
            time.sleep(20)
            processes = [*process_tree(process.pid)]
            total = sum(map(proportional_memory, processes))
            mapped, held = image_memory(processes)
            process.terminate()
        yield table_row(f"{count}", f"{total:,.0f}", f"{mapped:,.0f}", f"{held:,.0f}")


def image_memory(processes: list[int]) -> tuple[float, float]:
    """Return the memory that processes use for the array files of images, MB.

    Returns:
        The sum over the processes, and the same with each shared page counted once.
    """
    mapped = held = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
        except OSError:
            continue
        is_image = False
        for line in lines:
            # A mapping starts with a line that ends with its file. Its values follow, one in a line
            # that starts with a name and a colon.
            if not line.split()[0].endswith(":"):
                is_image = line.endswith("_images.npy")
            elif is_image and line.startswith("Rss:"):
                mapped += int(line.split()[1])
            elif is_image and line.startswith("Pss:"):
                held += int(line.split()[1])
    return mapped / 1000, held / 1000


PARTS = ("runs", "sweep", "grid", "study", "memory")


def main() -> None:
    """Measure all parts or one, and print tables in Markdown."""
    parser = make_parser("scale", __doc__)
    parser.add_argument("--part", choices=PARTS, help="measure only this part")
    parser.add_argument(
        "--runs", type=int, default=10_000, help="number of runs in `runs` (default: 10000)"
    )
    parser.add_argument(
        "--jobs", type=int, default=100, help="number of jobs in `sweep` (default: 100)"
    )
    parser.add_argument(
        "--grid",
        type=int,
        nargs="+",
        default=[100, 1000, 10_000],
        metavar="JOBS",
        help="numbers of jobs in `grid` (default: 100 1000 10000)",
    )
    parser.add_argument(
        "--trials", type=int, default=1000, help="number of trials in `study` (default: 1000)"
    )
    arguments = parser.parse_args()
    tables = {
        "runs": lambda: measure_runs(arguments.runs),
        "sweep": lambda: measure_sweep(arguments.jobs),
        "grid": lambda: measure_grid(arguments.grid),
        "study": lambda: measure_study(arguments.trials),
        "memory": measure_memory,
    }
    print(f"{len(os.sched_getaffinity(0))} cores")
    for part in [arguments.part] if arguments.part else PARTS:
        print()
        for line in tables[part]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
