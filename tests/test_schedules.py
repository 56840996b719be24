"""Learning rates follow their formulas."""

import math

import pytest
import torch

from resnet_sweep.training.schedules import Constant, Cosine


def test_cosine_is_its_closed_formula() -> None:
    schedule = Cosine(lr=0.1, epochs=100, steps_per_epoch=391)
    for step in (0, 1, 391, 19550, 39099):
        assert schedule(step) == pytest.approx(
            0.05 * (1 + math.cos(math.pi * step / 39100)), rel=1e-12
        )
    assert schedule(0) == 0.1
    assert schedule(19550) == pytest.approx(0.05)
    assert schedule(39099) < 1e-9


def test_cosine_is_torchs_own() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60, eta_min=0.01)
    ours = Cosine(lr=0.3, epochs=6, steps_per_epoch=10, min_lr=0.01)
    for step in range(60):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_at_the_start_of_an_epoch_the_rate_is_that_of_a_schedule_stepped_by_epochs() -> None:
    ours = Cosine(lr=0.1, epochs=100, steps_per_epoch=391)
    for epoch in range(100):
        assert ours(epoch * 391) == pytest.approx(0.05 * (1 + math.cos(math.pi * epoch / 100)))


def test_warmup_is_torchs_linear_warmup_followed_by_its_cosine() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    linear = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 15, total_iters=14)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=45)
    theirs = torch.optim.lr_scheduler.SequentialLR(optimizer, [linear, cosine], milestones=[15])
    ours = Cosine(lr=0.2, epochs=6, steps_per_epoch=10, warmup_epochs=1.5)
    for step in range(60):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        theirs.step()


def test_constant_stays() -> None:
    schedule = Constant(lr=0.1, epochs=3, steps_per_epoch=4, warmup_epochs=1)
    assert [schedule(step) for step in range(12)] == pytest.approx(
        [0.025, 0.05, 0.075, 0.1] + 8 * [0.1]
    )


def test_a_run_may_be_all_warmup() -> None:
    assert Cosine(lr=1.0, epochs=2, steps_per_epoch=5, warmup_epochs=2)(9) == 1.0


def test_warmup_longer_than_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the run"):
        Constant(lr=0.1, epochs=3, steps_per_epoch=4, warmup_epochs=3.5)


def test_lowest_rate_above_the_highest_is_refused() -> None:
    with pytest.raises(ValueError, match="min_lr"):
        Cosine(lr=0.1, epochs=3, steps_per_epoch=4, min_lr=0.2)
