"""Checkpoints that are written by a thread while training continues, as on a GPU."""

import errno
import threading
from pathlib import Path

import pytest
import torch
from small_run import StopAt, assert_same_bits, config, open_run, train

from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training import checkpoint, trainer
from resnet_sweep.training.checkpoint import (
    BEST,
    LAST,
    PREVIOUS,
    copy_state,
    digest,
    read_checkpoint,
)
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.trainer import Trainer

SECONDS = 60


@pytest.fixture(autouse=True)
def report_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trainer call the callbacks after each step."""
    monkeypatch.setattr(trainer, "REPORT_SECONDS", 0)


@pytest.fixture
def prepared() -> PlannedRun:
    return plan_run(
        config(
            trainer__device="cuda" if torch.cuda.is_available() else "cpu",
            trainer__ema_decay=0.9,
            optim={"_target_": "torch.optim.AdamW", "lr": 1e-3},
        )
    )


def saving_in_thread(prepared: PlannedRun) -> Trainer:
    """Return a trainer that writes checkpoints in a thread, as on a GPU."""
    training = prepared.build_trainer()
    training.saves_in_thread = True
    return training


def digests(directory: Path) -> dict[str, str]:
    """Return the digests of a run's checkpoints without their times."""
    digests = {}
    for name in (BEST, LAST, PREVIOUS):
        state = read_checkpoint(directory / "checkpoints" / name)
        for row in state.get("rows", ()):
            del row["seconds"], row["images_per_second"]
        digests[name] = digest(state)
    return digests


def test_a_checkpoint_that_is_written_late_has_the_state_when_it_was_saved(
    prepared: PlannedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoints equal those of a training that waits until they are written."""
    inline = train(prepared, tmp_path / "inline")
    training = saving_in_thread(prepared)
    stepped = threading.Semaphore(0)
    step, write_last = training.train_step, checkpoint.write_last

    def step_and_release(*batch: object, **settings: object) -> None:
        step(*batch, **settings)
        stepped.release()

    def write_late(directory: Path, state: dict) -> None:
        # Wait for the steps of this epoch and three of the next one.
        due = len(state["rows"]) * training.steps_per_epoch + 3
        if due < training.total_steps:
            while training.global_step < due:
                assert stepped.acquire(timeout=SECONDS)
        write_last(directory, state)

    training.train_step = step_and_release
    monkeypatch.setattr(checkpoint, "write_last", write_late)
    run = open_run(prepared, tmp_path / "in_thread")
    training.fit(run, [], StopSignal())
    run.close("finished")
    assert_same_bits(training, inline)
    assert digests(tmp_path / "in_thread") == digests(tmp_path / "inline")
    assert len(read_metrics(tmp_path / "in_thread")) == 3


def test_a_full_disk_ends_the_training_with_an_error(
    prepared: PlannedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = saving_in_thread(prepared)

    def fail(directory: Path, state: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_last", fail)
    run = open_run(prepared, tmp_path)
    with pytest.raises(OSError) as error:
        training.fit(run, [], StopSignal())
    assert error.value.errno == errno.ENOSPC
    run.close("failed")
    assert len(training.rows) <= 2


@pytest.mark.parametrize("step", [3, pytest.param(9, marks=pytest.mark.slow), 20])
def test_a_stopped_training_writes_its_last_state_and_is_resumed(
    prepared: PlannedRun, tmp_path: Path, step: int
) -> None:
    run = open_run(prepared, tmp_path / "stopped")
    stop = StopSignal()
    with pytest.raises(Interrupted):
        saving_in_thread(prepared).fit(run, [StopAt(stop, step)], stop)
    run.close("interrupted")
    state = read_checkpoint(tmp_path / "stopped" / "checkpoints" / LAST)
    assert len(state["rows"]) * 7 + state["step"] == step
    run = open_run(prepared, tmp_path / "stopped")
    training = saving_in_thread(prepared)
    training.fit(run, [], StopSignal())
    run.close("finished")
    assert_same_bits(training, train(prepared, tmp_path / "whole"))


def test_a_copied_state_is_equal_and_shares_no_data() -> None:
    state = {
        "model": {"weight": torch.randn(2, 3).t(), "count": torch.tensor(3)},
        "optimizer": {"param_groups": [{"betas": (0.9, 0.999), "params": [0]}], "none": None},
        "rows": [{"epoch": 1}],
    }
    before, copied = digest(state), copy_state(state)
    state["model"]["weight"].zero_()
    state["model"]["count"].add_(1)
    state["rows"][0]["epoch"] = 2
    state["rows"].append({})
    assert digest(copied) == before != digest(state)
