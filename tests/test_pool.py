"""The launcher that runs jobs side by side on one machine."""

import gc
import os
import re
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf
from small_sweep import TINY, broken, finish, records, start, wait_for, write_broken

from resnet_sweep.sweeps.callback import SweepCallback
from resnet_sweep.sweeps.pool import PoolLauncher
from resnet_sweep.sweeps.worker import Assignment


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
    launcher = PoolLauncher(**settings)
    launcher.config = SimpleNamespace(trainer=SimpleNamespace(device=device))
    assert [place.get("CUDA_VISIBLE_DEVICES") for place in launcher._places(8)] == expected
    assert len(launcher._places(1)) == 1


def test_where_the_cores_of_this_process_are_not_known_all_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    launcher = PoolLauncher()
    launcher.config = SimpleNamespace(trainer=SimpleNamespace(device="cpu"))
    assert launcher._places(2) == [{"OMP_NUM_THREADS": "3"}] * 2


@pytest.mark.slow
def test_a_worker_that_gets_sigterm_leaves_the_next_job_to_another(tmp_path: Path) -> None:
    process = start(
        tmp_path, "--multirun", *TINY, "trainer.epochs=4", *broken("SIGTERM", "none"),
        "hydra.sweep.dir=sweep", "hydra/launcher=pool", "hydra.launcher.workers=1",
        "trainer.resume=false", **write_broken(tmp_path),
    )  # fmt: skip
    sweep = tmp_path / "sweep"
    wait_for(process, sweep / "0" / "run.json")
    begun = records(sweep)["0"]["started"]
    output = finish(process)
    assert process.returncode == 0, output
    assert (tmp_path / "SIGTERM").exists()
    # Job 0 is interrupted, job 1 is carried out, and job 0 is resumed: each end has a line.
    ended = re.findall(r"job (\d) (interrupted|finished|failed)\b(.*)", output)
    assert [(job, state) for job, state, _ in ended] == [
        ("0", "interrupted"), ("1", "finished"), ("0", "finished")
    ]  # fmt: skip
    assert "SIGTERM" in ended[0][2]
    assert {each["state"] for each in records(sweep).values()} == {"finished"}
    # To start over was asked for once, and not for when the job is resumed.
    assert records(sweep)["0"]["started"] == begun


def test_the_error_of_a_job_keeps_nothing_of_the_job() -> None:
    """Hydra keeps what its jobs return until the last has ended, with their errors."""

    class Batch:
        """Stands for a device's memory."""

    kept = []

    def train() -> None:
        batch = Batch()
        kept.append(weakref.ref(batch))
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def job() -> None:
        try:
            train()
        except RuntimeError as error:
            raise RuntimeError("the run failed") from error

    returned = JobReturn(status=JobStatus.FAILED)
    try:
        job()
    except RuntimeError as error:
        returned._return_value = error
    config = OmegaConf.create(
        {
            "hydra": {
                "mode": RunMode.MULTIRUN,
                "sweeper": {"_target_": "x"},
                "runtime": {"output_dir": "."},
            }
        }
    )
    gc.disable()
    try:
        SweepCallback.on_ended = lambda *_: None
        SweepCallback().on_job_end(config, returned)
        assert kept[0]() is None
    finally:
        SweepCallback.on_ended = None
        gc.enable()
    assert "out of memory" in str(returned._return_value.__cause__)


def test_jobs_without_a_number_are_numbered_from_the_first() -> None:
    loader = SimpleNamespace(
        load_sweep_config=lambda master, words: OmegaConf.create(
            {"hydra": {"job": {"num": "???", "id": "???"}}}
        )
    )
    context = SimpleNamespace(config_loader=loader, callbacks=None, execution_whitelist=None)
    found = Assignment.all_of(context, None, [["seed=0"], ["seed=1"]], first=3, errand=None)
    jobs = [assignment.config.hydra.job for assignment in found]
    assert [(job.num, job.id) for job in jobs] == [(3, "3"), (4, "4")]
