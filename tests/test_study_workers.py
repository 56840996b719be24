"""Several workers that share the trials of a study, some of which are killed."""

import csv
import json
import random
import re
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import optuna
import processes
import pytest
from processes import Process

from resnet_sweep.runs.metrics import Row, read_metrics

SMALL = (
    "experiment=quickstart",
    "logger=csv",
    "data.limit_train=150",
    "data.limit_test=50",
    "model.widths=[4,8]",
    "model.blocks=[1,1]",
    "model.strides=[2,2]",
    "trainer.epochs=3",
    "trainer.batch_size=16",
    "trainer.threads=1",
    "trainer.device=cpu",
    "trainer.precision=float32",
)
STUDY = ("--multirun", "hydra/sweeper=optuna", "optim.lr=interval(0.01,0.3)", *SMALL)


class Workers:
    """Processes that run the same command."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder, self.overrides = folder, overrides
        self.processes: list[Process] = []
        self.log = (folder / "workers.log").open("a")

    def start(self) -> Process:
        process = processes.start(
            self.folder, *STUDY, *self.overrides, stdout=self.log, stderr=self.log
        )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.log.close()

    def output(self) -> str:
        return (self.folder / "workers.log").read_text()


def load(url: str | optuna.storages.BaseStorage, name: str = "resnet_sweep") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=url)


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "results.csv").open() as file:
        return list(csv.DictReader(file))


def check_complete(study: optuna.Study, directory: Path, total: int) -> None:
    """Assert that all trials have ended, with the values of their own runs."""
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(total))
    results = rows(directory)
    assert [int(row["number"]) for row in results] == list(range(total))
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(
        map(str, range(total))
    )
    for trial, row in zip(trials, results, strict=True):
        record = json.loads((directory / str(trial.number) / "run.json").read_text())
        assert record["state"] == row["state"]
        assert row["state"] in ("finished", "pruned")
        finished = row["state"] == "finished"
        assert trial.state.name == ("COMPLETE" if finished else "PRUNED")
        assert trial.value == record["best" if finished else "final"]["val_acc"]
        assert float(row["value"]) == trial.value
        assert record["config"]["optim"]["lr"] == trial.params["optim.lr"]
        with (directory / str(trial.number) / "metrics.csv").open() as file:
            curve = {int(line["epoch"]): float(line["val_acc"]) for line in csv.DictReader(file)}
        assert trial.intermediate_values == curve


class KilledRun(NamedTuple):
    """A run when its worker was killed.

    Attributes:
        directory: the directory of the run.
        started: the time in its record.
        rows: the rows of its metrics.csv.
    """

    directory: Path
    started: str | None
    rows: list[Row]


def check_resumed(killed: list[KilledRun]) -> None:
    """Assert that the runs of killed workers were resumed and not started again."""
    for directory, started, rows in killed:
        # A worker may be killed before it has written the time.
        assert started in (None, json.loads((directory / "run.json").read_text())["started"])
        # The rows are equal, including their times, so none of these epochs was trained again.
        assert read_metrics(directory)[: len(rows)] == rows


def kill_at_random(
    workers: Workers, directory: Path, kills: int, seed: int, count: int = 4
) -> list[KilledRun]:
    """Keep `count` workers running until the study ends, and kill some while they train a trial.

    Returns:
        The runs of the killed workers.
    """
    rng, end = random.Random(seed), time.monotonic() + 400
    killed: list[KilledRun] = []
    running = [workers.start() for _ in range(count)]
    pause = 0.0
    while running and time.monotonic() < end:
        time.sleep(0.02)
        running = [process for process in running if process.poll() is None]
        if len(killed) == kills or time.monotonic() < pause:
            continue
        training = {process_at_work(path): path.parent for path in directory.glob("*/run.json")}
        victims = [process for process in running if process.pid in training]
        if victims:
            victim = rng.choice(victims)
            victim.kill()
            victim.wait()
            run = training[victim.pid]
            started = json.loads((run / "run.json").read_text())["started"]
            rows = read_metrics(run) if (run / "metrics.csv").exists() else []
            killed.append(KilledRun(run, started, rows))
            pause = time.monotonic() + rng.uniform(0.3, 2)
            running.append(workers.start())
    assert not running, workers.output()
    return killed


def process_at_work(record: Path) -> int | None:
    """Return the number of the process that trains the run with this `run.json`."""
    heartbeat = json.loads(record.read_text())["heartbeat"]
    return heartbeat and heartbeat["process"]


@pytest.mark.parametrize(
    ("storage", "total", "kills", "count"),
    [
        ("null", 4, 1, 2),
        pytest.param("null", 40, 6, 4, marks=pytest.mark.slow),
        pytest.param("journal", 12, 2, 4, marks=pytest.mark.slow),
    ],
)
def test_no_trial_is_lost_or_trained_twice_when_workers_are_killed(
    tmp_path: Path, storage: str, total: int, kills: int, count: int
) -> None:
    workers = Workers(
        tmp_path,
        f"hydra.sweeper.n_trials={total}",
        "hydra.sweep.dir=study",
        f"hydra.sweeper.storage={storage}",
        "hydra.sweeper.sampler.seed=1",
    )
    directory = tmp_path / "study"
    try:
        killed = kill_at_random(workers, directory, kills, seed=3, count=count)
    finally:
        workers.end()
    assert len(killed) == kills
    if storage == "null":
        study = load(f"sqlite:///{directory}/study.db")
    else:
        backend = optuna.storages.journal.JournalFileBackend(f"{directory}/study.journal")
        study = load(optuna.storages.JournalStorage(backend))
    check_complete(study, directory, total)
    if total > 4:
        # With four trials, the pruner may end none.
        assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}
    check_resumed(killed)
    # A worker prints a line when it starts a trial, and a killed trial is started once more.
    starts = re.findall(r"^trial (\d+)\b.*optim\.lr=", workers.output(), re.MULTILINE)
    assert Counter(starts) == Counter(map(str, range(total))) + Counter(
        run.directory.name for run in killed
    )
