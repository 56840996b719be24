"""The benchmarks for GPUs: their script resumes, and they compare losses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks import compile_modes, one_process_ddp
from benchmarks.compile_modes import EAGER, Measurement, compare, format_results, measure

SCRIPT = ROOT / "benchmarks" / "on_a_gpu.sh"
# A program that replaces Python: it logs its arguments, and one part waits until it is stopped.
STUB = """#!/usr/bin/env bash
cd "$(dirname "$0")"
echo "$*" >>calls
if [[ "$*" == *one_process_ddp* && -e slow ]]; then
  trap 'kill $!; rm slow; exit 143' TERM
  sleep 60 &
  wait
fi
[[ "$*" != *test_compile* || ! -e failing ]]
"""


def run_script(folder: Path, **environment: str) -> int:
    stub = folder / "stub"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return subprocess.run(
        [SCRIPT, folder / "top"],
        env=os.environ | {"PYTHON": str(stub)} | environment,
        capture_output=True,
        timeout=50,
        check=False,
    ).returncode


def test_the_script_stops_at_its_time_limit_and_repeats_only_the_stopped_part(
    tmp_path: Path,
) -> None:
    (tmp_path / "slow").touch()
    assert run_script(tmp_path, SECONDS_AT_MOST="2") == 75
    stopped = (tmp_path / "calls").read_text().splitlines()
    assert run_script(tmp_path) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[len(stopped)] == stopped[-1]
    assert len({*calls}) == len(calls) - 1
    assert run_script(tmp_path) == 0
    assert (tmp_path / "calls").read_text().splitlines() == calls


def test_a_failed_part_does_not_stop_the_others_and_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "failing").touch()
    assert run_script(tmp_path, RECIPES="float32/null") == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "test_compile" not in calls[-1]
    (tmp_path / "failing").unlink()
    assert run_script(tmp_path, RECIPES="float32/null") == 0
    repeated = (tmp_path / "calls").read_text().splitlines()[len(calls) :]
    assert ["test_compile" in call for call in repeated] == [True, False]


def test_losses_are_compared_with_those_of_the_first_result() -> None:
    assert compare([2.0, 1.0, 4.0], [2.0, 2.0, 5.0]) == (1, 0.5)
    results = [
        (EAGER, Measurement(100, 1, [2.0, 1.0])),
        ("bfloat16/null", Measurement(250, 2, [2.0, 1.1])),
    ]
    assert format_results(results).splitlines()[2:] == [
        "| float32/null | 100 | 1.00 | 1.0 | 2 of 2 | 0 |",
        "| bfloat16/null | 250 | 2.50 | 2.0 | 1 of 2 | 0.1 |",
    ]


@pytest.mark.slow
def test_a_finished_run_of_a_combination_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["experiment=quickstart", "data.limit_train=128", "data.limit_test=20"]
    overrides += ["trainer.epochs=2", "trainer.threads=1", "trainer.device=cpu"]
    measured = measure(tmp_path, EAGER, overrides)
    assert len(measured.losses) == 4 and measured.speed > 0
    monkeypatch.setattr(compile_modes, "run_python", None)
    assert measure(tmp_path, EAGER, overrides) == measured
    losses = json.loads((tmp_path / "run" / compile_modes.FILE).read_text())
    assert losses == measured.losses


@pytest.mark.slow
def test_one_process_of_torchrun_trains_the_same_losses(cifar100_root: Path) -> None:
    module = one_process_ddp.__name__
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "-m", module]
    result = subprocess.run(
        [*command, "--model", "resnet8v2", "--steps", "2"],
        cwd=ROOT,
        env=os.environ | {"RESNET_SWEEP_DATA": str(cifar100_root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    rows = [line.split("|")[3].strip() for line in result.stdout.splitlines() if "|" in line][2:]
    assert rows == ["2 of 2"] * 3
