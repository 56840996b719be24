"""The interface of training callbacks."""

from dataclasses import dataclass
from pathlib import Path

from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record


@dataclass(frozen=True)
class Step:
    """A training step; see `StepMetrics` for its metrics.

    Attributes:
        steepest_layer, steepest_norm: the layer with the largest gradient, and its norm.
        epoch: from 1.
        step: within its epoch, from 0.
        global_step: within the run, from 0.
        images: number of images in the batch.
    """

    loss: float
    correct: float
    grad_norm: float
    steepest_layer: str
    steepest_norm: float
    epoch: int
    step: int
    global_step: int
    lr: float
    images: int


class Pruned(Exception):
    """The run isn't worth continuing; raised by a callback when training starts or an epoch ends.

    Its state is saved by then. Callbacks after the one that raises it don't get that event.
    """


class Callback:
    """Base class of callbacks. Its methods do nothing. An exception of a callback ends the run.

    Attributes:
        train_started: whether `on_train_start` has returned; set by the trainer.
    """

    train_started = False

    def on_train_start(self, directory: Path, step: int) -> None:
        """Called before the first step, with the run directory and the steps of the run that are
        done already, if it is resumed."""

    def on_steps(self, steps: list[Step]) -> None:
        """Called about twice a second with the steps since the last call."""

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        """Called when an epoch is trained, evaluated and saved, with its row of `metrics.csv` and
        the steps of the run that are done."""

    def on_train_end(self, record: Record) -> None:
        """Called when the run has ended, in the state that its record has, if `train_started`."""
