"""Norms of gradients, weights and updates, and the warnings about them."""

import csv
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import Recorder, config, open_run, train
from torch import nn

from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.metrics import LayerNorms
from resnet_sweep.training.callbacks.progress import EXPLODING, GradientWarnings
from resnet_sweep.training.signals import StopSignal
from resnet_sweep.training.step_metrics import StepMetrics
from resnet_sweep.training.trainer import Diverged


def read_layers(directory: Path) -> list[dict[str, str]]:
    with (directory / "layer_norms.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_layer_norms_csv_has_the_norms_of_each_layer(tmp_path: Path) -> None:
    """The expected norms are computed at each step of the last epoch."""
    prepared = plan_run(config(trainer__epochs=2))
    training = prepared.build_trainer()
    gradients: list[dict[str, float]] = []
    weights: list[dict[str, torch.Tensor]] = []
    named = {
        name.removesuffix(".weight"): weight
        for name, weight in training.model.named_parameters()
        if weight.ndim > 1
    }
    update = training.optimizer.step

    def step() -> None:
        gradients.append({name: w.grad.double().norm().item() for name, w in named.items()})
        weights.append({name: w.detach().clone() for name, w in named.items()})
        update()

    training.optimizer.step = step
    run = open_run(prepared, tmp_path)
    training.fit(run, [], StopSignal())
    run.close("finished")
    rows = read_layers(tmp_path)
    assert [row["layer"] for row in rows] == 2 * list(named)
    for row in rows[len(named) :]:
        name = row["layer"]
        assert row["epoch"] == "2"
        mean = sum(norms[name] for norms in gradients[7:]) / 7
        assert float(row["grad_norm"]) == pytest.approx(mean, rel=1e-4)
        now = named[name].detach()
        assert float(row["weight_norm"]) == pytest.approx(now.norm().item(), rel=1e-4)
        change = (now - weights[-1][name]).norm().item()
        assert float(row["update_norm"]) == pytest.approx(change, rel=1e-4)


def test_grad_norm_is_the_norm_over_all_weights(tmp_path: Path) -> None:
    recorder = Recorder()
    training = train(plan_run(config()), tmp_path, recorder)
    flat = torch.cat([weight.grad.flatten() for weight in training.model.parameters()])
    assert recorder.steps[-1].grad_norm == pytest.approx(flat.norm().item(), rel=1e-5)
    last = {
        name.removesuffix(".weight"): weight.grad.norm().item()
        for name, weight in training.model.named_parameters()
        if weight.ndim > 1
    }
    steepest = max(last, key=last.get)
    assert recorder.steps[-1].largest_grad_layer == steepest
    assert recorder.steps[-1].largest_grad_norm == pytest.approx(last[steepest], rel=1e-5)


def test_a_mixed_label_counts_as_correct_by_the_share_of_the_predicted_class() -> None:
    model = nn.Linear(2, 3)
    metrics = StepMetrics(model, 2, torch.device("cpu"))
    logits = model(torch.randn(4, 2))
    logits.sum().backward()
    predicted = logits.argmax(1)
    labels = torch.rand(4, 3)
    labels /= labels.sum(1, keepdim=True)
    metrics.update(0, logits.sum(), logits, labels)
    expected = sum(labels[image, predicted[image]].item() for image in range(4))
    assert metrics.correct[0].item() == pytest.approx(expected)
    hard = torch.tensor([predicted[0], predicted[1], (predicted[2] + 1) % 3, predicted[3]])
    metrics.update(1, logits.sum(), logits, hard)
    one_hot = nn.functional.one_hot(hard, 3).float()
    assert metrics.correct[1].item() == 3
    metrics.update(1, logits.sum(), logits, one_hot)
    assert metrics.correct[1].item() == 3


def test_a_layer_that_the_output_does_not_depend_on_has_gradient_norm_zero() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 3), "unused": nn.Linear(2, 3)})
    metrics = StepMetrics(model, 1, torch.device("cpu"))
    logits = model["used"](torch.randn(4, 2))
    logits.sum().backward()
    metrics.update(0, logits.sum(), logits, torch.zeros(4, dtype=torch.int64))
    used, unused = metrics.layer_norms(1)
    assert used.grad_norm == pytest.approx(model["used"].weight.grad.norm().item())
    assert unused.grad_norm == 0


def test_an_exploding_gradient_is_reported_once_with_its_layer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepared = plan_run(config(optim__lr=1e6, schedule__warmup_epochs=0))
    training = prepared.build_trainer()
    layers = {name.removesuffix(".weight") for name, _ in training.model.named_parameters()}
    run = open_run(prepared, tmp_path)
    with caplog.at_level(logging.WARNING), pytest.raises(Diverged) as diverged:
        training.fit(run, [GradientWarnings()], StopSignal())
    run.close("diverged")
    # The arguments of a warning are the layer, its norm, the epoch and the step.
    warnings = [record.args for record in caplog.records]
    assert warnings
    for record in caplog.records:
        layer, norm, epoch, step = record.args
        assert layer in layers
        assert norm > EXPLODING
        message = record.getMessage()
        assert message.startswith("warning: ")
        for fact in (
            layer,
            f"{norm:.3g}",
            str(epoch),
            str(step),
            "optim.lr",
            "schedule.warmup_epochs",
            "trainer.clip_grad_norm",
        ):
            assert fact in message
    assert len(warnings) == len({layer for layer, *_ in warnings})
    assert any(layer in str(diverged.value) for layer in layers)


def test_a_vanishing_gradient_is_reported_once_with_its_layer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Gradients vanish in the first layers of a deep sigmoid network without normalization."""
    torch.manual_seed(0)
    deep = [module for _ in range(20) for module in (nn.Linear(8, 8), nn.Sigmoid())]
    model = nn.Sequential(*deep, nn.Linear(8, 3))
    metrics = StepMetrics(model, 1, torch.device("cpu"))
    loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.arange(16) % 3)
    loss.backward()
    metrics.update(0, loss, torch.randn(16, 3), torch.arange(16) % 3)
    callback = GradientWarnings()
    layers = metrics.layer_norms(1)
    with caplog.at_level(logging.WARNING):
        callback.on_epoch_end({"epoch": 1}, layers, 1)
        assert not caplog.records
        callback.on_epoch_end({"epoch": 2}, layers, 2)
        callback.on_epoch_end({"epoch": 3}, layers, 3)
    norms = {layer.name: layer.grad_norm for layer in layers}
    reported = [record.args[0] for record in caplog.records]
    assert "0" in reported
    # The gradient of the last layer doesn't vanish.
    assert "40" not in reported
    assert len(reported) == len({*reported}) < 20
    for name, record in zip(reported, caplog.records, strict=True):
        message = record.getMessage()
        assert message.startswith("warning: ")
        for fact in (f"layer {name}", f"{norms[name]:.3g}", "epoch 2", "layer 40"):
            assert fact in message


@pytest.mark.parametrize("attention", [None, "se", "eca", "cbam"])
def test_a_training_with_normal_gradients_logs_no_warning(
    attention: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(plan_run(config(model__attention=attention)), tmp_path, GradientWarnings())
    assert not caplog.records


def test_tensorboard_has_the_norms_of_each_layer(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from resnet_sweep.training.callbacks.tensorboard import TensorBoard

    train(plan_run(config(trainer__epochs=2)), tmp_path, TensorBoard())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    rows = [row for row in read_layers(tmp_path) if row["layer"] == "stem"]
    for kind in LayerNorms._fields[1:]:
        values = [event.value for event in events.Scalars(f"layer_{kind}/stem")]
        assert values == pytest.approx([float(row[kind]) for row in rows], rel=1e-4)


def test_the_first_plots_on_a_machine_log_nothing_about_fonts(tmp_path: Path) -> None:
    """Matplotlib builds its font list with the first plot, and logs that by default."""
    program = """
import logging, pathlib
logging.basicConfig(level=logging.INFO)
from resnet_sweep.runs.metrics import COLUMNS, write_metrics
from resnet_sweep.training.callbacks.plots import Plots
folder, plots = pathlib.Path.cwd(), Plots()
write_metrics(folder, [dict.fromkeys(COLUMNS, 0.5) | {"epoch": 1}])
plots.on_train_start(folder, 0)
plots.on_train_end(None)
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path / "new")},
        check=True,
    )
    assert len(list((tmp_path / "plots").glob("*.png"))) == 3
    assert list((tmp_path / "new").glob("fontlist*"))
    assert "font_manager" not in process.stderr and "fontManager" not in process.stderr
