"""Who wants to know how a training goes on."""

from dataclasses import dataclass
from pathlib import Path

from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record


@dataclass(frozen=True)
class Step:
    """One step of a training.

    Attributes:
        epoch: from 1.
        step: within its epoch, from 0.
        global_step: within the run, from 0.
        lr: the learning rate it was made with.
        loss: of its batch, in training mode.
        correct: images of the batch that were classified rightly; one with a mixed label counts
            by the share of the class that was predicted.
        images: in the batch.
        grad_norm: Euclidean norm of the gradient of all weights, before any clipping.
        steepest_layer, steepest_norm: the layer with the largest gradient, and that one's norm.
    """

    epoch: int
    step: int
    global_step: int
    lr: float
    loss: float
    correct: float
    images: int
    grad_norm: float
    steepest_layer: str
    steepest_norm: float


class Pruned(Exception):
    """The run isn't worth going on with; a monitor raises it when training begins or an epoch ends.

    The state of the run is saved by then. Monitors after the one that raises it aren't told of
    that event.
    """


class Monitor:
    """Is told what happens; by itself it does nothing with it."""

    def started(self, directory: Path, step: int) -> None:
        """Training begins, or goes on, with this step of the run."""

    def stepped(self, steps: list[Step]) -> None:
        """Some steps were made; called about twice a second."""

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        """An epoch was trained and evaluated; `step` steps of the run are made."""

    def ended(self, record: Record) -> None:
        """The run has come to an end, in whatever state its record says."""
