"""Ten thousand runs, a sweep of many jobs, a study of many trials, and several jobs at once.

python -m benchmarks.scale [--part runs|sweep|grid|study|memory] [--runs 10000] [--jobs 100]
                           [--grid 100 1000 10000] [--trials 1000]

`runs`: a directory of runs as a sweep leaves them, 20 epochs each, is made by script; then `python
-m resnet_sweep runs` and `python -m resnet_sweep report` read it, each in a fresh process, three
times over. `sweep`: the memory of one process that carries out many jobs of one step, by what each
further job adds, from the 20th on. `grid`: what a sweep does around a job, without training: plan
it, write its directory, launch it, and write the results, for sweeps of several sizes. `study`:
what a worker of a study does around a trial, without training: take, sample, compare with the
others, report three epochs, end it and write the results; of the first hundred trials and of the
last. `memory`: of 1, 2 and 4 jobs at once on CIFAR-100, what they take together, and what they have
of the images: mapped by each, and held once.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
from optuna.pruners import MedianPruner
from optuna.trial import TrialState

from benchmarks.processes import carry_out, environment, proportional_memory, tree
from benchmarks.stopwatch import FILE, WORD
from resnet_sweep.compare.objective import Objective
from resnet_sweep.runs.metrics import write_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.studies.search_space import SearchSpace, TrialSampler
from resnet_sweep.studies.storage import open_storage, set_up_optuna
from resnet_sweep.studies.trial_queue import TrialQueue

EPOCHS = 20
TURNS = 3
WINDOW = 100
BRIEF = ("trainer.epochs=1", "trainer.max_steps=1", "logger=csv")


def write_runs(folder: Path, count: int) -> None:
    """Make run directories: four settings in turn, and five seeds of each combination."""
    for number in range(count):
        accuracy = 50 + number % 997 / 40
        row: dict[str, Any] = {"lr": 0.1, "train_loss": 1.2, "val_loss": 1.5, "grad_norm": 1.0}
        row |= {"seconds": 60.0, "images_per_second": 833.0}
        rows = [
            {**row, "epoch": epoch, "train_acc": accuracy + epoch, "val_acc": accuracy + epoch / 2}
            for epoch in range(1, EPOCHS + 1)
        ]
        last = rows[-1]
        seed, place = number % 5, number // 5
        config = {
            "seed": seed,
            "model": {"_target_": "resnet_sweep.models.ResNet", "dropout": place % 5 / 10},
            "data": {"_target_": "resnet_sweep.data.CIFAR100"},
            "optim": {
                "_target_": "torch.optim.SGD",
                "lr": (1 + place % 20) / 100,
                "momentum": 0.9,
                "weight_decay": (1 + place // 20) / 1e5,
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
            host="here",
            device="cpu",
            threads=2,
            precision="float32",
            seed=seed,
        ).write(directory)


def read_runs(count: int) -> Iterator[str]:
    """Time the commands that read many runs; gives the rows of a table."""
    yield f"| command, on {count:,} runs | median, s | from | to | memory, MB |"
    yield "|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sweep").mkdir()
        write_runs(folder / "sweep", count)
        for words in (["runs", "sweep"], ["report", "sweep", "-o", "report.html"]):
            seconds, memory = [], []
            for _ in range(TURNS):
                begun = time.monotonic()
                memory.append(carry_out(["-m", "resnet_sweep", *words], folder))
                seconds.append(time.monotonic() - begun)
            figures = [f"{of(seconds):.1f}" for of in (statistics.median, min, max)]
            yield f"| `{' '.join(words)}` | {' | '.join(figures)} | {max(memory):,.0f} |"
        size = (folder / "report.html").stat().st_size
        yield f"\nThe report has {size / 1e6:.1f} MB."


def follow_sweep(count: int) -> Iterator[str]:
    """The memory of a process that carries out many jobs."""
    words = ["-m", "resnet_sweep", "--multirun", f"seed=range(0,{count})", *BRIEF]
    words += ["experiment=quickstart", "data.limit_train=64", "data.limit_test=10"]
    points: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with started([*words, "hydra.sweep.dir=sweep"], folder) as process:
            while process.poll() is None:
                time.sleep(1)
                done = len([*folder.glob("sweep/*/plots/lr.png")])
                memory = proportional_memory(process.pid)
                if memory and done and (not points or points[-1][0] < done):
                    points.append((done, memory))
    settled = [point for point in points if point[0] >= min(20, count // 2)]
    growth = statistics.linear_regression(*zip(*settled, strict=True)).slope
    last, memory = points[-1]
    yield "| jobs | memory after the first, MB | after the last | each further job adds, MB |"
    yield "|---|---|---|---|"
    yield f"| {last} | {points[0][1]:,.0f} | {memory:,.0f} | {growth:.3f} |"
    yield f"\nSo 1,000 jobs come to {memory + growth * (1000 - last):,.0f} MB."


def follow_grid(counts: Sequence[int]) -> Iterator[str]:
    """The time that sweeps of several sizes need around each job, which isn't trained."""
    yield "| jobs | before the first starts, ms a job | between two jobs, ms: median | mean |"
    yield "|---|---|---|---|"
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            words = ["--multirun", f"seed=range(0,{count})", "hydra.sweep.dir=sweep", *BRIEF]
            words += ["experiment=quickstart", "data.limit_train=64", "data.limit_test=10"]
            command = [sys.executable, "-c", UNTRAINED, *words]
            begun = time.time()
            with (Path(name) / "output.log").open("w") as log:
                subprocess.run(command, cwd=name, env=environment(), stdout=log, check=True)
            moments = [float(line) for line in (Path(name) / "moments").read_text().split()]
        gaps = [1000 * (after - before) for before, after in itertools.pairwise(moments)]
        before = 1000 * (moments[0] - begun) / count
        times = f"{statistics.median(gaps):.1f} | {statistics.mean(gaps):.1f}"
        yield f"| {count:,} | {before:.1f} | {times} |"


# Runs the command line with a training that ends at once.
UNTRAINED = """
import sys, time
from resnet_sweep import cli, jobs

file = open("moments", "w", buffering=1)

def train(planned, run, *args, **kwargs):
    print(time.time(), file=file)
    row = {"lr": 0.1, "train_loss": 1.0, "train_acc": 50.0, "val_loss": 1.0, "val_acc": 50.0}
    run.write_metrics([{"epoch": 1, **row, "seconds": 1.0, "images_per_second": 100.0}])
    run.close("finished")

jobs.train = train
cli.main()
"""


def follow_study(count: int) -> Iterator[str]:
    """The time that a worker needs around each trial, whose runs are made by script."""
    set_up_optuna()
    space = SearchSpace(["optim.lr=interval(0.01,0.3)"])
    plan: Any = SimpleNamespace(space=space, objectives=[Objective()], replicates=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_runs(folder, count)
        storage = open_storage(None, folder)
        sampler = TrialSampler({"_target_": "optuna.samplers.RandomSampler", "seed": 0}, space)
        study = optuna.create_study(storage=storage, direction="maximize", pruner=MedianPruner())
        queue = TrialQueue(study, storage, folder, count)
        results = StudyResults(queue, plan, {})
        seconds = []
        for number in range(count):
            begun = time.monotonic()
            lock = queue.take()
            assert lock is not None
            trial = sampler.sample(study, lock.id, lock.number)
            queue.is_duplicate(trial, f"{number:016x}")
            for epoch in range(1, 4):
                trial.report(50.0 + epoch, epoch)
                trial.should_prune()
            queue.end(trial, TrialState.COMPLETE, [53.0])
            results.of(queue.read(number))
            lock.release()
            results.save()
            seconds.append(time.monotonic() - begun)
        results.save(now=True)
    yield f"| up to trial | ms for each of the last {WINDOW}: median | mean |"
    yield "|---|---|---|"
    for end in sorted({WINDOW, 1000, count}):
        if end <= count:
            part = [1000 * value for value in seconds[max(0, end - WINDOW) : end]]
            yield f"| {end} | {statistics.median(part):.1f} | {statistics.mean(part):.1f} |"


def share_images() -> Iterator[str]:
    """The memory of several jobs at once, and what of it is the images."""
    yield "| jobs at once | together, MB | images mapped, sum over processes, MB | held, MB |"
    yield "|---|---|---|---|"
    for count in (1, 2, 4):
        words = ["-m", "resnet_sweep", "--multirun", f"seed=range(0,{count})"]
        words += ["model=resnet8v2", "trainer.epochs=1", "trainer.threads=1", "logger=csv", WORD]
        words += ["data.limit_test=100", "hydra/launcher=pool", f"hydra.launcher.workers={count}"]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with started([*words, "hydra.sweep.dir=sweep"], folder) as process:
                # All of them have gone through some batches, which are of all places.
                while process.poll() is None and any(
                    not (folder / f"sweep/{job}/{FILE}").exists() for job in range(count)
                ):
                    time.sleep(1)
                time.sleep(20)
                processes = [*tree(process.pid)]
                whole = sum(map(proportional_memory, processes))
                mapped, held = images_of(processes)
                process.terminate()
        yield f"| {count} | {whole:,.0f} | {mapped:,.0f} | {held:,.0f} |"


def images_of(processes: list[int]) -> tuple[float, float]:
    """What processes have in memory of the array files of images, MB: the sum over them, and what
    it takes, with shared pages once."""
    mapped = held = 0
    for process in processes:
        try:
            lines = Path(f"/proc/{process}/smaps").read_text().splitlines()
        except OSError:
            continue
        inside = False
        for line in lines:
            # The head of a mapping ends with its file; figures have a name with a colon.
            if not line.split()[0].endswith(":"):
                inside = line.endswith("_images.npy")
            elif inside and line.startswith("Rss:"):
                mapped += int(line.split()[1])
            elif inside and line.startswith("Pss:"):
                held += int(line.split()[1])
    return mapped / 1000, held / 1000


def started(words: list[str], folder: Path) -> subprocess.Popen:
    """`python` with these words, begun in a folder."""
    log = (folder / "output.log").open("w")
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment(), stdout=log, stderr=log
    )


PARTS = ("runs", "sweep", "grid", "study", "memory")


def main() -> None:
    """Measure, and print tables in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description="Measure time and memory of many runs."
    )
    parser.add_argument("--part", choices=PARTS, help="one alone")
    parser.add_argument("--runs", type=int, default=10_000, help="that are read")
    parser.add_argument("--jobs", type=int, default=100, help="of the sweep")
    parser.add_argument(
        "--grid", type=int, nargs="+", default=[100, 1000, 10_000], help="jobs of the sweeps"
    )
    parser.add_argument("--trials", type=int, default=1000, help="of the study")
    arguments = parser.parse_args()
    tables = {
        "runs": lambda: read_runs(arguments.runs),
        "sweep": lambda: follow_sweep(arguments.jobs),
        "grid": lambda: follow_grid(arguments.grid),
        "study": lambda: follow_study(arguments.trials),
        "memory": share_images,
    }
    print(f"{len(os.sched_getaffinity(0))} cores")
    for part in [arguments.part] if arguments.part else PARTS:
        print()
        for line in tables[part]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
