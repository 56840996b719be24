"""Studies whose workers are started by a launcher."""

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import Command
from processes import Process, assert_refused
from small_sweep import commands, finish, start
from test_launchers import LAUNCHERS
from test_study_workers import STUDY, check_complete, load, process_at_work

from resnet_sweep.__main__ import main
from resnet_sweep.runs.metrics import read_metrics

# These tests take long, since each launcher starts new interpreters for the workers.
SLOW = pytest.mark.slow
TRIALS = 4
CONFIG = """
defaults:
  - config
  - override hydra/launcher: pool
  - _self_
hydra:
  launcher:
    workers: 2
  sweeper:
    n_jobs: 2
"""


def start_study(folder: Path, launcher: str) -> Process:
    """Start a study with two workers."""
    return start(
        folder,
        *STUDY,
        f"hydra/launcher={launcher}",
        *LAUNCHERS[launcher],
        "trainer.epochs=8",
        "hydra.sweeper.n_jobs=2",
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweep.dir=study",
    )


def wait_for_workers(count: int, process: Process, folder: Path) -> list[int]:
    """Wait until `count` processes train a trial, and return their numbers."""
    workers: list[int] = []
    while len(workers) < count:
        assert process.poll() is None, finish(process)
        time.sleep(0.02)
        workers = [pid for pid in map(process_at_work, folder.glob("study/*/run.json")) if pid]
    return workers


def assert_complete(folder: Path) -> None:
    """Assert that the study has all its trials, after removing the files of its workers."""
    study = folder / "study"
    shutil.rmtree(study / "workers")
    shutil.rmtree(study / ".submitit", ignore_errors=True)
    check_complete(load(f"sqlite:///{study}/study.db"), study, TRIALS)


@SLOW
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_another_worker_takes_over_the_trial_of_a_killed_one(launcher: str, tmp_path: Path) -> None:
    process = start_study(tmp_path, launcher)
    os.kill(wait_for_workers(2, process, tmp_path)[0], signal.SIGKILL)
    output = finish(process)
    if process.returncode:
        # These launchers stop when one of their jobs, here a worker, is killed.
        assert launcher in ("joblib", "submitit_local"), output
        process = start_study(tmp_path, launcher)
        output = finish(process)
        assert process.returncode == 0, output
    else:
        # The command prints the end of each trial once, with its number.
        assert re.findall(r"^\[(\d+)/(\d+)\]", output, re.MULTILINE) == [
            (f"{number}", f"{TRIALS}") for number in range(1, TRIALS + 1)
        ]
    if launcher == "pool":
        assert "SIGKILL" in output
    assert_complete(tmp_path)


@SLOW
def test_a_launcher_can_be_chosen_in_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.yaml").write_text(CONFIG)
    process = start(
        tmp_path,
        "--config-dir",
        "mine",
        "--config-name",
        "mine",
        *STUDY,
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweep.dir=study",
        "hydra.job.chdir=true",
    )
    output = finish(process)
    assert process.returncode == 0, output
    assert len([*(tmp_path / "study" / "workers").glob("*/worker.log")]) == 2
    assert_complete(tmp_path)


@SLOW
@pytest.mark.parametrize("launcher", ["pool", "ray"])
def test_a_stopped_study_saves_its_trials_and_is_resumed(launcher: str, tmp_path: Path) -> None:
    process = start_study(tmp_path, launcher)
    wait_for_workers(2, process, tmp_path)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 75, output
    (command,) = commands(output)
    assert "hydra.sweep.dir=study" in command
    assert not wait_for_workers(0, process, tmp_path)
    stopped = {
        path.parent: json.loads(path.read_text()) for path in tmp_path.glob("study/*/run.json")
    }
    assert "interrupted" in {run["state"] for run in stopped.values()}
    curves = {run: curve(run) for run in stopped}
    process = start_study(tmp_path, launcher)
    output = finish(process)
    assert process.returncode == 0, output
    for run, rows in curves.items():
        assert json.loads((run / "run.json").read_text())["started"] == stopped[run]["started"]
        # The rows are equal, including their times, so none of these epochs was trained again.
        assert curve(run)[: len(rows)] == rows
    assert_complete(tmp_path)


def curve(run: Path) -> list[dict]:
    """Return the rows of a run's metrics.csv, which may not exist yet."""
    return read_metrics(run) if (run / "metrics.csv").exists() else []


@SLOW
def test_submitit_requeues_the_job_of_a_worker_that_gets_sigusr2(tmp_path: Path) -> None:
    """A worker continues after SIGTERM, which is SLURM's warning, and ends after SIGUSR2."""
    process = start_study(tmp_path, "submitit_local")
    worker = wait_for_workers(1, process, tmp_path)[0]
    os.kill(worker, signal.SIGTERM)
    time.sleep(1)
    assert Path(f"/proc/{worker}").exists()
    os.kill(worker, signal.SIGUSR2)
    while Path(f"/proc/{worker}").exists():
        time.sleep(0.02)
    output = finish(process)
    assert process.returncode == 0, output
    logs = "".join(path.read_text() for path in tmp_path.glob("study/.submitit/*/*_log.out"))
    assert len(re.findall(r"^submitit .*Requeued job", logs, re.MULTILINE)) == 1
    assert_complete(tmp_path)


def test_invalid_settings_of_a_launcher_are_refused_and_leave_no_files(
    tmp_path: Path, call: Command
) -> None:
    result = call(
        main, *STUDY, "hydra/launcher=pool", "hydra.launcher.workers=0", "hydra.sweep.dir=study"
    )
    assert_refused(result, "hydra.launcher.workers", "1", "0")
    assert not list(tmp_path.iterdir())
