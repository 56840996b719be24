"""The end of a study: its stopping rules, and the confirmation of its best trials."""

import csv
import json
import math
import signal
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import optuna
import pytest
from conftest import Command
from optuna.trial import TrialState, create_trial
from scipy import stats
from test_study_workers import SMALL, STUDY, load, rows

from resnet_sweep.__main__ import main
from resnet_sweep.runs.record import Record
from resnet_sweep.studies.trial_queue import TrialQueue
from resnet_sweep.studies.worker import StudyWorker
from resnet_sweep.training.signals import Interrupted

SHORT = (
    *STUDY,
    "trainer.epochs=1",
    "hydra.sweep.dir=study",
    "hydra/sweeper/pruner=none",
    "hydra/sweeper/sampler=random",
    "hydra.sweeper.sampler.seed=0",
)


def confirmation(study: Path) -> list[dict[str, str]]:
    with (study / "confirmation.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def record(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


class TestStagnation:
    @pytest.mark.parametrize(
        ("values", "direction", "since"),
        [
            ([], "maximize", 0),
            ([1.0, 2.0, 3.0], "maximize", 0),
            ([3.0, 2.0, 3.0], "maximize", 2),
            ([3.0, 2.0, 3.0], "minimize", 1),
            ([3.0, None, None], "maximize", 2),
        ],
    )
    def test_the_trials_after_the_best_one_are_counted(
        self, tmp_path: Path, values: list[float | None], direction: str, since: int
    ) -> None:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, direction=direction)
        for value in values:
            state = TrialState.PRUNED if value is None else TrialState.COMPLETE
            study.add_trial(create_trial(state=state, value=value))
        queue = TrialQueue(study, storage, tmp_path, 10)
        sign = 1 if direction == "maximize" else -1
        assert queue.since_best(lambda value: sign * value) == since

    def test_a_study_ends_when_trials_bring_no_improvement(
        self, call: Command, tmp_path: Path
    ) -> None:
        overrides = (*SHORT, "hydra.sweeper.n_trials=30", "hydra.sweeper.max_stagnation_trials=2")
        result = call(main, *overrides)
        assert result.returncode == 0, result.stdout
        values = [float(row["value"]) for row in rows(tmp_path / "study")]
        assert len(values) < 30
        best = values.index(max(values))
        assert len(values) == best + 3
        # No earlier trial was followed by two trials without an improvement.
        for number in range(len(values) - 3):
            assert max(values[: number + 1]) < max(values[: number + 3])
        assert "hydra.sweeper.max_stagnation_trials" in result.stdout


def test_a_study_ends_when_its_time_is_up_and_the_same_command_resumes_it(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait_for_the_end(worker: StudyWorker, *arguments: object) -> None:
        train(worker, *arguments)
        while worker.stop.received is None:
            time.sleep(0.01)
        worker.stop.raise_if_stopped()

    train = StudyWorker._train_run
    monkeypatch.setattr(StudyWorker, "_train_run", wait_for_the_end)
    overrides = (*SHORT, "hydra.sweeper.n_trials=2")
    result = call(main, *overrides, "hydra.sweeper.timeout=2")
    assert result.returncode == 0, result.stdout
    assert "hydra.sweeper.timeout=2" in result.stdout
    study = load(f"sqlite:///{tmp_path}/study/study.db")
    assert [trial.state for trial in study.trials] == [TrialState.RUNNING]
    monkeypatch.undo()
    result = call(main, *overrides, "hydra.sweeper.timeout=1000")
    assert result.returncode == 0, result.stdout
    assert "hydra.sweeper.timeout" not in result.stdout
    assert [row["state"] for row in rows(tmp_path / "study")] == ["finished"] * 2


@pytest.mark.slow
def test_the_best_trials_are_trained_again_with_new_seeds(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resnet_sweep.studies import confirmation as module

    def stop_at_third(directory: Path, *arguments: object) -> str:
        started.append(directory)
        if len(started) == 3:
            monkeypatch.setattr(module, "train_planned", train_planned)
            raise Interrupted(signal.SIGTERM)
        return train_planned(directory, *arguments)

    started: list[Path] = []
    train_planned = module.train_planned
    monkeypatch.setattr(module, "train_planned", stop_at_third)
    overrides = (*SHORT, "hydra.sweeper.n_trials=3", "seed=4")
    confirming = ("hydra.sweeper.confirm=1", "hydra.sweeper.confirm_replicates=2")
    result = call(main, *overrides, *confirming)
    assert result.returncode == 75, result.stdout
    # The run that is left for the current config has been trained elsewhere, so it is reused.
    single = (*SMALL, "trainer.epochs=1", "seed=6", "hydra.run.dir=outputs/earlier")
    assert call(main, *single).returncode == 0
    result = call(main, *overrides, *confirming)
    assert result.returncode == 0, result.stdout
    study = tmp_path / "study"
    copy = record(study / "confirmation" / "current" / "6")
    assert copy["reused_from"] == str(tmp_path / "outputs" / "earlier")
    current, best = confirmation(study)
    claims = {row["number"]: float(row["value"]) for row in rows(study)}
    assert (current["trial"], current["claimed"]) == ("current config", "")
    assert float(best["claimed"]) == max(claims.values()) == claims[best["trial"]]
    values = {}
    for name, row in (("current", current), (best["trial"], best)):
        runs = [record(study / "confirmation" / name / str(seed)) for seed in (5, 6)]
        assert [run["seed"] for run in runs] == [5, 6]
        lr = 0.1 if name == "current" else float(record(study / name)["config"]["optim"]["lr"])
        assert all(run["config"]["optim"]["lr"] == lr for run in runs)
        values[name] = [run["best"]["val_acc"] for run in runs]
        assert float(row["confirmed"]) == pytest.approx(fmean(values[name]))
        assert float(row["sd"]) == pytest.approx(stdev(values[name]))
        assert row["n"] == "2"
    first, second = values["current"], values[best["trial"]]
    assert float(best["difference"]) == pytest.approx(fmean(second) - fmean(first))
    interval = stats.ttest_rel(second, first).confidence_interval()
    if not math.isnan(interval.low):
        assert float(best["low"]) == pytest.approx(interval.low)
        assert float(best["high"]) == pytest.approx(interval.high)
    # Nothing is left to train, so nothing changes.
    before = (study / "confirmation" / "current" / "5" / "run.json").read_bytes()
    assert call(main, *overrides, *confirming).returncode == 0
    assert (study / "confirmation" / "current" / "5" / "run.json").read_bytes() == before
    # A trial is unstable if a seed diverges; the values of such a seed aren't counted.
    for seed, mean in ((5, second[1]), (6, None)):
        diverged = study / "confirmation" / best["trial"] / str(seed)
        replace(Record.read(diverged), state="diverged").write(diverged)
        assert call(main, *overrides, *confirming).returncode == 1
        row = confirmation(study)[1]
        assert row["verdict"] == "unstable"
        assert row["confirmed"] == ("" if mean is None else str(mean))
