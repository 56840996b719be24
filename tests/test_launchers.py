"""A sweep has the same results with every launcher."""

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

OPTIMIZER = "defaults: [sgd]\nlr: {}\n"
# A sweep of three jobs, the last of which fails.
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


def test_jobs_for_other_machines_may_have_a_precision_that_is_slow_on_this_one(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.device.has_fast_bfloat16", lambda device: False)
    arguments = ("--multirun", *TINY, "seed=0,1", "dry_run=true")
    ray, precision = "hydra/launcher=ray", "trainer.precision=bfloat16"
    result = call(main, *arguments, ray)
    assert result.returncode == 0, result.stderr
    # The command says that it chose float32.
    assert precision in result.stdout
    assert precision not in call(main, *arguments, ray, precision).stdout
    assert precision not in call(main, *arguments).stdout
    assert_refused(call(main, *arguments, precision), precision)


def start_sweep(folder: Path, *overrides: str) -> Process:
    """Write the optimizer and the faulty augmentation into a folder, and start the sweep."""
    (folder / "mine" / "optim").mkdir(parents=True, exist_ok=True)
    (folder / "mine" / "optim" / "own.yaml").write_text(OPTIMIZER.format(0.1))
    return start(folder, *SWEEP, *overrides, **write_faulty_transform(folder))


@pytest.fixture
def basic_sweep(once: Once) -> Path:
    """Return a folder with the sweep by the basic launcher.

    `stopped` is a copy that was made when the sweep had been stopped in its second job, and `sweep`
    is the complete sweep.
    """

    def make(folder: Path) -> None:
        process = start_sweep(folder)
        sweep = folder / "sweep"
        while not ((sweep / "1" / "metrics.csv").exists() and len(read_metrics(sweep / "1")) > 1):
            assert process.poll() is None, finish(process)
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode == 75, output
        assert [job["state"] for job in manifest(sweep)] == ["finished", "interrupted", "pending"]
        shutil.copytree(sweep, folder / "stopped")
        process = start_sweep(folder)
        output = finish(process)
        assert process.returncode == 1, output

    return once("sweep_by_basic", make)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_resumed_sweep_keeps_its_configs_and_a_failed_job_does_not_stop_it(
    launcher: str, tmp_path: Path, basic_sweep: Path
) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(basic_sweep / "stopped", sweep)
    finished = snapshot(sweep / "0")
    metrics = (sweep / "1" / "metrics.csv").read_bytes()
    process = start_sweep(tmp_path, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    wait_for(process, sweep / "sweep.lock")
    # The sweep has composed its configs, so a change of the file has no effect.
    (tmp_path / "mine" / "optim" / "own.yaml").write_text(OPTIMIZER.format("nonsense"))
    output = finish(process)
    assert process.returncode == 1, output
    assert snapshot(sweep / "0") == finished
    # The metrics from before the stop are the same, including times, so the run was resumed.
    assert (sweep / "1" / "metrics.csv").read_bytes().startswith(metrics)
    assert records(sweep)["1"]["started"] == records(basic_sweep / "stopped")["1"]["started"]
    failures = [line for line in output.splitlines() if "job 2" in line and "seed=2" in line]
    failure = failures[-1]
    assert "failed" in failure and "ValueError" in failure and "this one is broken" in failure
    assert any(line.endswith("hydra.sweep.dir=sweep") for line in commands(output))
    assert [line["state"] for line in results(sweep)] == ["finished", "finished", "failed"]
    assert records(sweep)["2"]["reason"] == records(basic_sweep / "sweep")["2"]["reason"]
    assert not leftovers(sweep)
    for name in ("0", "1"):
        for source, target in ((sweep, "launcher"), (basic_sweep / "sweep", "basic")):
            shutil.copytree(source / name, tmp_path / target / name)
    assert_same_runs(tmp_path / "launcher", tmp_path / "basic")


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "slurm"])
def test_a_dry_run_does_not_need_the_launchers_cluster(launcher: str, call: Command) -> None:
    result = call(main, "--multirun", *TINY, f"hydra/launcher={launcher}", "dry_run=true")
    assert result.returncode == 0, result.stderr
    assert dry_run_jobs(result.stdout) == [(0, "pending", [])]


def test_a_launcher_that_is_not_installed_is_reported_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Hydra raises this error for a default that doesn't exist.
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
    result = call(main, "--multirun", *TINY, "hydra/launcher=slurm")
    assert_refused(result, "hydra/launcher=slurm", "sbatch", "srun")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("override", ["hydra.launcher.cpus=-1", "hydra.launcher.gpus=half"])
def test_a_wrong_setting_of_the_ray_launcher_is_refused(override: str, call: Command) -> None:
    result = call(main, "--multirun", *TINY, "hydra/launcher=ray", override)
    assert_refused(result, *override.split("="))


DATASET = """
from pathlib import Path

from resnet_sweep.data import Digits


class LocalDigits(Digits):
    def load(self, seed):
        assert Path("needed.txt").exists(), Path.cwd()
        return super().load(seed)
"""


def test_relative_paths_start_at_the_folder_of_the_command_with_chdir(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "local_digits.py").write_text(DATASET)
    (tmp_path / "needed.txt").touch()
    result = command(
        "--multirun",
        *TINY,
        "trainer.max_steps=1",
        "data._target_=local_digits.LocalDigits",
        "hydra.sweep.dir=sweep",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=1",
        "hydra.job.chdir=true",
        PYTHONPATH=str(tmp_path),
        RESNET_SWEEP_TRUSTED_PACKAGES="local_digits",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert records(tmp_path / "sweep")["0"]["state"] == "finished"
