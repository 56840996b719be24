"""The progress of a sweep and of a study, and the estimate of the time that is left."""

import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from rich.console import Console
from run_directories import write_run

from resnet_sweep.compare.objective import Objective
from resnet_sweep.runs.record import Record
from resnet_sweep.studies.progress import StudyProgress
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.progress import SweepProgress
from resnet_sweep.sweeps.run_cache import RunCache


def pending_jobs(directory: Path, *settings: dict[str, Any]) -> list[Job]:
    """Return pending jobs of ten epochs, each with its changed settings."""
    jobs = []
    for number, changes in enumerate(settings):
        planned = write_run(directory / "planned" / str(number), {"trainer.epochs": 10} | changes)
        record = Record.read(planned)
        record.state, record.best, record.final = "pending", None, None
        jobs.append(Job(number, record, directory / "sweep" / str(number)))
    return jobs


def finish_epoch(job: Job, epoch: int, **changes: Any) -> None:
    """Write the files that a job has at the end of an epoch."""
    final = {"epoch": epoch, "train_acc": 60.0, "train_loss": 1.0, "val_acc": 50.0, "val_loss": 1.0}
    changes = {"state": "running", "final": final, "config": job.planned.config} | changes
    write_run(job.directory, **changes)
    job.refresh()


def progress_after(seconds: float, jobs: list[Job], cache: RunCache) -> SweepProgress:
    """Return the progress of a sweep that started `seconds` ago."""
    plan = SimpleNamespace(jobs=jobs, cache=cache)
    progress = SweepProgress(plan, jobs, save=lambda: None)
    progress.started = time.monotonic() - seconds
    return progress


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "finished"])
def test_a_job_that_starts_over_has_all_its_epochs_to_train(tmp_path: Path, state: str) -> None:
    (job,) = pending_jobs(tmp_path, {"trainer.resume": False})
    finish_epoch(job, 6, state=state)
    assert job.epochs_to_train == 10


def test_the_time_left_follows_from_the_epochs_of_running_jobs(tmp_path: Path) -> None:
    jobs = pending_jobs(tmp_path, {}, {})
    progress = progress_after(60, jobs, RunCache([]))
    assert progress.estimate_seconds_left(2) is None
    heartbeat = {"host": "here", "process": 1, "renewed": 0.0, "epoch": 3, "step": 5, "steps": 10}
    finish_epoch(jobs[0], 2, heartbeat=heartbeat)
    # 2.5 of 20 epochs took a minute.
    assert progress.estimate_seconds_left(2) == pytest.approx(60 / 2.5 * 17.5, rel=0.01)
    finish_epoch(jobs[0], 10, state="finished")
    del progress.remaining[jobs[0]]
    assert progress.estimate_seconds_left(1) == pytest.approx(60, rel=0.01)


def test_epochs_that_a_job_trained_before_do_not_count_in_the_estimate(tmp_path: Path) -> None:
    (job,) = pending_jobs(tmp_path, {})
    finish_epoch(job, 6, state="interrupted")
    progress = progress_after(60, [job], RunCache([]))
    finish_epoch(job, 8)
    assert progress.estimate_seconds_left(1) == pytest.approx(60, rel=0.01)


def test_the_estimate_ends_at_the_epoch_of_early_stopping(tmp_path: Path) -> None:
    (job,) = pending_jobs(tmp_path, {"trainer.early_stopping": {"epoch": 4, "patience": None}})
    progress = progress_after(60, [job], RunCache([]))
    finish_epoch(job, 3)
    assert progress.estimate_seconds_left(1) == pytest.approx(20, rel=0.01)


def test_before_the_first_epoch_the_time_left_follows_from_earlier_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "outputs")
    jobs = pending_jobs(tmp_path, {}, {"trainer.early_stopping": {"epoch": 4}})
    progress = progress_after(0, jobs, RunCache([tmp_path / "outputs"]))
    # The earlier run took 12.5 s for two epochs.
    assert progress.estimate_seconds_left(2) == pytest.approx(14 * 6.25 / 2, rel=0.01)


def test_a_study_shows_what_its_running_trials_do(tmp_path: Path) -> None:
    heartbeat = {"host": "here", "process": 1, "renewed": 0.0, "epoch": 2, "step": 5, "steps": 10}
    final = {"epoch": 1, "train_acc": 60.0, "train_loss": 1.0, "val_acc": 50.25, "val_loss": 1.0}
    running = {"state": "running", "final": final, "heartbeat": heartbeat}
    write_run(tmp_path / "1", {"trainer.epochs": 9}, **running)
    # The first replicate of trial 2 has finished.
    write_run(tmp_path / "2" / "0")
    write_run(tmp_path / "2" / "1", {"trainer.epochs": 9}, **running)
    states = [TrialState.COMPLETE, *[TrialState.RUNNING] * 3, TrialState.WAITING]
    trials = [
        create_trial(
            state=state,
            value=0.75 if state is TrialState.COMPLETE else None,
            params={"optim.lr": 0.1},
            distributions={"optim.lr": FloatDistribution(0, 1)},
            intermediate_values={1: 0.5, 2: 0.625},
        )
        for state in states
    ]
    for number, trial in enumerate(trials):
        trial.number = number
    queue = SimpleNamespace(trials=lambda: trials, total=8, directory=tmp_path)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(StudyProgress(queue, Objective("val_loss")).view())
    *lines, summary = console.export_text().splitlines()
    assert len(lines) == 3
    for number, line in enumerate(lines, start=1):
        assert f"trial {number} " in line and "optim.lr=0.1" in line and "0.6250" in line
        assert ("2/9 50%" in line) == ("50.25%" in line) == (number < 3)
    for fact in ("1 of 8", "3 running", "0.7500", "trial 0"):
        assert fact in summary
