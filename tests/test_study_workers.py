"""Workers of a study share its trials, also when some of them are killed."""

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
    """The same command, started several times."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.words = folder, words
        self.processes: list[Process] = []
        self.log = (folder / "workers.log").open("a")

    def start(self) -> Process:
        process = processes.start(
            self.folder, *STUDY, *self.words, stdout=self.log, stderr=self.log
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
    """All trials have ended, each with its own number and the value of its own run."""
    trials = study.get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(total))
    listed = rows(directory)
    assert [int(row["number"]) for row in listed] == list(range(total))
    assert sorted(path.name for path in directory.iterdir() if path.is_dir()) == sorted(
        map(str, range(total))
    )
    for trial, row in zip(trials, listed, strict=True):
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


class Left(NamedTuple):
    """A run as a killed worker left it.

    Attributes:
        run: its directory.
        started: when it was started, by its record.
        rows: the epochs that it has.
    """

    run: Path
    started: str | None
    rows: list[Row]


def check_resumed(left: list[Left]) -> None:
    """No run that a killed worker left was begun anew."""
    for run, started, found in left:
        # A worker may be killed before it has noted the time.
        assert started in (None, json.loads((run / "run.json").read_text())["started"])
        # Their times are the same, so that none of these epochs was trained once more.
        assert read_metrics(run)[: len(found)] == found


def kill_at_random(
    workers: Workers, directory: Path, kills: int, seed: int, count: int = 4
) -> list[Left]:
    """Keep some workers at work, and kill one in the middle of a trial now and then.

    Returns:
        What those that were killed left.
    """
    chance, end = random.Random(seed), time.monotonic() + 400
    left: list[Left] = []
    running = [workers.start() for _ in range(count)]
    pause = 0.0
    while running and time.monotonic() < end:
        time.sleep(0.02)
        running = [process for process in running if process.poll() is None]
        if len(left) == kills or time.monotonic() < pause:
            continue
        training = {process_at_work(path): path.parent for path in directory.glob("*/run.json")}
        victims = [process for process in running if process.pid in training]
        if victims:
            victim = chance.choice(victims)
            victim.kill()
            victim.wait()
            run = training[victim.pid]
            started = json.loads((run / "run.json").read_text())["started"]
            found = read_metrics(run) if (run / "metrics.csv").exists() else []
            left.append(Left(run, started, found))
            pause = time.monotonic() + chance.uniform(0.3, 2)
            running.append(workers.start())
    assert not running, workers.output()
    return left


def process_at_work(record: Path) -> int | None:
    heartbeat = json.loads(record.read_text())["heartbeat"]
    return heartbeat and heartbeat["process"]


@pytest.mark.parametrize(
    ("place", "total", "kills", "count"),
    [
        ("null", 4, 1, 2),
        pytest.param("null", 40, 6, 4, marks=pytest.mark.slow),
        pytest.param("journal", 12, 2, 4, marks=pytest.mark.slow),
    ],
)
def test_no_trial_is_lost_or_trained_twice_when_workers_are_killed(
    tmp_path: Path, place: str, total: int, kills: int, count: int
) -> None:
    workers = Workers(
        tmp_path,
        f"hydra.sweeper.n_trials={total}",
        "hydra.sweep.dir=study",
        f"hydra.sweeper.storage={place}",
        "hydra.sweeper.sampler.seed=1",
    )
    directory = tmp_path / "study"
    try:
        left = kill_at_random(workers, directory, kills, seed=3, count=count)
    finally:
        workers.end()
    assert len(left) == kills
    if place == "null":
        study = load(f"sqlite:///{directory}/study.db")
    else:
        backend = optuna.storages.journal.JournalFileBackend(f"{directory}/study.journal")
        study = load(optuna.storages.JournalStorage(backend))
    check_complete(study, directory, total)
    if total > 4:
        # Of four trials, the pruner may end none.
        assert {trial.state.name for trial in study.trials} == {"COMPLETE", "PRUNED"}
    check_resumed(left)
    # A trial is announced by each worker that trains it, which are as many as it needed.
    announced = re.findall(r"^trial (\d+)\b.*optim\.lr=", workers.output(), re.MULTILINE)
    assert Counter(announced) == Counter(map(str, range(total))) + Counter(
        victim.run.name for victim in left
    )
