"""Optimizers, gradient clipping and weight averaging, compared with torch and the papers."""

from pathlib import Path

import pytest
import torch
from small_run import RESNET, Recorder, StopAt, assert_same_bits, config, open_run, train, weights

from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.plan import plan_run
from resnet_sweep.errors import ConfigError
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.optimizers import ExponentialMovingAverage, Muon, orthogonalize
from resnet_sweep.training.signals import Interrupted, StopSignal

# LBFGS needs a closure, SparseAdam needs sparse gradients, and torch's Muon accepts only matrices.
UNSUPPORTED = {"LBFGS", "SparseAdam", "Muon"}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    if kind is not torch.optim.Optimizer and name not in UNSUPPORTED
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_of_torch_trains_and_resumes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resnet_sweep.training.trainer.REPORT_SECONDS", 0)
    prepared = plan_run(
        config(optim={"_target_": f"torch.optim.{name}", "lr": 0.01}, trainer__max_steps=9)
    )
    whole = train(prepared, tmp_path / "whole")
    initial = prepared.build_trainer().model.state_dict()["stem.weight"]
    assert not torch.equal(weights(whole)["stem.weight"], initial)
    run, stop = open_run(prepared, tmp_path / "stopped"), StopSignal()
    with pytest.raises(Interrupted):
        prepared.build_trainer().fit(run, [StopAt(stop, 4)], stop)
    run.close("interrupted")
    assert_same_bits(train(prepared, tmp_path / "stopped"), whole)


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_an_unsupported_optimizer_of_torch_is_refused(name: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan_run(config(optim={"_target_": f"torch.optim.{name}", "lr": 0.01}))
    assert "optim" in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (4, 16, 3, 3), (32, 4, 1, 1)])
def test_muon_equals_torchs_muon_on_flattened_filters(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    ours = torch.nn.Parameter(torch.randn(shape).contiguous(memory_format=torch.channels_last))
    initial = ours.detach().reshape(len(ours), -1).clone()
    theirs = torch.nn.Parameter(initial.clone())
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    one, other = Muon([ours], **settings), torch.optim.Muon([theirs], **settings)
    for _ in range(4):
        gradient = torch.randn(shape)
        # torch averages gradients, and this package adds them up as in the paper. The momentum has
        # the same direction in both, and both scale it to norm 1.
        ours.grad, theirs.grad = gradient, gradient.reshape(len(ours), -1)
        one.step()
        other.step()
    error = (ours.detach().reshape(len(ours), -1) - theirs.detach()).norm()
    # torch orthogonalizes in bfloat16.
    assert error < 0.02 * (theirs.detach() - initial).norm()


def test_orthogonalization_keeps_the_singular_vectors_and_brings_the_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 20), (20, 8), (10, 10)):
        matrix = torch.randn(shape, dtype=torch.float64)
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ orthogonalize(matrix, 5) @ v.T
        values = inner.diagonal()
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert (inner - values.diag()).abs().max() < 1e-6


def test_muon_trains_weights_that_are_not_filters_by_sgd() -> None:
    torch.manual_seed(0)
    ours = torch.nn.Linear(5, 4)
    theirs = torch.nn.Linear(5, 4)
    theirs.load_state_dict(ours.state_dict())
    one = Muon(ours.parameters(), lr=0.02, rest_lr=0.1, momentum=0.9, weight_decay=0.01)
    (group,) = one.param_groups
    group["lr"] = 0.02 * group["lr_scale"]
    other = torch.optim.SGD(
        theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True
    )
    for _ in range(5):
        images = torch.randn(3, 5)
        for model, optimizer in ((ours, one), (theirs, other)):
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_the_schedule_scales_rest_lr_like_the_rate_of_the_filters(tmp_path: Path) -> None:
    muon = {"_target_": "resnet_sweep.training.optimizers.Muon", "lr": 0.02, "rest_lr": 0.1}
    training = train(plan_run(config(optim=muon, trainer__max_steps=3)), tmp_path)
    lr = training.schedule(2)
    rates = {group["filters"]: group["lr"] for group in training.optimizer.param_groups}
    assert rates == {True: pytest.approx(lr), False: pytest.approx(5 * lr)}


def test_muon_does_not_decay_norms_and_biases_if_they_are_excluded() -> None:
    muon = {
        "_target_": "resnet_sweep.training.optimizers.Muon",
        "lr": 0.02,
        "weight_decay": 0.1,
        "decay_norm_and_bias": False,
    }
    optimizer = plan_run(config(optim=muon)).build_trainer().optimizer
    for group in optimizer.param_groups:
        decayed = all(weight.ndim > 1 for weight in group["params"])
        assert group["weight_decay"] == (0.1 if decayed else 0.0)


def test_a_step_uses_the_clipped_gradient_and_grad_norm_is_the_norm_before(tmp_path: Path) -> None:
    plain = {"model__dropout": 0.0, "augmentation": {}, "trainer__max_steps": 1}
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}
    recorder = Recorder()
    prepared = plan_run(
        config(**plain, optim=sgd, schedule__warmup_epochs=0, trainer__clip_grad_norm=0.01)
    )
    reference = prepared.build_trainer()
    before = {name: weight.clone() for name, weight in reference.model.named_parameters()}
    training = train(prepared, tmp_path, recorder)
    moved = torch.cat(
        [(weight - before[name]).flatten() for name, weight in training.model.named_parameters()]
    )
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert recorder.steps[0].grad_norm > 0.1


def test_a_gradient_below_the_limit_is_not_clipped(tmp_path: Path) -> None:
    limited = train(plan_run(config(trainer__clip_grad_norm=1e6)), tmp_path / "limited")
    free = train(plan_run(config()), tmp_path / "free")
    for name, weight in weights(free).items():
        torch.testing.assert_close(weights(limited)[name], weight)


def test_averaged_weights_equal_torchs() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ours = ExponentialMovingAverage(model, decay=0.7)
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    theirs.update_parameters(model)
    # At this step the decay no longer grows.
    for step in range(1000, 1030):
        with torch.no_grad():
            for weight in model.parameters():
                weight += torch.randn_like(weight)
        model(torch.randn(6, 3))
        ours.update(step)
        theirs.update_parameters(model)
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.model.state_dict()[name], value)


def test_decay_of_the_average_grows_from_the_first_step() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    ours = ExponentialMovingAverage(model, decay=0.3)
    expected = model.weight.item()
    for step in range(1, 20):
        with torch.no_grad():
            model.weight.fill_(step)
        ours.update(step)
        decay = min(0.3, step / (step + 9))
        expected = decay * expected + (1 - decay) * step
        assert ours.model.weight.item() == pytest.approx(expected)


def test_averaged_weights_are_evaluated_and_saved(tmp_path: Path) -> None:
    averaged = train(plan_run(config(trainer__ema_decay=0.9)), tmp_path / "averaged")
    plain = train(plan_run(config()), tmp_path / "plain")
    # Both runs train the same weights, but evaluate different ones.
    for one, other in zip(averaged.rows, plain.rows, strict=True):
        assert one["train_loss"] == other["train_loss"]
        assert one["val_loss"] != other["val_loss"]
    best = read_checkpoint(tmp_path / "averaged" / "checkpoints" / BEST)["model"]
    assert not torch.equal(best["stem.weight"], weights(averaged)["stem.weight"])
    assert best.keys() == weights(averaged).keys()
    if max(averaged.rows, key=lambda row: row["val_acc"])["epoch"] == 3:
        assert torch.equal(best["stem.weight"], averaged.emas[0].model.state_dict()["stem.weight"])


def test_several_averages_are_evaluated_as_in_runs_with_one_of_them(tmp_path: Path) -> None:
    several = train(plan_run(config(trainer__ema_decay=[0.9, 0.5, 0])), tmp_path / "several")
    single = {
        decay: train(plan_run(config(trainer__ema_decay=decay)), tmp_path / f"{decay}")
        for decay in (0.9, 0.5, None)
    }
    # An average with the decay 0 consists of the trained weights.
    for suffix, decay in (("", 0.9), ("_ema_0_5", 0.5), ("_ema_0", None)):
        for name in ("val_loss", "val_acc"):
            values = [row[f"{name}{suffix}"] for row in several.rows]
            assert values == [row[name] for row in single[decay].rows]
    saved = [read_checkpoint(tmp_path / name / "checkpoints" / BEST) for name in ("several", "0.9")]
    assert saved[0]["epoch"] == saved[1]["epoch"]
    for name, weight in saved[1]["model"].items():
        assert torch.equal(saved[0]["model"][name], weight), name
    run = load_run(tmp_path / "several", "several")
    assert isinstance(run, LoadedRun)
    assert run.best_metrics["val_acc_ema_0_5"] == max(row["val_acc"] for row in single[0.5].rows)
    lowest = Objective.from_config(run.record.config | {"objective": "val_loss_ema_0_5"}).value(run)
    assert lowest == min(row["val_loss"] for row in single[0.5].rows)


def test_muon_trains_all_convolutions_of_a_resnet_as_filters() -> None:
    muon = {"_target_": "resnet_sweep.training.optimizers.Muon", "lr": 0.02}
    training = plan_run(config(optim=muon, model=dict(RESNET))).build_trainer()
    filters = [group for group in training.optimizer.param_groups if group["filters"]]
    named = dict(training.model.named_parameters())
    convolutions = [name for name, weight in named.items() if weight.ndim == 4]
    assert sum(len(group["params"]) for group in filters) == len(convolutions) > 4
