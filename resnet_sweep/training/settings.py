"""What the trainer is told."""

from dataclasses import dataclass
from typing import Annotated, Literal

from resnet_sweep.ranges import Count, Range


@dataclass(frozen=True)
class TrainerSettings:
    """How long a run is, how large its batches are, and where it is carried out.

    Attributes:
        epochs: passes over the training images, which the schedule spans.
        batch_size: images a step.
        drop_last: leave out the last batch of an epoch if it isn't whole.
        max_steps: stop after this many steps, with the schedule as if there were more to come.
        device: "auto", or a device as torch names it.
        threads: of the CPU; None for as many as torch chooses.
        precision: of the forward pass; weights are always float32.
        resume: go on from the last checkpoint of the run directory.
    """

    epochs: Count = 100
    batch_size: Count = 128
    drop_last: bool = False
    max_steps: Count | None = None
    device: str = "auto"
    # More than any machine has would only make torch fail.
    threads: Annotated[int, Range(minimum=1, maximum=4096)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    resume: bool = True
