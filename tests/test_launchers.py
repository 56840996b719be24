"""A sweep comes to the same with every launcher."""

import importlib.util
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import Command, Once
from hydra.errors import MissingConfigException
from processes import Process, assert_refused
from small_sweep import (
    TINY,
    assert_same_runs,
    commands,
    dry_run_jobs,
    finish,
    job_faults,
    leftovers,
    manifest,
    records,
    results,
    snapshot,
    start,
    wait_for,
    write_faulty_transform,
)

from resnet_sweep.__main__ import main
from resnet_sweep.config.errors import format_error
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.sweeps.launchers.ray import RayLauncher

OWN = "defaults: [sgd]\nlr: {}\n"
# The last job fails.
SWEEP = (
    "--config-dir",
    "mine",
    "--multirun",
    *TINY,
    "optim=own",
    "trainer.epochs=12",
    *job_faults("none", "none", "error"),
    "hydra.sweep.dir=sweep",
)
LAUNCHERS = {
    "pool": ["hydra.launcher.workers=2"],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["hydra.launcher.address=local"],
}


def begin(folder: Path, *words: str) -> Process:
    """Start the sweep in a folder, with what it needs."""
    (folder / "mine" / "optim").mkdir(parents=True, exist_ok=True)
    (folder / "mine" / "optim" / "own.yaml").write_text(OWN.format(0.1))
    return start(folder, *SWEEP, *words, **write_faulty_transform(folder))


@pytest.fixture
def basic(once: Once) -> Path:
    """The sweep by `basic`: stopped in its second job, in `half`, and at its end, in `sweep`."""

    def carry_out(folder: Path) -> None:
        process = begin(folder)
        sweep = folder / "sweep"
        while not ((sweep / "1" / "metrics.csv").exists() and len(read_metrics(sweep / "1")) > 1):
            assert process.poll() is None, finish(process)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode == 75, output
        assert [job["state"] for job in manifest(sweep)] == ["finished", "interrupted", "pending"]
        shutil.copytree(sweep, folder / "half")
        process = begin(folder)
        output = finish(process)
        assert process.returncode == 1, output

    return once("sweep_by_basic", carry_out)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_resumed_sweep_is_frozen_and_survives_a_failing_job(
    launcher: str, tmp_path: Path, basic: Path
) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(basic / "half", sweep)
    finished = snapshot(sweep / "0")
    metrics = (sweep / "1" / "metrics.csv").read_bytes()
    process = begin(tmp_path, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    wait_for(process, sweep / "sweep.lock")
    # All is composed by now.
    (tmp_path / "mine" / "optim" / "own.yaml").write_text(OWN.format("nonsense"))
    output = finish(process)
    assert process.returncode == 1, output
    assert snapshot(sweep / "0") == finished
    # The rows from before the stop are kept, times included: the run was resumed.
    assert (sweep / "1" / "metrics.csv").read_bytes().startswith(metrics)
    assert records(sweep)["1"]["started"] == records(basic / "half")["1"]["started"]
    failures = [line for line in output.splitlines() if "job 2" in line and "seed=2" in line]
    failure = failures[-1]
    assert "failed" in failure and "ValueError" in failure and "this one is broken" in failure
    assert any(line.endswith("hydra.sweep.dir=sweep") for line in commands(output))
    assert [line["state"] for line in results(sweep)] == ["finished", "finished", "failed"]
    assert records(sweep)["2"]["reason"] == records(basic / "sweep")["2"]["reason"]
    assert not leftovers(sweep)
    for name in ("0", "1"):
        for one, place in ((sweep, "here"), (basic / "sweep", "there")):
            shutil.copytree(one / name, tmp_path / place / name)
    assert_same_runs(tmp_path / "here", tmp_path / "there")


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "slurm"])
def test_a_preview_needs_no_more_than_the_launchers_settings(launcher: str, call: Command) -> None:
    done = call(main, "--multirun", *TINY, f"hydra/launcher={launcher}", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert dry_run_jobs(done.stdout) == [(0, "pending", [])]


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Hydra's error about a default that doesn't exist.
    missing = MissingConfigException("", missing_cfg_file="hydra/launcher/submitit_slurm")
    for fact in (
        "hydra/launcher=slurm",
        "hydra-submitit-launcher",
        "pip install 'resnet-sweep[slurm]'",
    ):
        assert fact in format_error(missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as refusal:
        RayLauncher()
    for fact in ("hydra/launcher=ray", "pip install 'resnet-sweep[ray]'"):
        assert fact in str(refusal.value)


def test_a_launcher_without_its_cluster_is_refused_before_anything_is_written(
    tmp_path: Path, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call(main, "--multirun", *TINY, "hydra/launcher=slurm")
    assert_refused(done, "hydra/launcher=slurm", "sbatch", "srun")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["hydra.launcher.cpus=-1", "hydra.launcher.gpus=half"])
def test_a_wrong_setting_of_ray_is_refused(word: str, call: Command) -> None:
    done = call(main, "--multirun", *TINY, "hydra/launcher=ray", word)
    assert_refused(done, *word.split("="))


NEEDY = """
from pathlib import Path

from resnet_sweep.data import Digits


class Needy(Digits):
    def load(self, seed):
        assert Path("needed.txt").exists(), Path.cwd()
        return super().load(seed)
"""


def test_paths_mean_the_commands_folder_with_a_plugin_of_hydras_that_leaves_it(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "needy.py").write_text(NEEDY)
    (tmp_path / "needed.txt").touch()
    done = command(
        "--multirun",
        *TINY,
        "trainer.max_steps=1",
        "data._target_=needy.Needy",
        "hydra.sweep.dir=sweep",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=1",
        "hydra.job.chdir=true",
        PYTHONPATH=str(tmp_path),
        RESNET_SWEEP_TRUSTED_PACKAGES="needy",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert records(tmp_path / "sweep")["0"]["state"] == "finished"
