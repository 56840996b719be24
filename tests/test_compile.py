"""Compiled runs, compared with eager runs."""

import shutil
from pathlib import Path

import pytest
import torch
from small_run import StopAt, assert_same_bits, config, open_run, train

from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import sign
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.trainer import Trainer

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch compiles for a CPU with a C++ compiler; install g++"
)


def small(mode: str | None = "default", **changes: object) -> PlannedRun:
    # Each test compiles the model, so it has one block. The learning rate is small, because with a
    # large one rounding errors grow.
    settings = {
        "model__widths": [4],
        "model__blocks": [1],
        "model__strides": [2],
        "optim__lr": 0.02,
    }
    return plan_run(config(**settings | changes, trainer__epochs=2, trainer__compile=mode))


def train_until(planned: PlannedRun, directory: Path, step: int) -> Trainer:
    """Train a run until a stop at `step`."""
    run, stop = open_run(planned, directory), StopSignal()
    trainer = planned.build_trainer()
    with pytest.raises(Interrupted):
        trainer.fit(run, [StopAt(stop, step)], stop)
    run.close("interrupted")
    return trainer


def assert_near(first: Trainer, second: Trainer) -> None:
    """Assert that two runs have the same losses, except for rounding errors."""
    for name in ("train_loss", "val_loss"):
        losses = [[row[name] for row in trainer.rows] for trainer in (first, second)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture(autouse=True)
def report_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "changes", [{"trainer__ema_decay": 0.9}, {"trainer__progressive_resizing": [16, 32]}]
)
def test_a_compiled_run_equals_the_eager_run_within_rounding_and_its_resumed_run_exactly(
    changes: dict, tmp_path: Path
) -> None:
    """The runs have dropout, a short last batch in each epoch, and images of two sizes."""
    compiled = train(small(**changes), tmp_path / "compiled")
    assert_near(compiled, train(small(None, **changes), tmp_path / "eager"))
    train_until(small(**changes), tmp_path / "resumed", 9)
    assert_same_bits(train(small(**changes), tmp_path / "resumed"), compiled)


def test_checkpoints_of_a_compiled_run_have_the_keys_of_the_eager_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch captures the model, but doesn't compile it, which would take a minute."""
    compile_model = torch.compile

    def capture(model: torch.nn.Module, dynamic: bool, options: dict) -> torch.nn.Module:
        return compile_model(model, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", capture)
    eager = train(small(None), tmp_path / "eager")
    trainer = train_until(small(), tmp_path / "resumed", 8)
    assert trainer.wrapped_model is not trainer.model
    for name in (BEST, LAST):
        names = read_checkpoint(tmp_path / "resumed" / "checkpoints" / name)["model"].keys()
        assert names == eager.model.state_dict().keys()
    assert_near(train(small(None), tmp_path / "resumed"), eager)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_the_mode_is_torchs_and_does_not_change_the_signature(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: calls.append(settings) or model)
    small(mode).build_trainer()
    (settings,) = calls
    assert not settings["dynamic"]
    assert settings["options"].items() >= torch._inductor.list_mode_options(mode).items()
    compiled, eager = config(trainer__compile=mode), config()
    assert sign(compiled, "float32", {"data": "data"}) == sign(eager, "float32", {"data": "data"})


@pytest.mark.parametrize("mode", ["none", "graph", "max", "reduce_overhead"])
def test_an_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        small(mode)
    for fact in ("trainer.compile", mode, "default", "reduce-overhead", "max-autotune"):
        assert fact in str(refusal.value)


def test_a_cpu_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError) as refusal:
        small()
    for fact in ("trainer.compile=default", "no-such-compiler", "trainer.compile=null"):
        assert fact in str(refusal.value)
