"""Who wants to know how a training goes on."""

from dataclasses import dataclass
from pathlib import Path

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
        correct: images of the batch that were classified rightly.
        images: in the batch.
        grad_norm: Euclidean norm of the gradient of all weights.
    """

    epoch: int
    step: int
    global_step: int
    lr: float
    loss: float
    correct: int
    images: int
    grad_norm: float


class Monitor:
    """Is told what happens; by itself it does nothing with it."""

    def started(self, directory: Path, step: int) -> None:
        """Training begins, or goes on, with this step of the run."""

    def stepped(self, steps: list[Step]) -> None:
        """Some steps were made; called about twice a second."""

    def epoch_ended(self, row: Row, step: int) -> None:
        """An epoch was trained and evaluated; `step` steps of the run are made."""

    def ended(self, record: Record) -> None:
        """The run has come to an end, in whatever state its record says."""
