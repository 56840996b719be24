"""The launcher that runs jobs side by side on one machine."""

import gc
import os
import re
import weakref
from pathlib import Path

import pytest
import torch
from small_run import config
from small_sweep import TINY, broken, finish, records, start, wait_for, write_broken

from resnet_sweep import jobs
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import RunFailed
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import write_plan
from resnet_sweep.sweeps.launchers.pool import PoolLauncher


@pytest.mark.parametrize(
    ("device", "visible", "settings", "expected"),
    [
        ("auto", None, {}, ["0", "1"]),
        ("cuda", "3,5", {}, ["3", "5"]),
        ("auto", None, {"jobs_per_gpu": 2}, ["0", "1", "0", "1"]),
        ("auto", "7", {"jobs_per_gpu": 3}, ["7", "7", "7"]),
        ("auto", None, {"jobs_per_gpu": 2, "workers": 3}, ["0", "1", "0"]),
        # The one that is named; what the jobs see stays as it is.
        ("cuda:1", None, {}, [None]),
        ("cuda:1", None, {"jobs_per_gpu": 2}, [None, None]),
    ],
)
def test_each_gpu_has_as_many_jobs_as_are_asked_for(
    device: str,
    visible: str | None,
    settings: dict,
    expected: list,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    launcher = PoolLauncher(**settings, device=device)
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in launcher.environments(8)] == expected
    assert len(launcher.environments(1)) == 1


def test_where_the_cores_of_this_process_are_not_known_all_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    launcher = PoolLauncher(device="cpu")
    assert launcher.environments(2) == [{"OMP_NUM_THREADS": "3"}] * 2


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_leaves_the_next_job_to_another(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "--multirun",
        *TINY,
        "trainer.epochs=4",
        *broken("SIGTERM", "none"),
        "hydra.sweep.dir=sweep",
        "hydra/launcher=pool",
        "hydra.launcher.workers=1",
        "trainer.resume=false",
        **write_broken(tmp_path),
    )
    sweep = tmp_path / "sweep"
    wait_for(process, sweep / "0" / "run.json")
    begun = records(sweep)["0"]["started"]
    output = finish(process)
    assert process.returncode == 0, output
    assert (tmp_path / "SIGTERM").exists()
    # Job 0 is interrupted, job 1 is carried out, and job 0 is resumed: each end has a line.
    ended = re.findall(r"job (\d) (interrupted|finished|failed)\b(.*)", output)
    assert [(job, state) for job, state, _ in ended] == [
        ("0", "interrupted"),
        ("1", "finished"),
        ("0", "finished"),
    ]
    assert "SIGTERM" in ended[0][2]
    assert {each["state"] for each in records(sweep).values()} == {"finished"}
    # To start over was asked for once, and not for when the job is resumed.
    assert records(sweep)["0"]["started"] == begun


def test_a_failed_job_keeps_nothing_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the job takes the next one, which needs the memory."""

    class Batch:
        """Stands for a device's memory."""

    kept = []

    def train(*arguments: object, **options: object) -> None:
        batch = Batch()
        kept.append(weakref.ref(batch))
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as error:
            raise RunFailed("out of memory") from error

    planned = plan_run(config())
    write_plan(tmp_path, planned.record(ComposedConfig(config(), {}, [], [])))
    write_hydra_folder(tmp_path, config(), {"job": {}}, [])
    monkeypatch.setattr(jobs, "train", train)
    gc.disable()
    try:
        assert jobs.train_job(tmp_path) == "failed"
        assert kept[0]() is None
    finally:
        gc.enable()


def test_an_interrupted_job_that_cannot_be_resumed_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sweep would launch it again for ever."""
    planned = plan_run(config())
    record = planned.record(ComposedConfig(config(), {}, [], []))
    record.state, record.reason = "interrupted", "stopped by SIGTERM"
    record.config["trainer"] = record.config["trainer"] | {"device": "cuda:7"}
    record.write(tmp_path)
    write_hydra_folder(tmp_path, config(), {"job": {}}, [])
    assert jobs.train_job(tmp_path) == "failed"
    found = Record.read(tmp_path)
    assert found.state == "failed"
    assert "cuda:7" in found.reason


def test_a_job_whose_environment_cannot_be_set_has_failed(tmp_path: Path) -> None:
    planned = plan_run(config())
    write_plan(tmp_path, planned.record(ComposedConfig(config(), {}, [], [])))
    # There is no .hydra/ to read it from.
    assert jobs.train_job(tmp_path) == "failed"
    found = Record.read(tmp_path)
    assert (found.state, found.heartbeat) == ("failed", None)
    assert "hydra.yaml" in found.reason


def test_folders_that_were_there_are_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    made = missing_folders(Path("outputs/day/time"))
    assert made == [tmp_path / "outputs" / "day" / "time", tmp_path / "outputs" / "day"]
    made[0].mkdir(parents=True)
    remove_empty(made)
    assert list(tmp_path.iterdir()) == [tmp_path / "outputs"]
    assert missing_folders(Path(".")) == []
