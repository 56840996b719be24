"""The benchmark of throughput: its training loops do the same work, and its table is correct."""

import json
from pathlib import Path

import pytest
import torch
from small_run import composed

from benchmarks import plain_loop, throughput
from benchmarks.processes import run_python
from benchmarks.throughput import (
    Measurement,
    find_regressions,
    format_results,
    speed_ratios,
    total_speed,
)
from benchmarks.timestamps import TIMESTAMPS_OVERRIDE, read_timestamps
from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.record import Record
from resnet_sweep.training.evaluation import predict

CPU = torch.device("cpu")
OVERRIDES = [
    "model=resnet8v2",
    "model.widths=[16,32]",
    "model.blocks=[1,1]",
    "model.strides=[2,2]",
    "data=digits",
    "data.limit_train=40",
    "data.limit_test=20",
    "trainer.batch_size=16",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.precision=float32",
    "trainer.threads=1",
]
STEPS = 6


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> plain_loop.Recipe:
    """Return the recipe of a plain loop without worker processes, which take long to start."""
    monkeypatch.setattr(plain_loop, "WORKERS", 0)
    return plain_loop.compose_recipe(OVERRIDES)


def test_the_plain_loop_computes_the_same_outputs_for_the_same_images(
    recipe: plain_loop.Recipe,
) -> None:
    training = plan_run(composed(*OVERRIDES)).build_trainer()
    expected, expected_labels = predict(
        training.model, training.validation_batches, training.normalize, training.precision
    )
    _, validation = plain_loop.make_loaders(recipe, pinned=False)
    with torch.no_grad():
        batches = [(recipe.model.eval()(images), labels) for images, labels in validation]
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(labels, expected_labels)
    torch.testing.assert_close(logits, expected)
    settings = training.optimizer.param_groups[0]
    for name, value in recipe.optimizer.param_groups[0].items():
        assert name == "params" or settings[name] == value
    assert training.total_steps == STEPS


@pytest.mark.slow
def test_the_plain_loop_trains_and_is_timed(recipe: plain_loop.Recipe, tmp_path: Path) -> None:
    assert plain_loop.train(recipe, CPU, tmp_path) == STEPS
    timestamps = read_timestamps(tmp_path)
    assert timestamps["started"] < timestamps["epoch_ended"]
    assert (tmp_path / "last_model.pth").exists()


@pytest.mark.slow
def test_the_lightning_loop_makes_as_many_steps(recipe: plain_loop.Recipe, tmp_path: Path) -> None:
    pytest.importorskip(
        "lightning", reason="pip install 'resnet-sweep[benchmarks]' to compare with Lightning"
    )
    from benchmarks import lightning_loop

    assert lightning_loop.train(recipe, CPU, tmp_path) == STEPS
    timestamps = read_timestamps(tmp_path)
    assert timestamps["started"] < timestamps["epoch_ended"]


@pytest.mark.slow
def test_a_callback_times_the_command_of_this_package(tmp_path: Path) -> None:
    memory = run_python(
        ["-m", "resnet_sweep", *OVERRIDES, TIMESTAMPS_OVERRIDE, "hydra.run.dir=run"], tmp_path
    )
    assert Record.read(tmp_path / "run").state == "finished"
    timestamps = read_timestamps(tmp_path / "run")
    assert list(timestamps) == ["started", "first_step", "epoch_ended", "ended"]
    assert [*timestamps.values()] == sorted(timestamps.values())
    # The memory in MB is at least that of the libraries.
    assert 100 < memory < 4000


def test_the_speed_of_parallel_runs_is_measured_from_the_first_start_to_the_last_end() -> None:
    timestamps = [{"started": 10, "epoch_ended": 20}, {"started": 12, "epoch_ended": 25}]
    assert total_speed(timestamps[:1], 300) == 30
    assert total_speed(timestamps, 300) == 40


def test_ratios_are_computed_for_each_round_and_the_table_has_their_median() -> None:
    rounds = {
        "plain": [Measurement(10, 500), Measurement(20, 501), Measurement(40, 499)],
        "resnet_sweep": [Measurement(15, 300), Measurement(40, 300), Measurement(48, 310)],
    }
    assert speed_ratios(rounds) == {"resnet_sweep": [1.5, 2, 1.2]}
    lines = format_results({"resnet8v2": rounds}).splitlines()
    assert lines[2:] == [
        "| `resnet8v2` | plain | 20 | 1 |  |  | 501 |",
        "| `resnet8v2` | resnet_sweep | 40 | 1.50 | 1.20 | 2.00 | 310 |",
    ]


def test_only_a_ratio_of_this_package_that_fell_beyond_the_tolerance_is_reported() -> None:
    saved = {
        "resnet8v2": {"resnet_sweep": 2.0, "lightning": 1.0},
        "resnet20v2": {"resnet_sweep": 1.6},
    }
    assert (
        find_regressions({"resnet8v2": {"resnet_sweep": 1.81, "lightning": 0.5}}, saved, 0.1) == []
    )
    (message,) = find_regressions({"resnet8v2": {"resnet_sweep": 1.79}}, saved, 0.1)
    for fact in ("resnet8v2", "resnet_sweep", "2.00", "1.79", "10%"):
        assert fact in message


def test_check_exits_with_1_when_a_ratio_fell(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"plain": 10.0, "lightning": 10.0, "resnet_sweep": 20.0}
    monkeypatch.setattr(
        throughput, "measure", lambda loop, *_: Measurement(speeds[loop.name], 500.0)
    )
    monkeypatch.setattr(throughput, "RATIOS", tmp_path / "throughput_ratios.json")
    arguments = ["--models", "resnet8v2", "--rounds", "3"]
    assert call(throughput.main, *arguments, "--check").returncode == 2
    assert call(throughput.main, *arguments, "--keep").returncode == 0
    assert json.loads(throughput.RATIOS.read_text())["cpu"]["resnet8v2"]["resnet_sweep"] == 2
    assert call(throughput.main, *arguments, "--check").returncode == 0
    speeds["resnet_sweep"] = 17.0
    # SystemExit has a message, which Python prints before it exits with status 1.
    message = call(throughput.main, *arguments, "--check").returncode
    for fact in ("resnet8v2", "resnet_sweep", "2.00", "1.70"):
        assert fact in message
