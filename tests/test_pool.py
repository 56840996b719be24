"""The pool launcher, which runs several jobs at a time on one machine."""

import gc
import os
import re
import weakref
from pathlib import Path

import pytest
import torch
from small_run import config
from small_sweep import TINY, finish, job_faults, records, start, wait_for, write_faulty_transform

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
        # The config names a GPU, so CUDA_VISIBLE_DEVICES isn't set.
        ("cuda:1", None, {}, [None]),
        ("cuda:1", None, {"jobs_per_gpu": 2}, [None, None]),
    ],
)
def test_each_gpu_gets_as_many_jobs_as_jobs_per_gpu_says(
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
    environments = launcher.environments(8)
    assert [variables.get("CUDA_VISIBLE_DEVICES") for variables in environments] == expected
    assert len(launcher.environments(1)) == 1


def test_all_cores_are_used_if_the_affinity_of_the_process_is_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    launcher = PoolLauncher(device="cpu")
    assert launcher.environments(2) == [{"OMP_NUM_THREADS": "3"}] * 2


@pytest.mark.slow
def test_another_worker_takes_the_next_job_when_one_gets_sigterm(tmp_path: Path) -> None:
    process = start(
        tmp_path,
        "--multirun",
        *TINY,
        "trainer.epochs=4",
        *job_faults("SIGTERM", "none"),
        "hydra.sweep.dir=sweep",
        "hydra/launcher=pool",
        "hydra.launcher.workers=1",
        "trainer.resume=false",
        **write_faulty_transform(tmp_path),
    )
    sweep = tmp_path / "sweep"
    wait_for(process, sweep / "0" / "run.json")
    started = records(sweep)["0"]["started"]
    output = finish(process)
    assert process.returncode == 0, output
    assert (tmp_path / "SIGTERM").exists()
    # Job 0 is interrupted, job 1 runs, and job 0 is resumed. The output has a line for each end.
    ends = re.findall(r"job (\d) (interrupted|finished|failed)\b(.*)", output)
    assert [(job, state) for job, state, _ in ends] == [
        ("0", "interrupted"),
        ("1", "finished"),
        ("0", "finished"),
    ]
    assert "SIGTERM" in ends[0][2]
    assert {record["state"] for record in records(sweep).values()} == {"finished"}
    # trainer.resume=false applies to the first launch only, so job 0 was resumed.
    assert records(sweep)["0"]["started"] == started


def test_a_failed_job_frees_the_memory_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same process runs the next job, which needs the memory."""

    class Batch:
        """An object in place of a tensor on the device."""

    references = []

    def train(*arguments: object, **options: object) -> None:
        batch = Batch()
        references.append(weakref.ref(batch))
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
        assert references[0]() is None
    finally:
        gc.enable()


def test_an_interrupted_job_that_cannot_be_resumed_fails(tmp_path: Path) -> None:
    """Otherwise its sweep would launch it again without end."""
    planned = plan_run(config())
    record = planned.record(ComposedConfig(config(), {}, [], []))
    record.state, record.reason = "interrupted", "stopped by SIGTERM"
    record.config["trainer"] = record.config["trainer"] | {"device": "cuda:7"}
    record.write(tmp_path)
    write_hydra_folder(tmp_path, config(), {"job": {}}, [])
    assert jobs.train_job(tmp_path) == "failed"
    record = Record.read(tmp_path)
    assert record.state == "failed"
    assert "cuda:7" in record.reason


def test_a_job_whose_environment_cannot_be_set_fails(tmp_path: Path) -> None:
    planned = plan_run(config())
    write_plan(tmp_path, planned.record(ComposedConfig(config(), {}, [], [])))
    # The variables are in .hydra/hydra.yaml, which doesn't exist.
    assert jobs.train_job(tmp_path) == "failed"
    record = Record.read(tmp_path)
    assert (record.state, record.heartbeat) == ("failed", None)
    assert "hydra.yaml" in record.reason


def test_remove_empty_leaves_folders_that_existed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    missing = missing_folders(Path("outputs/day/time"))
    assert missing == [tmp_path / "outputs" / "day" / "time", tmp_path / "outputs" / "day"]
    missing[0].mkdir(parents=True)
    remove_empty(missing)
    assert list(tmp_path.iterdir()) == [tmp_path / "outputs"]
    assert missing_folders(Path(".")) == []
