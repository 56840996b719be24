"""The interface of training callbacks."""

from dataclasses import dataclass
from pathlib import Path

from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record


@dataclass(frozen=True)
class Step:
    """Metrics of one training step.

    Attributes:
        loss, correct, grad_norm: metrics of the batch, see `StepMetrics`.
        largest_grad_layer, largest_grad_norm: layer with the largest gradient, and the norm of that
            gradient.
        epoch: number of the epoch, from 1.
        step: number of the step in its epoch, from 0.
        global_step: number of the step in the run, from 0.
        lr: learning rate.
        images: number of images in the batch.
    """

    loss: float
    correct: float
    grad_norm: float
    largest_grad_layer: str
    largest_grad_norm: float
    epoch: int
    step: int
    global_step: int
    lr: float
    images: int


class Pruned(Exception):
    """Raised by a callback, in `on_train_start` or `on_epoch_end`, to end an unpromising run.

    The state of the run is already saved then. The callbacks that follow in the list aren't called
    for this event.
    """


class Callback:
    """Base class of callbacks. Its methods do nothing. An exception in a callback ends the run.

    Attributes:
        train_started: whether `on_train_start` has returned; set by the trainer.
    """

    train_started = False

    def on_train_start(self, directory: Path, step: int) -> None:
        """Called before the first step.

        Args:
            directory: run directory.
            step: number of steps that are already done; not 0 if the run is resumed.
        """

    def on_steps(self, steps: list[Step]) -> None:
        """Called about twice a second with the steps since the last call."""

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        """Called after an epoch has been trained, evaluated and saved.

        Args:
            row: the epoch's row of `metrics.csv`.
            layers: norms of each layer.
            step: number of steps of the run that are done.
        """

    def on_train_end(self, record: Record) -> None:
        """Called after the run has ended, if `train_started`; `record.state` says how it ended."""
