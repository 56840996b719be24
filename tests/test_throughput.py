"""The loops that are compared do the same work, and the comparison says what was measured."""

import json
from pathlib import Path

import pytest
import torch
from small_run import composed

from benchmarks import plain_loop, throughput
from benchmarks.processes import carry_out
from benchmarks.stopwatch import WORD, read_moments
from benchmarks.throughput import Measured, fallen, ratios, speed_of, table
from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.record import Record
from resnet_sweep.training.evaluation import predict

CPU = torch.device("cpu")
WORDS = [
    "model=resnet8v2", "model.widths=[16,32]", "model.blocks=[1,1]", "model.strides=[2,2]",
    "data=digits", "data.limit_train=40", "data.limit_test=20", "trainer.batch_size=16",
    "trainer.epochs=2", "trainer.device=cpu", "trainer.precision=float32", "trainer.threads=1",
]  # fmt: skip
STEPS = 6


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> plain_loop.Recipe:
    """Without worker processes, which take longer to start than this trains."""
    monkeypatch.setattr(plain_loop, "WORKERS", 0)
    return plain_loop.read_recipe(WORDS)


def test_the_plain_loop_sees_the_same_images_through_the_same_network(
    recipe: plain_loop.Recipe,
) -> None:
    training = plan_run(composed(*WORDS)).build_trainer()
    ours, truth = predict(
        training.model, training.validation_batches, training.normalize, training.precision
    )
    _, validation = plain_loop.loaders(recipe, pinned=False)
    with torch.no_grad():
        batches = [(recipe.model.eval()(images), labels) for images, labels in validation]
    logits, labels = (torch.cat(each) for each in zip(*batches, strict=True))
    assert torch.equal(labels, truth)
    torch.testing.assert_close(logits, ours)
    settings = training.optimizer.param_groups[0]
    for name, value in recipe.optimizer.param_groups[0].items():
        assert name == "params" or settings[name] == value
    assert training.total_steps == STEPS


@pytest.mark.slow
def test_the_plain_loop_trains_and_is_timed(recipe: plain_loop.Recipe, tmp_path: Path) -> None:
    assert plain_loop.train(recipe, CPU, tmp_path) == STEPS
    moments = read_moments(tmp_path)
    assert moments["started"] < moments["epoch_ended"]
    assert (tmp_path / "last_model.pth").exists()


@pytest.mark.slow
def test_lightning_makes_as_many_steps(recipe: plain_loop.Recipe, tmp_path: Path) -> None:
    pytest.importorskip(
        "lightning", reason="pip install 'resnet-sweep[benchmarks]' to compare with Lightning"
    )
    from benchmarks import lightning_loop

    assert lightning_loop.train(recipe, CPU, tmp_path) == STEPS
    moments = read_moments(tmp_path)
    assert moments["started"] < moments["epoch_ended"]


@pytest.mark.slow
def test_ours_is_the_real_command_timed_by_a_monitor(tmp_path: Path) -> None:
    memory = carry_out(["-m", "resnet_sweep", *WORDS, WORD, "hydra.run.dir=run"], tmp_path)
    assert Record.read(tmp_path / "run").state == "finished"
    moments = read_moments(tmp_path / "run")
    assert list(moments) == ["started", "stepped", "epoch_ended", "ended"]
    assert [*moments.values()] == sorted(moments.values())
    # The libraries alone take that much.
    assert 100 < memory < 4000


def test_runs_side_by_side_count_from_the_first_start_to_the_last_end() -> None:
    moments = [{"started": 10, "epoch_ended": 20}, {"started": 12, "epoch_ended": 25}]
    assert speed_of(moments[:1], 300) == 30
    assert speed_of(moments, 300) == 40


def test_a_ratio_is_of_one_round_and_the_table_has_their_median() -> None:
    rounds = {
        "plain": [Measured(10, 500), Measured(20, 501), Measured(40, 499)],
        "ours": [Measured(15, 300), Measured(40, 300), Measured(48, 310)],
    }
    assert ratios(rounds) == {"ours": [1.5, 2, 1.2]}
    lines = table({"resnet8v2": rounds}).splitlines()
    assert lines[2:] == [
        "| `resnet8v2` | plain | 20 | 1 |  |  | 501 |",
        "| `resnet8v2` | ours | 40 | 1.50 | 1.20 | 2.00 | 310 |",
    ]


def test_only_a_ratio_of_ours_that_fell_beyond_the_tolerance_is_named() -> None:
    kept = {"resnet8v2": {"ours": 2.0, "lightning": 1.0}, "resnet20v2": {"ours": 1.6}}
    assert fallen({"resnet8v2": {"ours": 1.81, "lightning": 0.5}}, kept, 0.1) == []
    (sentence,) = fallen({"resnet8v2": {"ours": 1.79}}, kept, 0.1)
    for fact in ("resnet8v2", "ours", "2.00", "1.79", "10%"):
        assert fact in sentence


def test_check_exits_with_1_when_a_ratio_fell(
    call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"plain": 10.0, "lightning": 10.0, "ours": 20.0}
    monkeypatch.setattr(throughput, "measure", lambda loop, *_: Measured(speeds[loop.name], 500.0))
    monkeypatch.setattr(throughput, "RATIOS", tmp_path / "throughput_ratios.json")
    words = ["--models", "resnet8v2", "--rounds", "3"]
    assert call(throughput.main, *words, "--check").returncode == 2
    assert call(throughput.main, *words, "--keep").returncode == 0
    assert json.loads(throughput.RATIOS.read_text())["cpu"]["resnet8v2"]["ours"] == 2
    assert call(throughput.main, *words, "--check").returncode == 0
    speeds["ours"] = 17.0
    # Python prints an exit status that is a text, and exits with 1.
    sentence = call(throughput.main, *words, "--check").returncode
    for fact in ("resnet8v2", "ours", "2.00", "1.70"):
        assert fact in sentence
