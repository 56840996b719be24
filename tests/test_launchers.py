"""A sweep is the same sweep, whatever carries its jobs out."""

import importlib.util
import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from conftest import Command
from small_sweep import TINY, assert_same_runs, finish, ledger, leftovers, results, snapshot, start

from resnet_sweep.__main__ import main
from resnet_sweep.runs.metrics import read_metrics

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
# The last one breaks down.
SWEEP = (
    "--config-dir", "mine", "--multirun", *TINY, "optim=own", "trainer.epochs=12", "seed=0,1,2",
    "+augmentation.mine._target_=broken.Broken", "+augmentation.mine.fails=false,false,true",
    "zip=[seed,+augmentation.mine.fails]", "hydra.sweep.dir=sweep",
)  # fmt: skip
OWN = "defaults: [sgd]\nlr: {}\n"
LAUNCHERS = {
    "pool": ["hydra.launcher.workers=2"],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["hydra.launcher.address=local"],
}
PACKAGES = {"joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "ray"}


def begin(folder: Path, *words: str):
    """Start the sweep in a folder with what it needs."""
    (folder / "mine" / "optim").mkdir(parents=True, exist_ok=True)
    (folder / "mine" / "optim" / "own.yaml").write_text(OWN.format(0.1))
    (folder / "broken.py").write_text(BROKEN)
    return start(folder, *SWEEP, *words, PYTHONPATH=str(folder), RESNET_SWEEP_TRUST="broken")


@pytest.fixture(scope="module")
def halfway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sweep stopped in its second job, in `half`, and carried out to its end in `sweep`."""
    folder = tmp_path_factory.mktemp("halfway")
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
    (folder / "told.txt").write_text(finish(process))
    assert process.returncode == 1
    return folder


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_goes_on_and_fails_softly_through_every_launcher(
    launcher: str, tmp_path: Path, halfway: Path, call: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    if launcher in PACKAGES and importlib.util.find_spec(PACKAGES[launcher]) is None:
        pytest.skip(f"hydra/launcher={launcher} isn't installed")
    words = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    sweep = tmp_path / "sweep"
    shutil.copytree(halfway / "half", sweep)
    finished = snapshot(sweep / "0")
    process = begin(tmp_path, *words)
    while json.loads((sweep / "sweep.json").read_text())["definition"]["command"].count(
        "hydra/launcher"
    ) == 0:
        assert process.poll() is None, finish(process)
        time.sleep(0.02)
    # Frozen by now.
    (tmp_path / "mine" / "optim" / "own.yaml").write_text(OWN.format("nonsense"))
    output = finish(process)
    assert process.returncode == 1, output
    assert snapshot(sweep / "0") == finished
    assert (sweep / "1" / "train.log").read_text().count("going on at epoch") == 1
    told = (halfway / "told.txt").read_text()
    reason = "job 2 (optim=own seed=2 +augmentation.mine.fails=True) failed: ValueError: this one is broken"
    assert reason in output
    assert [(job["number"], job["state"], job["reason"]) for job in ledger(sweep)] == [
        (job["number"], job["state"], job["reason"]) for job in ledger(halfway / "sweep")
    ]
    assert [line["state"] for line in results(sweep)] == ["finished", "finished", "failed"]
    assert not leftovers(sweep)
