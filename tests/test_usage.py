"""The CPU time and the memory of a run: how they are measured, and where they are shown."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from run_directories import write_run
from small_sweep import TINY

from resnet_sweep.__main__ import main
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.runs_table import RunsTable
from resnet_sweep.runs.record import Record, Usage
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks.usage import ResourceUsage

MIB = 2**20


def measure(directory: Path, record: Record, work: object, device: str = "cpu") -> Usage:
    """Return the usage of a run that does some work."""
    run = Run.open(directory, record)
    callback = ResourceUsage(run, torch.device(device))
    callback.on_train_start(directory, 0)
    work()
    callback.on_train_end(run.record)
    run.close("interrupted")
    usage = Record.read(directory).usage
    assert usage is not None
    return usage


def compute(seconds: float = 0.3) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_cpu_time_is_compared_with_the_time_of_the_cores(tmp_path: Path) -> None:
    for name, threads in {"one": 1, "two": 2}.items():
        started = time.monotonic()
        usage = measure(tmp_path / name, Record("a", threads=threads), compute)
        elapsed = time.monotonic() - started
        assert 0.27 <= usage["cpu_seconds"] <= 0.5
        assert (
            usage["cpu_seconds"] / threads
            <= usage["core_seconds"] + 0.05
            <= threads * (elapsed + 0.05)
        )
        share = Record.read(tmp_path / name).cpu_share
        assert share == pytest.approx(100 * usage["cpu_seconds"] / usage["core_seconds"])
    usage = measure(tmp_path / "idle", Record("a", threads=1), lambda: time.sleep(0.3))
    assert usage["core_seconds"] >= 0.3 and Record.read(tmp_path / "idle").cpu_share < 50


def test_processes_that_a_run_starts_count(tmp_path: Path) -> None:
    def start() -> None:
        child = os.fork()
        if not child:
            compute()
            os._exit(0)
        os.waitpid(child, 0)

    assert measure(tmp_path, Record("a", threads=1), start)["cpu_seconds"] >= 0.27


def test_the_sessions_of_a_resumed_run_are_added(tmp_path: Path) -> None:
    first = measure(tmp_path, Record("a", threads=1), compute)
    second = measure(tmp_path, Record("a", threads=2), compute)
    assert 0.27 <= second["cpu_seconds"] - first["cpu_seconds"] <= 0.5
    assert second["core_seconds"] - first["core_seconds"] >= 2 * 0.27
    assert second["peak_memory_mib"] >= first["peak_memory_mib"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can reset it")
def test_the_largest_memory_is_that_of_the_run_and_not_of_the_process(tmp_path: Path) -> None:
    before = measure(tmp_path / "before", Record("a"), lambda: None)["peak_memory_mib"]
    large = measure(tmp_path / "large", Record("a"), lambda: np.ones(300 * MIB, np.uint8))
    after = measure(tmp_path / "after", Record("a"), lambda: None)["peak_memory_mib"]
    assert large["peak_memory_mib"] - before > 250
    assert large["peak_memory_mib"] - after > 250


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_largest_gpu_memory_is_that_of_the_run(tmp_path: Path) -> None:
    def allocate() -> None:
        torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")

    large = measure(tmp_path / "large", Record("a"), allocate, "cuda")["peak_gpu_memory_mib"]
    small = measure(tmp_path / "small", Record("a"), lambda: None, "cuda")["peak_gpu_memory_mib"]
    assert large - small == 64


def test_a_trained_run_has_its_usage(call: Command, tmp_path: Path) -> None:
    assert call(main, *TINY, "hydra.run.dir=run").returncode == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    usage = record["usage"]
    assert usage["core_seconds"] >= record["seconds"] * record["threads"]
    assert usage["peak_memory_mib"] > 50 and usage["peak_gpu_memory_mib"] is None
    condition = "cpu_share > 0 and usage.peak_memory_mib > 50"
    found = json.loads(call(main, "runs", "run", "--filter", condition, "--json").stdout)["runs"]
    assert found[0]["cpu_share"]["mean"] == pytest.approx(
        100 * usage["cpu_seconds"] / usage["core_seconds"]
    )


@pytest.mark.parametrize(
    ("seconds", "cpu_seconds", "shown"),
    [(300.0, (99.0, 33.0), True), (300.0, (99.0, 90.0), False), (30.0, (99.0, 33.0), False)],
)
def test_the_table_shows_the_share_if_it_explains_the_time(
    tmp_path: Path, seconds: float, cpu_seconds: tuple[float, ...], shown: bool
) -> None:
    memory = {"peak_memory_mib": 500.0, "peak_gpu_memory_mib": None}
    for number, used in enumerate(cpu_seconds):
        usage = {"cpu_seconds": used, "core_seconds": 100.0, **memory}
        settings = {"optim.lr": 0.1 + number}
        write_run(tmp_path / str(number), settings, seconds=seconds, usage=usage)
    # A run of an earlier version has no usage.
    write_run(tmp_path / "2", {"optim.lr": 5}, seconds=seconds)
    lines = RunsTable(find_runs([tmp_path])).lines(None)
    assert (" cpu " in lines[0]) == shown
    for used in cpu_seconds:
        assert any(f" {used:.0f}% " in line for line in lines) == shown
