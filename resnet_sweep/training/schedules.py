"""Learning rates over a run, as functions of the step."""

import math
from typing import Annotated

from resnet_sweep.ranges import Range

Epochs = Annotated[float, Range(minimum=0)]


class Constant:
    """The same learning rate all the way, after a linear warm-up.

    In step s of a warm-up of w steps the rate is lr * (s + 1) / w (Goyal et al., 2017,
    "Accurate, Large Minibatch SGD").

    Args:
        lr: the peak.
        epochs: length of the run.
        steps_per_epoch: steps in an epoch.
        warmup_epochs: length of the warm-up; may be a fraction.

    Raises:
        ValueError: the warm-up is longer than the run.
    """

    def __init__(
        self, lr: float, epochs: int, steps_per_epoch: int, warmup_epochs: Epochs = 0
    ) -> None:
        if warmup_epochs > epochs:
            raise ValueError(
                f"warmup_epochs={warmup_epochs} is longer than the run (trainer.epochs={epochs}): "
                "choose a shorter warm-up or a longer run"
            )
        self.lr = lr
        self.warmup_steps = round(warmup_epochs * steps_per_epoch)
        self.steps = epochs * steps_per_epoch

    def __call__(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        return self.after_warmup((step - self.warmup_steps) / (self.steps - self.warmup_steps))

    def after_warmup(self, progress: float) -> float:
        """The learning rate at a point after the warm-up, 0 at its end to 1 at the run's end."""
        return self.lr


class Cosine(Constant):
    """From lr down to min_lr along half a cosine, after a linear warm-up.

    The rate is min_lr + (lr - min_lr) * (1 + cos(pi * t)) / 2 with t from 0 to 1 over the steps
    (Loshchilov and Hutter, 2017, "SGDR", equation 5 without restarts).

    Args:
        lr, epochs, steps_per_epoch, warmup_epochs: as for `Constant`.
        min_lr: what the rate falls to.

    Raises:
        ValueError: min_lr is above lr, or the warm-up is longer than the run.
    """

    def __init__(
        self,
        lr: float,
        epochs: int,
        steps_per_epoch: int,
        warmup_epochs: Epochs = 0,
        min_lr: Annotated[float, Range(minimum=0)] = 0.0,
    ) -> None:
        super().__init__(lr, epochs, steps_per_epoch, warmup_epochs)
        if min_lr > lr:
            raise ValueError(
                f"min_lr={min_lr} is above optim.lr={lr}: choose a smaller min_lr or a larger lr"
            )
        self.min_lr = min_lr

    def after_warmup(self, progress: float) -> float:
        return self.min_lr + (self.lr - self.min_lr) * (1 + math.cos(math.pi * progress)) / 2
