"""Learning rates over a run, as functions of the step."""

import math
from typing import Annotated

from resnet_sweep.ranges import Count, Range
from resnet_sweep.runs.metrics import Metric, Row, gain

Epochs = Annotated[float, Range(minimum=0)]
Rate = Annotated[float, Range(minimum=0)]
Fraction = Annotated[float, Range(above=0, below=1)]


class Schedule:
    """A learning rate for each step: a linear warm-up, and what follows it.

    In step s of a warm-up of w steps the rate is lr * (s + 1) / w (Goyal et al., 2017,
    "Accurate, Large Minibatch SGD").

    Args:
        lr: the peak.
        epochs: length of the run.
        steps_per_epoch: steps in an epoch.
        warmup_epochs: length of the warm-up; may be a fraction.
        min_lr: the lowest rate after the warm-up.

    Raises:
        ValueError: the warm-up is longer than the run, or min_lr is above lr.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        min_lr: Rate = 0.0,
    ) -> None:
        if warmup_epochs > epochs:
            raise ValueError(
                f"warmup_epochs={warmup_epochs} is longer than the run (trainer.epochs={epochs}): "
                "choose a shorter warm-up or a longer run"
            )
        if min_lr > lr:
            raise ValueError(
                f"min_lr={min_lr} is above optim.lr={lr}: choose a smaller min_lr or a larger lr"
            )
        self.lr, self.min_lr = lr, min_lr
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.steps = epochs * steps_per_epoch - self.warmup_steps

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.after_warmup(step - self.warmup_steps)

    def after_warmup(self, step: int) -> float:
        """The learning rate of a step, counted from the end of the warm-up, of `self.steps`."""
        raise NotImplementedError

    def observe(self, row: Row) -> None:
        """Be told the metrics of an epoch, of each one once and in order."""

    def _anneal(self, progress: float) -> float:
        """From lr down to min_lr along half a cosine, with progress from 0 to 1."""
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2


class Constant(Schedule):
    """The same learning rate all the way, after a linear warm-up.

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs: as for `Schedule`.
    """

    def __init__(
        self, lr: float, epochs: int, steps_per_epoch: int, warmup_epochs: Epochs = 0
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs)

    def after_warmup(self, step: int) -> float:
        return self.lr


class Cosine(Schedule):
    """From lr down to min_lr along half a cosine, after a linear warm-up.

    The rate is min_lr + (lr - min_lr) * (1 + cos(pi * t)) / 2 with t from 0 to 1 over the steps
    (Loshchilov and Hutter, 2017, "SGDR", equation 5 without restarts).
    """

    def after_warmup(self, step: int) -> float:
        return self._anneal(step / self.steps)


class CosineWarmRestarts(Schedule):
    """Half cosines from lr down to min_lr, one after another (Loshchilov and Hutter, 2017, "SGDR").

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs, min_lr: as for `Schedule`.
        T_0: length of the first cosine, as a fraction of the run after the warm-up.
        T_mult: how many times as long as the one before it each further cosine is.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        min_lr: Rate = 0.0,
        T_0: Annotated[float, Range(above=0, maximum=1)] = 0.1429,
        T_mult: Count = 2,
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs, min_lr)
        # Rounded up, lest cosines that are to fill the run leave a few steps to another one.
        self.first = max(1, math.ceil(T_0 * self.steps - 1e-6))
        self.T_mult = T_mult

    def after_warmup(self, step: int) -> float:
        length = self.first
        if self.T_mult == 1:
            step %= length
        while step >= length:
            step -= length
            length *= self.T_mult
        return self._anneal(step / length)


class MultiStep(Schedule):
    """A rate that falls at some points of the run, and is constant between them.

    He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2, divide by ten
    at a half and at three quarters of the run.

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs: as for `Schedule`.
        milestones: where it falls, as fractions of the run after the warm-up.
        gamma: what it is multiplied by there.

    Raises:
        ValueError: the milestones aren't ascending, or the warm-up is longer than the run.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        milestones: list[Fraction] = (0.5, 0.75),
        gamma: Fraction = 0.1,
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs)
        if sorted({*milestones}) != list(milestones):
            raise ValueError(
                f"milestones={list(milestones)} must be ascending, such as [0.5, 0.75]"
            )
        self.milestones = [round(milestone * self.steps) for milestone in milestones]
        self.gamma = gamma

    def after_warmup(self, step: int) -> float:
        return self.lr * self.gamma ** sum(step >= milestone for milestone in self.milestones)


class OneCycle(Schedule):
    """Up to lr and down to almost nothing, each along half a cosine.

    Smith and Topin, 2018, "Super-Convergence", as torch.optim.lr_scheduler.OneCycleLR has it,
    with a constant momentum.

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs: as for `Schedule`.
        pct_start: the part of the run in which the rate rises.
        div_factor: lr divided by the rate of the first step.
        final_div_factor: the rate of the first step divided by that of the last.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        pct_start: Fraction = 0.3,
        div_factor: Annotated[float, Range(minimum=1)] = 25.0,
        final_div_factor: Annotated[float, Range(minimum=1)] = 1e4,
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs)
        self.initial = lr / div_factor
        self.final = self.initial / final_div_factor
        self.peak = max(pct_start * self.steps - 1, 0)

    def after_warmup(self, step: int) -> float:
        last = self.steps - 1
        if step <= self.peak:
            start, end, progress = self.initial, self.lr, step / self.peak if self.peak else 1.0
        else:
            start, end, progress = self.lr, self.final, (step - self.peak) / (last - self.peak)
        return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


class Plateau(Schedule):
    """A rate that falls when a metric has stopped improving.

    An epoch counts as better if it beats the best so far by `threshold` of it; after more than
    `patience` epochs in a row that don't, the rate is multiplied by `factor`
    (torch.optim.lr_scheduler.ReduceLROnPlateau).

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs, min_lr: as for `Schedule`.
        metric: which one is watched.
        factor: what the rate is multiplied by.
        patience: epochs.
        threshold: as a fraction of the best value.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        min_lr: Rate = 0.0,
        metric: Metric = "val_acc",
        factor: Fraction = 0.1,
        patience: Annotated[int, Range(minimum=0)] = 10,
        threshold: Annotated[float, Range(minimum=0, below=1)] = 1e-4,
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs, min_lr)
        self.metric, self.factor = metric, factor
        self.patience, self.threshold = patience, threshold
        self.rate = lr
        self.best: float | None = None
        self.waited = 0

    def observe(self, row: Row) -> None:
        value = row[self.metric]
        if self.best is None or gain(self.metric, value, self.best) > self.threshold * self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.rate, self.waited = max(self.rate * self.factor, self.min_lr), 0

    def after_warmup(self, step: int) -> float:
        return self.rate
