"""What was altered in a run directory is found, and replaced where a checkpoint has it."""

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
def prepared() -> PlannedRun:
    return plan_run(config(trainer__threads=1))


@pytest.fixture(scope="module")
def whole(once: Once, prepared: PlannedRun) -> Path:
    """Return the directory of a finished run, which nobody alters."""

    def make(folder: Path) -> None:
        train(prepared, folder / "run")

    return once("soundness", make) / "run"


@pytest.fixture
def directory(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return shutil.copytree(whole, tmp_path / "run")


def train_on(prepared: PlannedRun, directory: Path) -> Trainer:
    """Let a run that ended go through its training once more from what its directory holds."""
    Record(**json.loads((directory / "run.json").read_text()) | {"state": "failed"}).write(
        directory
    )
    return train(prepared, directory)


def assert_is(training: Trainer, whole: Path) -> None:
    """Compare a training with the finished run bit for bit."""
    ours, theirs = weights(training), read_checkpoint(whole / "checkpoints" / LAST)["model"]
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert without_times(training.rows) == without_times(read_metrics(whole))


def test_an_altered_figure_in_the_record_is_found(directory: Path) -> None:
    path = directory / "run.json"
    accuracy = json.loads(path.read_text())["best"]["val_acc"]
    path.write_text(path.read_text().replace(str(accuracy), "99.0"))
    with pytest.raises(ConfigError) as refusal:
        Record.read(directory)
    for text in (str(refusal.value), load_run(directory, "run").error):
        assert "run.json" in text and "digest" in text


@pytest.mark.parametrize(
    "changes",
    [{"best": "x"}, {"best": {"epoch": "1"}}, {"choices": []}, {"overrides": None},
     {"seconds": "x"}, {"notes": [1]}, {"reason": None}, {"heartbeat": 3},
     {"best": {"epoch": 1e400}}, {"state": "done"}],
    ids=str,
)  # fmt: skip
def test_a_record_of_wrong_kinds_is_refused(tmp_path: Path, changes: dict) -> None:
    content = {"signature": "s", "state": "finished"} | changes
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError) as refusal:
        Record.read(tmp_path)
    assert str(tmp_path / "run.json") in str(refusal.value)


def test_a_record_without_all_values_has_a_summary(tmp_path: Path) -> None:
    best = {"epoch": 1, "val_acc": None, "val_loss": None}
    final = best | {"train_acc": None, "train_loss": None}
    content = {"signature": "s", "best": best, "final": final}
    (tmp_path / "run.json").write_text(json.dumps(content))
    lines = summarize_run(Record.read(tmp_path), tmp_path).splitlines()
    (loss,) = (line for line in lines if "training loss" in line.lower())
    assert not any(character.isdigit() for character in loss)


def test_figures_altered_after_the_end_are_found_and_written_anew(
    prepared: PlannedRun, whole: Path, directory: Path
) -> None:
    path = directory / "metrics.csv"
    path.write_text(path.read_text().replace("0.1", "0.2", 1))
    rows, damage = load_run(directory, "run").metrics
    assert rows == [] and "metrics.csv" in damage
    assert_is(train(prepared, directory), whole)
    assert without_times(read_metrics(directory)) == without_times(read_metrics(whole))
    assert load_run(directory, "run").metrics.error is None
    assert open_run(prepared, directory).record.has_ended


def test_a_checkpoint_of_weights_alone_does_not_take_the_place_of_the_last(
    prepared: PlannedRun, whole: Path, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = directory / "checkpoints"
    (checkpoints / LAST).write_bytes((checkpoints / BEST).read_bytes())
    assert_is(train_on(prepared, directory), whole)
    kept = checkpoints / f"{LAST}.damaged"
    assert kept.read_bytes() == (checkpoints / BEST).read_bytes()
    assert kept.name in caplog.text


def test_a_checkpoint_in_the_place_of_the_best_is_reported_and_not_evaluated(
    prepared: PlannedRun, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = directory / "checkpoints"
    (checkpoints / BEST).write_bytes((checkpoints / PREVIOUS).read_bytes())
    assert "val_acc" not in read_checkpoint(checkpoints / BEST)
    with pytest.raises(ConfigError) as refusal:
        restore(directory)
    assert str(checkpoints / BEST) in str(refusal.value)
    assert not caplog.text
    train_on(prepared, directory)
    assert BEST in caplog.text
