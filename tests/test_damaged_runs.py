"""Changes in the files of a run are detected, and repaired from a checkpoint if possible."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Once
from small_run import config, open_run, train, weights, without_times

from resnet_sweep.compare.loaded_run import load_run
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.config.restore import restore
from resnet_sweep.errors import ConfigError
from resnet_sweep.jobs import summarize_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import BEST, LAST, PREVIOUS, read_checkpoint
from resnet_sweep.training.trainer import Trainer


@pytest.fixture(scope="module")
def planned() -> PlannedRun:
    return plan_run(config(trainer__threads=1))


@pytest.fixture(scope="module")
def finished(once: Once, planned: PlannedRun) -> Path:
    """Return the directory of a finished run. Tests may only read it."""

    def make(folder: Path) -> None:
        train(planned, folder / "run")

    return once("damaged_runs", make) / "run"


@pytest.fixture
def directory(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run, which the test may change."""
    return shutil.copytree(finished, tmp_path / "run")


def train_again(planned: PlannedRun, directory: Path) -> Trainer:
    """Mark a finished run as failed, and train it from its checkpoints again."""
    Record(**json.loads((directory / "run.json").read_text()) | {"state": "failed"}).write(
        directory
    )
    return train(planned, directory)


def assert_equals_run(trainer: Trainer, finished: Path) -> None:
    """Assert that a run equals the finished run, bit for bit."""
    trained, expected = weights(trainer), read_checkpoint(finished / "checkpoints" / LAST)["model"]
    assert trained.keys() == expected.keys()
    for name in trained:
        assert torch.equal(trained[name], expected[name]), name
    assert without_times(trainer.rows) == without_times(read_metrics(finished))


def test_a_changed_value_in_run_json_is_detected(directory: Path) -> None:
    path = directory / "run.json"
    accuracy = json.loads(path.read_text())["best"]["val_acc"]
    path.write_text(path.read_text().replace(str(accuracy), "99.0"))
    with pytest.raises(ConfigError) as refusal:
        Record.read(directory)
    for text in (str(refusal.value), load_run(directory, "run").error):
        assert "run.json" in text and "digest" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"best": "x"},
        {"best": {"epoch": "1"}},
        {"choices": []},
        {"overrides": None},
        {"seconds": "x"},
        {"notes": [1]},
        {"reason": None},
        {"heartbeat": 3},
        {"best": {"epoch": 1e400}},
        {"state": "done"},
    ],
    ids=str,
)
def test_a_record_with_values_of_wrong_types_is_refused(tmp_path: Path, changes: dict) -> None:
    content = {"signature": "s", "state": "finished"} | changes
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as refusal:
        Record.read(tmp_path)
    assert str(tmp_path / "run.json") in str(refusal.value)


def test_a_record_with_missing_values_has_a_summary(tmp_path: Path) -> None:
    best = {"epoch": 1, "val_acc": None, "val_loss": None}
    final = best | {"train_acc": None, "train_loss": None}
    content = {"signature": "s", "best": best, "final": final}
    (tmp_path / "run.json").write_text(json.dumps(content))
    lines = summarize_run(Record.read(tmp_path), tmp_path).splitlines()
    (loss,) = (line for line in lines if "training loss" in line.lower())
    assert not any(character.isdigit() for character in loss)


def test_changed_metrics_of_a_finished_run_are_detected_and_restored(
    planned: PlannedRun, finished: Path, directory: Path
) -> None:
    path = directory / "metrics.csv"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    rows, error = load_run(directory, "run").metrics
    assert rows == [] and "metrics.csv" in error
    assert_equals_run(train(planned, directory), finished)
    assert without_times(read_metrics(directory)) == without_times(read_metrics(finished))
    assert load_run(directory, "run").metrics.error is None
    assert open_run(planned, directory).record.has_ended


def test_a_best_checkpoint_in_place_of_the_last_is_renamed_and_not_used(
    planned: PlannedRun, finished: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = directory / "checkpoints"
    (checkpoints / LAST).write_bytes((checkpoints / BEST).read_bytes())
    assert_equals_run(train_again(planned, directory), finished)
    damaged_copy = checkpoints / f"{LAST}.damaged"
    assert damaged_copy.read_bytes() == (checkpoints / BEST).read_bytes()
    assert damaged_copy.name in caplog.text


def test_another_checkpoint_in_place_of_the_best_is_reported_and_not_evaluated(
    planned: PlannedRun, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = directory / "checkpoints"
    (checkpoints / BEST).write_bytes((checkpoints / PREVIOUS).read_bytes())
    assert "val_acc" not in read_checkpoint(checkpoints / BEST)
    with pytest.raises(ConfigError) as refusal:
        restore(directory)
    assert str(checkpoints / BEST) in str(refusal.value)
    assert not caplog.text
    train_again(planned, directory)
    assert BEST in caplog.text
