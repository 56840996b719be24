"""Learning rate schedules, as functions of the step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from resnet_sweep.ranges import Count
from resnet_sweep.runs.metrics import Metric, Row, gain

NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Gt(0), Lt(1)]


@dataclass
class Schedule:
    """Base class of learning rate schedules: a linear warm-up, followed by `after_warmup`.

    In step s of a warm-up of w steps the learning rate is lr * (s + 1) / w (Goyal et al., 2017,
    "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour").

    Args:
        lr: highest learning rate.
        epochs: number of epochs of the run.
        steps_per_epoch: number of steps in an epoch.
        warmup_epochs: number of epochs of the warm-up; may be a fraction.

    Raises:
        ValueError: the warm-up is longer than the run, or a setting contradicts another.
    """

    lr: float
    epochs: int
    steps_per_epoch: int
    warmup_epochs: NonNegative = 0

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} is longer than the run "
                f"(trainer.epochs={self.epochs}): choose a shorter warm-up or a longer run"
            )
        self.warmup_steps = round(self.warmup_epochs * self.steps_per_epoch)
        # Number of steps after the warm-up.
        self.steps = self.epochs * self.steps_per_epoch - self.warmup_steps

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.after_warmup(step - self.warmup_steps)

    def after_warmup(self, step: int) -> float:
        """Return the learning rate of a step, counted from the end of the warm-up."""
        raise NotImplementedError

    @property
    def depends_on_metrics(self) -> bool:
        """Whether the learning rate of a step depends on the metrics of earlier epochs."""
        return type(self).observe is not Schedule.observe

    def rates(self, epoch: int) -> list[float]:
        """Return the learning rates of the steps of an epoch, counted from 0.

        They decide all that a schedule does in the epoch, unless it `depends_on_metrics`.
        """
        first = epoch * self.steps_per_epoch
        return [self(step) for step in range(first, first + self.steps_per_epoch)]

    def observe(self, row: Row) -> None:
        """Receive the metrics of an epoch; the trainer calls this once for each epoch, in order."""


@dataclass
class Constant(Schedule):
    """A constant learning rate."""

    def after_warmup(self, step: int) -> float:
        return self.lr


@dataclass
class BoundedSchedule(Schedule):
    """Base class of schedules whose learning rate doesn't fall below `min_lr`.

    Raises:
        ValueError: `min_lr` is above `lr`.
    """

    min_lr: NonNegative = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_lr > self.lr:
            raise ValueError(
                f"min_lr={self.min_lr} is above optim.lr={self.lr}: choose a smaller min_lr or a "
                "larger lr"
            )


@dataclass
class Cosine(BoundedSchedule):
    """Half a cosine from lr down to min_lr.

    The learning rate is min_lr + (lr - min_lr) * (1 + cos(pi * t)) / 2, where t rises from 0 to 1
    over the steps (Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm
    Restarts", equation 5, without restarts).
    """

    def after_warmup(self, step: int) -> float:
        return anneal(self.lr, self.min_lr, step / self.steps)


@dataclass
class CosineWarmRestarts(Cosine):
    """Several half cosines from lr down to min_lr, one after the other.

    Loshchilov and Hutter, 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".

    Args:
        T_0: length of the first cosine, as a fraction of the run after the warm-up.
        T_mult: ratio of the lengths of two consecutive cosines.
    """

    T_0: Annotated[float, Gt(0), Le(1)] = 0.1429
    T_mult: Count = 2

    def after_warmup(self, step: int) -> float:
        # The length is rounded up. Otherwise, the cosines may end a few steps before the run, and
        # another cosine would start.
        length = max(1, math.ceil(self.T_0 * self.steps - 1e-6))
        if self.T_mult == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.T_mult
        return anneal(self.lr, self.min_lr, step / length)


@dataclass
class MultiStep(Schedule):
    """A piecewise constant learning rate.

    He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2, divide the
    learning rate by 10 after one half and after three quarters of the run.

    Args:
        milestones: fractions of the run after the warm-up, in ascending order.
        gamma: factor of the learning rate at each milestone.
    """

    milestones: Sequence[Fraction] = (0.5, 0.75)
    gamma: Fraction = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if sorted({*self.milestones}) != list(self.milestones):
            raise ValueError(
                f"milestones={list(self.milestones)} must be ascending, for example [0.5, 0.75]"
            )

    def after_warmup(self, step: int) -> float:
        passed = sum(step >= round(milestone * self.steps) for milestone in self.milestones)
        return self.lr * self.gamma**passed


@dataclass
class Trapezoid(Schedule):
    """A constant learning rate, and a cooldown to zero at the end of the run.

    Hägele et al., 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations". The cooldown is the last d of the N steps of the run. In its step n, counted from 0,
    the learning rate is lr * (1 - n / d) for "linear", and lr * (1 - sqrt(n / d)) for "1-sqrt".

    The learning rates before the cooldown don't depend on the length of the run. So runs of
    different lengths have the same weights up to the first cooldown.

    Args:
        cooldown: length of the cooldown, as a fraction of the run.
        shape: how the learning rate falls in the cooldown.

    Raises:
        ValueError: the warm-up and the cooldown together are longer than the run.
    """

    cooldown: Annotated[float, Gt(0), Le(1)] = 0.2
    shape: Literal["linear", "1-sqrt"] = "1-sqrt"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cooldown_steps = round(self.cooldown * self.epochs * self.steps_per_epoch)
        if self.cooldown_steps > self.steps:
            raise ValueError(
                f"warmup_epochs={self.warmup_epochs} and cooldown={self.cooldown} together are "
                f"longer than the run (trainer.epochs={self.epochs}): choose a shorter warm-up or "
                "cooldown, or a longer run"
            )

    def after_warmup(self, step: int) -> float:
        cooled = step - (self.steps - self.cooldown_steps)
        if cooled <= 0:
            return self.lr
        progress = cooled / self.cooldown_steps
        return self.lr * (1 - (progress if self.shape == "linear" else math.sqrt(progress)))


@dataclass
class OneCycle(Schedule):
    """Half a cosine up to lr, and half a cosine down to almost zero.

    Smith and Topin, 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large
    Learning Rates"; as in torch.optim.lr_scheduler.OneCycleLR, but with a constant momentum.

    Args:
        pct_start: fraction of the run in which the learning rate rises.
        div_factor: ratio of lr to the learning rate of the first step.
        final_div_factor: ratio of the learning rates of the first and the last step.
    """

    pct_start: Fraction = 0.3
    div_factor: Annotated[float, Ge(1)] = 25.0
    final_div_factor: Annotated[float, Ge(1)] = 1e4

    def after_warmup(self, step: int) -> float:
        initial = self.lr / self.div_factor
        # In a run of very few steps there is no step in which the learning rate could rise.
        peak, last = max(self.pct_start * self.steps - 1, 0), self.steps - 1
        if step <= peak:
            return anneal(initial, self.lr, step / peak if peak else 1.0)
        return anneal(self.lr, initial / self.final_div_factor, (step - peak) / (last - peak))


@dataclass
class Plateau(BoundedSchedule):
    """A learning rate that is reduced when a metric has stopped improving.

    An accuracy improves if it is above its best value so far by more than `threshold` times that
    value. A loss improves if it is below by more than this. The learning rate is multiplied by
    `factor` after more than `patience` consecutive epochs without an improvement, as in
    torch.optim.lr_scheduler.ReduceLROnPlateau. The epochs of the warm-up don't count.
    """

    metric: Metric = "val_acc"
    factor: Fraction = 0.1
    patience: Annotated[int, Ge(0)] = 10
    threshold: Annotated[float, Ge(0), Lt(1)] = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rate = self.lr
        self.best: float | None = None
        self.waited = 0

    def observe(self, row: Row) -> None:
        if row["epoch"] * self.steps_per_epoch <= self.warmup_steps:
            return
        value = row[self.metric]
        if self.best is None or gain(self.metric, value, self.best) > self.threshold * self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.rate, self.waited = max(self.rate * self.factor, self.min_lr), 0

    def after_warmup(self, step: int) -> float:
        return self.rate


def anneal(start: float, end: float, progress: float) -> float:
    """Interpolate from `start` to `end` along half a cosine; `progress` is from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
