"""A sweep is the same sweep, whatever carries its jobs out."""

import importlib.util
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import Command
from hydra.errors import MissingConfigException
from processes import Process
from small_sweep import (
    TINY,
    assert_same_runs,
    finish,
    ledger,
    leftovers,
    records,
    results,
    snapshot,
    start,
    wait_for,
)

from resnet_sweep.__main__ import main
from resnet_sweep.composition.complaint import sentence
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.sweeps.ray import RayLauncher

BROKEN = """
class Broken:
    def __init__(self, fails):
        self.fails, self.tried = fails, 0

    def __call__(self, images, labels, generator):
        # The first batch is one that is tried before anything begins.
        self.tried += 1
        if self.fails and self.tried > 1:
            raise ValueError("this one is broken")
        return images, labels
"""
OWN = "defaults: [sgd]\nlr: {}\n"
# The last one breaks down.
SWEEP = (
    "--config-dir", "mine", "--multirun", *TINY, "optim=own", "trainer.epochs=12", "seed=0,1,2",
    "+augmentation.mine._target_=broken.Broken", "+augmentation.mine.fails=false,false,true",
    "zip=[seed,+augmentation.mine.fails]", "hydra.sweep.dir=sweep",
)  # fmt: skip
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
    (folder / "broken.py").write_text(BROKEN)
    return start(folder, *SWEEP, *words, PYTHONPATH=str(folder), RESNET_SWEEP_TRUST="broken")


@pytest.fixture(scope="module")
def basic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep by `basic`: stopped in its second job, in `half`, and at its end, in `sweep`."""
    folder = tmp_path_factory.mktemp("basic")
    process = begin(folder)
    sweep = folder / "sweep"
    while not ((sweep / "1" / "metrics.csv").exists() and len(read_metrics(sweep / "1")) > 1):
        assert process.poll() is None, finish(process)
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = finish(process)
    assert process.returncode == 75, output
    assert [job["state"] for job in ledger(sweep)] == ["finished", "interrupted", "waiting"]
    shutil.copytree(sweep, folder / "half")
    process = begin(folder)
    output = finish(process)
    assert process.returncode == 1, output
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_goes_on_frozen_and_soft_to_failures(
    launcher: str, tmp_path: Path, basic: Path
) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(basic / "half", sweep)
    finished = snapshot(sweep / "0")
    process = begin(tmp_path, f"hydra/launcher={launcher}", *LAUNCHERS[launcher])
    wait_for(process, sweep / "sweep.lock")
    # All is composed by now.
    (tmp_path / "mine" / "optim" / "own.yaml").write_text(OWN.format("nonsense"))
    output = finish(process)
    assert process.returncode == 1, output
    assert snapshot(sweep / "0") == finished
    assert (sweep / "1" / "train.log").read_text().count("going on at epoch") == 1
    assert "job 2 (" in output
    assert "failed: ValueError: this one is broken" in output
    assert "To run those that failed again:" in output
    assert [line["state"] for line in results(sweep)] == ["finished", "finished", "failed"]
    assert records(sweep)["2"]["reason"] == records(basic / "sweep")["2"]["reason"]
    assert not leftovers(sweep)
    for name in ("0", "1"):
        for one, place in ((sweep, "here"), (basic / "sweep", "there")):
            shutil.copytree(one / name, tmp_path / place / name)
    assert_same_runs(tmp_path / "here", tmp_path / "there")


@pytest.mark.parametrize("launcher", [*LAUNCHERS, "slurm"])
def test_a_preview_needs_no_more_than_the_launchers_settings(launcher: str, call: Command) -> None:
    done = call(main, "--multirun", *TINY, f"hydra/launcher={launcher}", "sweep_mode=preview")
    assert done.returncode == 0, done.stderr
    assert "1 to train" in done.stdout


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # As Hydra tells of a default that isn't there.
    missing = MissingConfigException("", missing_cfg_file="hydra/launcher/submitit_slurm")
    assert sentence(missing) == (
        "hydra/launcher=slurm needs the package hydra-submitit-launcher: "
        "pip install 'resnet-sweep[slurm]'"
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"ray needs the package ray: pip install 'resnet-s"):
        RayLauncher()


def test_a_launcher_without_its_cluster_is_refused_before_anything_is_written(
    tmp_path: Path, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = call(main, "--multirun", *TINY, "hydra/launcher=slurm")
    assert done.returncode == 2
    assert "needs SLURM's sbatch and srun, which aren't here" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("hydra.launcher.cpus=-1", "hydra.launcher.cpus must be a number at least 0, but is -1"),
        ("hydra.launcher.gpus=half", "hydra.launcher.gpus must be a number at least 0"),
    ],
)
def test_a_wrong_setting_of_ray_is_refused(word: str, told: str, call: Command) -> None:
    done = call(main, "--multirun", *TINY, "hydra/launcher=ray", word)
    assert done.returncode == 2
    assert told in done.stderr
