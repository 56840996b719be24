"""A training on a GPU continues while its checkpoints are written."""

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
def look_at_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
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
    """A training that writes as one on a GPU does."""
    training = prepared.build_trainer()
    training.saves_in_thread = True
    return training


def digests(directory: Path) -> dict[str, str]:
    """Of the checkpoints of a run, without the times that it took."""
    found = {}
    for name in (BEST, LAST, PREVIOUS):
        state = read_checkpoint(directory / "checkpoints" / name)
        for row in state.get("rows", ()):
            del row["seconds"], row["images_per_second"]
        found[name] = digest(state)
    return found


def test_what_is_written_is_what_was_to_be_written_however_late(
    prepared: PlannedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each checkpoint is written some steps after it was due, and is that of a training which
    waits for it."""
    inline = train(prepared, tmp_path / "inline")
    training = saving_in_thread(prepared)
    stepped = threading.Semaphore(0)
    step, write_last = training.train_step, checkpoint.write_last

    def make_step(*batch: object, **settings: object) -> None:
        step(*batch, **settings)
        stepped.release()

    def write_late(directory: Path, state: dict) -> None:
        # Those of this epoch, and three of the next one.
        due = len(state["rows"]) * training.steps_per_epoch + 3
        if due < training.total_steps:
            while training.global_step < due:
                assert stepped.acquire(timeout=SECONDS)
        write_last(directory, state)

    training.train_step = make_step
    monkeypatch.setattr(checkpoint, "write_last", write_late)
    run = open_run(prepared, tmp_path / "in_thread")
    training.fit(run, [], StopSignal())
    run.close("finished")
    assert_same_bits(training, inline)
    assert digests(tmp_path / "in_thread") == digests(tmp_path / "inline")
    assert len(read_metrics(tmp_path / "in_thread")) == 3


def test_a_disk_that_is_full_ends_the_training(
    prepared: PlannedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = saving_in_thread(prepared)

    def fail(directory: Path, state: dict) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_last", fail)
    run = open_run(prepared, tmp_path)
    with pytest.raises(OSError) as failure:
        training.fit(run, [], StopSignal())
    assert failure.value.errno == errno.ENOSPC
    run.close("failed")
    assert len(training.rows) <= 2


@pytest.mark.parametrize("step", [3, pytest.param(9, marks=pytest.mark.slow), 20])
def test_a_stopped_training_has_written_all_and_is_resumed(
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


def test_a_copied_state_shares_nothing_and_is_the_same() -> None:
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
