"""A compiled run trains what the run without compilation does."""

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
    shutil.which("g++") is None, reason="torch compiles for a CPU with a C++ compiler: install g++"
)


def small(mode: str | None = "default", **changes: object) -> PlannedRun:
    # One block, since it is compiled anew in each test; a small rate, so that rounding isn't
    # amplified into another run.
    settings = {
        "model__widths": [4],
        "model__blocks": [1],
        "model__strides": [2],
        "optim__lr": 0.02,
    }
    return plan_run(config(**settings | changes, trainer__epochs=2, trainer__compile=mode))


def stopped_and_resumed(first: PlannedRun, then: PlannedRun, directory: Path, step: int) -> Trainer:
    """Train until a stop at `step`, and from there to the end."""
    run, stop = open_run(first, directory), StopSignal()
    with pytest.raises(Interrupted):
        first.build_trainer().fit(run, [StopAt(stop, step)], stop)
    run.close("interrupted")
    return train(then, directory)


def assert_near(one: Trainer, other: Trainer) -> None:
    """Assert that two runs have the same losses but for rounding."""
    for name in ("train_loss", "val_loss"):
        losses = [[row[name] for row in training.rows] for training in (one, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.fixture(autouse=True)
def report_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    "changes", [{"trainer__ema_decay": 0.9}, {"trainer__progressive_resizing": [16, 32]}]
)
def test_compiled_run_equals_eager_run_within_rounding_and_resumes_to_the_same_bits(
    changes: dict, tmp_path: Path
) -> None:
    """With dropout, a short last batch of each epoch, and images of two sizes."""
    compiled = train(small(**changes), tmp_path / "compiled")
    assert_near(compiled, train(small(None, **changes), tmp_path / "eager"))
    resumed = stopped_and_resumed(small(**changes), small(**changes), tmp_path / "resumed", 9)
    assert_same_bits(resumed, compiled)


def test_checkpoints_of_a_compiled_run_are_those_of_the_plain_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch's capture of the model, but without its compiler, which takes a minute."""
    compile_model = torch.compile

    def capture(model: torch.nn.Module, dynamic: bool, options: dict) -> torch.nn.Module:
        return compile_model(model, dynamic=dynamic, backend="eager")

    monkeypatch.setattr(torch, "compile", capture)
    eager = train(small(None), tmp_path / "eager")
    run, stop = open_run(small(), tmp_path / "resumed"), StopSignal()
    training = small().build_trainer()
    assert training.wrapped_model is not training.model
    with pytest.raises(Interrupted):
        training.fit(run, [StopAt(stop, 8)], stop)
    run.close("interrupted")
    for name in (BEST, LAST):
        names = read_checkpoint(tmp_path / "resumed" / "checkpoints" / name)["model"].keys()
        assert names == eager.model.state_dict().keys()
    assert_near(train(small(None), tmp_path / "resumed"), eager)


@pytest.mark.parametrize("mode", ["default", "reduce-overhead", "max-autotune"])
def test_the_mode_is_torchs_own_and_leaves_the_signature(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    monkeypatch.setattr(torch, "compile", lambda model, **settings: found.append(settings) or model)
    small(mode).build_trainer()
    (settings,) = found
    assert not settings["dynamic"]
    assert settings["options"].items() >= torch._inductor.list_mode_options(mode).items()
    with_it, without = config(trainer__compile=mode), config()
    assert sign(with_it, "float32", "data") == sign(without, "float32", "data")


@pytest.mark.parametrize("mode", ["none", "graph", "max", "reduce_overhead"])
def test_another_mode_is_refused(mode: str) -> None:
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
