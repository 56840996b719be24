"""The time that a sweep is estimated to take."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_directories import write_run

from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.progress import SweepProgress
from resnet_sweep.sweeps.run_cache import RunCache


def jobs(directory: Path, *settings: dict[str, Any]) -> list[Job]:
    """Jobs that wait, of ten epochs unless their settings say otherwise."""
    found = []
    for number, each in enumerate(settings):
        planned = write_run(directory / "planned" / str(number), {"trainer.epochs": 10} | each)
        record = Record.read(planned)
        record.state, record.best, record.final = "pending", None, None
        found.append(Job(number, record, directory / "sweep" / str(number)))
    return found


def reach(job: Job, epoch: int, **changes: Any) -> None:
    """Write what a job leaves at the end of an epoch."""
    final = {
        "epoch": epoch, "train_acc": 60.0, "train_loss": 1.0, "val_acc": 50.0, "val_loss": 1.0
    }  # fmt: skip
    changes = {"state": "running", "final": final, "config": job.planned.config} | changes
    write_run(job.directory, **changes)
    job.refresh()


def begun(to_train: list[Job], history: RunCache, seconds: float) -> SweepProgress:
    plan = SimpleNamespace(jobs=to_train, cache=history)
    progress = SweepProgress(plan, to_train, save=lambda: None)
    progress.started = time.monotonic() - seconds
    return progress


def test_the_time_left_follows_from_the_epochs_of_jobs_that_run(tmp_path: Path) -> None:
    two = jobs(tmp_path, {}, {})
    progress = begun(two, RunCache([]), 60)
    assert progress.estimate_seconds_left(2) is None
    heartbeat = {"host": "here", "process": 1, "renewed": 0.0, "epoch": 3, "step": 5, "steps": 10}
    reach(two[0], 2, heartbeat=heartbeat)
    # 2.5 of 20 epochs in a minute.
    assert progress.estimate_seconds_left(2) == pytest.approx(60 / 2.5 * 17.5, rel=0.01)
    reach(two[0], 10, state="finished")
    del progress.remaining[two[0]]
    assert progress.estimate_seconds_left(1) == pytest.approx(60, rel=0.01)


def test_what_jobs_had_trained_before_is_neither_done_nor_left(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, {})
    reach(job, 6, state="interrupted")
    progress = begun([job], RunCache([]), 60)
    reach(job, 8)
    assert progress.estimate_seconds_left(1) == pytest.approx(60, rel=0.01)


def test_a_run_that_stops_early_at_an_epoch_is_no_longer_than_that(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, {"trainer.early_stopping": {"epoch": 4, "patience": None}})
    progress = begun([job], RunCache([]), 60)
    reach(job, 3)
    assert progress.estimate_seconds_left(1) == pytest.approx(20, rel=0.01)


def test_the_time_left_follows_from_runs_on_record_before_the_first_epoch(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs")
    two = jobs(tmp_path, {}, {"trainer.early_stopping": {"epoch": 4}})
    # Runs like these took 12.5 s for two epochs.
    assert begun(two, RunCache([tmp_path / "outputs"]), 0).estimate_seconds_left(
        2
    ) == pytest.approx(14 * 6.25 / 2, rel=0.01)
