"""Workers of a study are jobs of a launcher."""

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

# Each launcher starts new interpreters for the workers.
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


def begin(folder: Path, launcher: str) -> Process:
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


def wait_for(processes: int, process: Process, folder: Path) -> list[int]:
    """The processes that are at work on trials, as soon as there are so many."""
    found: list[int] = []
    while len(found) < processes:
        assert process.poll() is None, finish(process)
        time.sleep(0.02)
        found = [pid for pid in map(process_at_work, folder.glob("study/*/run.json")) if pid]
    return found


def complete(folder: Path) -> None:
    """The study is at its end, and nothing of it is lost."""
    study = folder / "study"
    shutil.rmtree(study / "workers")
    shutil.rmtree(study / ".submitit", ignore_errors=True)
    check_complete(load(f"sqlite:///{study}/study.db"), study, TRIALS)


@SLOW
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_worker_that_is_killed_leaves_its_trial_to_the_others(
    launcher: str, tmp_path: Path
) -> None:
    process = begin(tmp_path, launcher)
    os.kill(wait_for(2, process, tmp_path)[0], signal.SIGKILL)
    output = finish(process)
    if process.returncode:
        # A worker is the job of its launcher, and these give up when one of their jobs is killed.
        assert launcher in ("joblib", "submitit_local"), output
        process = begin(tmp_path, launcher)
        output = finish(process)
        assert process.returncode == 0, output
    else:
        # The command prints how each trial ended, once, and counts them.
        assert re.findall(r"^\[(\d+)/(\d+)\]", output, re.MULTILINE) == [
            (f"{number}", f"{TRIALS}") for number in range(1, TRIALS + 1)
        ]
    if launcher == "pool":
        assert "SIGKILL" in output
    complete(tmp_path)


@SLOW
def test_a_launcher_may_be_chosen_in_a_config(tmp_path: Path) -> None:
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
    complete(tmp_path)


@SLOW
@pytest.mark.parametrize("launcher", ["pool", "ray"])
def test_a_stopped_study_has_its_trials_saved_and_is_resumed(launcher: str, tmp_path: Path) -> None:
    process = begin(tmp_path, launcher)
    wait_for(2, process, tmp_path)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 75, output
    (printed,) = commands(output)
    assert "hydra.sweep.dir=study" in printed
    assert not wait_for(0, process, tmp_path)
    stopped = {
        path.parent: json.loads(path.read_text()) for path in tmp_path.glob("study/*/run.json")
    }
    assert "interrupted" in {run["state"] for run in stopped.values()}
    curves = {run: curve(run) for run in stopped}
    process = begin(tmp_path, launcher)
    output = finish(process)
    assert process.returncode == 0, output
    for run, rows in curves.items():
        assert json.loads((run / "run.json").read_text())["started"] == stopped[run]["started"]
        # Their times are the same, so that none of these epochs was trained once more.
        assert curve(run)[: len(rows)] == rows
    complete(tmp_path)


def curve(run: Path) -> list[dict]:
    """The epochs that a run has."""
    return read_metrics(run) if (run / "metrics.csv").exists() else []


@SLOW
def test_a_job_that_is_to_end_is_queued_again_with_a_worker(tmp_path: Path) -> None:
    """By submitit: SLURM's warning, after which a worker continues, and then the order to end."""
    process = begin(tmp_path, "submitit_local")
    worker = wait_for(1, process, tmp_path)[0]
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
    complete(tmp_path)


def test_a_launcher_that_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, call: Command
) -> None:
    done = call(
        main, *STUDY, "hydra/launcher=pool", "hydra.launcher.workers=0", "hydra.sweep.dir=study"
    )
    assert_refused(done, "hydra.launcher.workers", "1", "0")
    assert not list(tmp_path.iterdir())
