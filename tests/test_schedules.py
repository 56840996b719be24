"""Learning-rate schedules, compared with their formulas and with torch's schedulers."""

import itertools
import math

import pytest
import torch
from torch.optim import lr_scheduler

from resnet_sweep.training.schedules import (
    Constant,
    Cosine,
    CosineWarmRestarts,
    MultiStep,
    OneCycle,
    Plateau,
    Trapezoid,
)


def torch_rates(scheduler: type, lr: float, steps: int, **settings: object) -> list[float]:
    """Return the rate of each step with a scheduler of torch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    theirs = scheduler(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            theirs.step()
    return rates


def test_cosine_follows_its_formula() -> None:
    schedule = Cosine(lr=0.1, epochs=100, steps_per_epoch=391)
    for step in (0, 1, 391, 19550, 39099):
        assert schedule(step) == pytest.approx(
            0.05 * (1 + math.cos(math.pi * step / 39100)), rel=1e-12
        )
    assert schedule(0) == 0.1
    assert schedule(19550) == pytest.approx(0.05)
    assert schedule(39099) < 1e-9


def test_cosine_equals_torchs() -> None:
    ours = Cosine(lr=0.3, epochs=6, steps_per_epoch=10, min_lr=0.01)
    theirs = torch_rates(lr_scheduler.CosineAnnealingLR, 0.3, 60, T_max=60, eta_min=0.01)
    assert [ours(step) for step in range(60)] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("T_0", "T_mult"), [(0.25, 1), (0.1, 2), (1.0, 1), (0.05, 3)])
def test_warm_restarts_equal_torchs(T_0: float, T_mult: int) -> None:
    ours = CosineWarmRestarts(0.3, 6, 10, min_lr=0.01, T_0=T_0, T_mult=T_mult)
    theirs = torch_rates(
        lr_scheduler.CosineAnnealingWarmRestarts,
        0.3,
        60,
        T_0=round(60 * T_0),
        T_mult=T_mult,
        eta_min=0.01,
    )
    assert [ours(step) for step in range(60)] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("epochs", [1, 2, 3, 10, 99, 100, 101])
def test_by_default_warm_restarts_divide_a_run_of_any_length_into_three_cycles(epochs: int) -> None:
    schedule = CosineWarmRestarts(0.1, epochs, 391)
    rates = [schedule(step) for step in range(epochs * 391)]
    restarts = sum(after > before for before, after in itertools.pairwise(rates))
    assert restarts == 2
    assert rates[-1] < 0.001


def test_multi_step_equals_torchs() -> None:
    ours = MultiStep(0.3, epochs=6, steps_per_epoch=10, milestones=[0.5, 0.75], gamma=0.2)
    theirs = torch_rates(lr_scheduler.MultiStepLR, 0.3, 60, milestones=[30, 45], gamma=0.2)
    assert [ours(step) for step in range(60)] == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("pct_start", [0.1, 0.3, 0.5])
def test_one_cycle_equals_torchs(pct_start: float) -> None:
    ours = OneCycle(0.3, epochs=6, steps_per_epoch=10, pct_start=pct_start)
    theirs = torch_rates(
        lr_scheduler.OneCycleLR,
        0.3,
        60,
        max_lr=0.3,
        total_steps=60,
        pct_start=pct_start,
        cycle_momentum=False,
    )
    assert [ours(step) for step in range(60)] == pytest.approx(theirs, rel=1e-9)


def test_trapezoid_follows_the_formulas_of_its_paper() -> None:
    """Hägele et al., 2024, with the number of steps before a step as n."""
    steps, decay = 60, 12
    for shape, fall in (("linear", lambda x: 1 - x), ("1-sqrt", lambda x: 1 - math.sqrt(x))):
        ours = Trapezoid(0.3, epochs=6, steps_per_epoch=10, shape=shape)
        for n in range(steps):
            factor = fall((n - (steps - decay)) / decay) if n > steps - decay else 1
            assert ours(n) == pytest.approx(0.3 * factor, rel=1e-12)


def test_a_linear_trapezoid_equals_torchs_schedulers_in_sequence() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    parts = [
        lr_scheduler.LinearLR(optimizer, start_factor=1 / 15, total_iters=14),
        lr_scheduler.ConstantLR(optimizer, factor=1),
        lr_scheduler.LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=30),
    ]
    theirs = lr_scheduler.SequentialLR(optimizer, parts, milestones=[15, 30])
    ours = Trapezoid(0.2, 6, 10, warmup_epochs=1.5, cooldown=0.5, shape="linear")
    for step in range(60):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
@pytest.mark.parametrize("warmup_epochs", [0, 0.7, 3])
def test_before_the_first_cooldown_the_rates_of_two_lengths_are_the_same(
    warmup_epochs: float, shape: str
) -> None:
    short, long = (
        Trapezoid(0.3, epochs, 13, warmup_epochs, cooldown=0.3, shape=shape) for epochs in (10, 23)
    )
    # The cooldown is 39 of the 130 steps, and its first step has the full rate.
    assert [short(step) for step in range(92)] == [long(step) for step in range(92)]
    assert short(92) < long(92) == 0.3


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("cooldown", [0.01, 0.2, 1.0])
def test_a_trapezoid_with_few_steps_stays_within_its_bounds(steps: int, cooldown: float) -> None:
    schedule = Trapezoid(0.3, epochs=1, steps_per_epoch=steps, cooldown=cooldown)
    rates = [schedule(step) for step in range(steps)]
    assert rates[0] == 0.3 and rates[-1] > 0
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_one_cycle_with_few_steps_stays_within_its_bounds(steps: int) -> None:
    schedule = OneCycle(0.3, epochs=1, steps_per_epoch=steps)
    assert all(0 < schedule(step) <= 0.3 for step in range(steps))


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("val_loss", "min"), ("val_acc", "max"), ("train_loss", "min"), ("train_acc", "max")],
)
@pytest.mark.parametrize("seed", range(5))
def test_plateau_equals_torchs(metric: str, mode: str, seed: int) -> None:
    draws = torch.rand(60, generator=torch.Generator().manual_seed(seed)).tolist()
    values = [round(value, 1) + 1 for value in draws]
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=0.5, patience=2, min_lr=0.001, threshold=0.05
    )
    ours = Plateau(0.3, 60, 1, metric=metric, factor=0.5, patience=2, min_lr=0.001, threshold=0.05)
    for epoch, value in enumerate(values):
        assert ours(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        ours.observe({"epoch": epoch + 1, metric: value})
        theirs.step(value)
    assert ours(60) < 0.3


def test_plateau_does_not_count_epochs_of_the_warmup() -> None:
    """Nothing improves in ten epochs of warmup, and after them the rate is at its peak."""
    schedule = Plateau(0.1, epochs=20, steps_per_epoch=5, warmup_epochs=10, patience=2)
    rates = []
    for epoch in range(20):
        rates.append(schedule(5 * epoch + 4))
        schedule.observe({"epoch": epoch + 1, "val_acc": 1.0})
    assert rates[:10] == pytest.approx([0.01 * (epoch + 1) for epoch in range(10)])
    # The eleventh epoch is the first that counts, and three without improvement follow.
    assert rates[10:14] == pytest.approx([0.1] * 4)
    assert rates[14:17] == pytest.approx([0.01] * 3)


def test_cosine_with_warmup_equals_torchs_sequential_scheduler() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    linear = lr_scheduler.LinearLR(optimizer, start_factor=1 / 15, total_iters=14)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=45)
    theirs = lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[15])
    ours = Cosine(lr=0.2, epochs=6, steps_per_epoch=10, warmup_epochs=1.5)
    for step in range(60):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    "schedule", [Constant, Cosine, CosineWarmRestarts, MultiStep, OneCycle, Plateau]
)
def test_a_schedule_has_a_linear_warmup_and_continues_like_a_shorter_schedule(
    schedule: type,
) -> None:
    warmed, plain = schedule(0.2, 6, 10, warmup_epochs=2), schedule(0.2, 4, 10)
    line = [0.2 * (step + 1) / 20 for step in range(20)]
    assert [warmed(step) for step in range(20)] == pytest.approx(line)
    assert [warmed(step) for step in range(20, 60)] == [plain(step) for step in range(40)]


def test_constant_keeps_its_rate_after_the_warmup() -> None:
    schedule = Constant(lr=0.1, epochs=3, steps_per_epoch=4, warmup_epochs=1)
    assert [schedule(step) for step in range(12)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1] + 8 * [0.1]
    )


def test_the_warmup_may_take_the_whole_run() -> None:
    assert Cosine(lr=1.0, epochs=2, steps_per_epoch=5, warmup_epochs=2)(9) == 1.0


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        Constant(lr=0.1, epochs=3, steps_per_epoch=4, warmup_epochs=3.5)
    assert "warmup_epochs=3.5" in str(error.value)
    assert "trainer.epochs=3" in str(error.value)


def test_a_warmup_and_a_cooldown_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError) as error:
        Trapezoid(0.1, epochs=4, steps_per_epoch=5, warmup_epochs=3, cooldown=0.3)
    for fact in ("warmup_epochs=3", "cooldown=0.3", "trainer.epochs=4"):
        assert fact in str(error.value)
    whole = Trapezoid(0.1, epochs=4, steps_per_epoch=5, warmup_epochs=3, cooldown=0.25)
    assert whole(14) == whole(15) == 0.1


def test_a_min_lr_above_lr_is_refused() -> None:
    with pytest.raises(ValueError) as error:
        Cosine(lr=0.1, epochs=3, steps_per_epoch=4, min_lr=0.2)
    assert "min_lr=0.2" in str(error.value)
    assert "optim.lr=0.1" in str(error.value)


def test_by_default_multi_step_reduces_the_rate_at_a_half_and_three_quarters_of_the_run() -> None:
    schedule = MultiStep(1.0, epochs=8, steps_per_epoch=10)
    assert [schedule(step) for step in (39, 40, 59, 60, 79)] == pytest.approx(
        [1, 0.1, 0.1, 0.01, 0.01]
    )
