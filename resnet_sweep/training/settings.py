"""What the trainer is told."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from resnet_sweep.ranges import Count, Range
from resnet_sweep.training.early_stopping import EarlyStopping


@dataclass(frozen=True)
class TrainerSettings:
    """How long a run is, how large its batches are, and where it is carried out.

    Attributes:
        epochs: passes over the training images, which the schedule spans.
        batch_size: images a step.
        drop_last: leave out the last batch of an epoch if it isn't whole.
        max_steps: stop after this many steps, with the schedule as if there were more to come.
        clip_grad_norm: longest gradient of all weights together; a longer one is scaled down to it
            (Pascanu et al., 2013, "On the difficulty of training Recurrent Neural Networks").
        ema_decay: of the weights' moving average, which is then what is evaluated and kept as the
            best; see `WeightAverage`.
        early_stopping: when the run ends before its last epoch.
        progressive_resizing: sizes of training images, which share the run; see
            `ProgressiveResizing`.
        device: "auto", or a device as torch names it.
        threads: of the CPU; None for as many as torch chooses.
        precision: of the forward pass; weights are always float32.
        compile: "graph" records a whole step as one CUDA graph and replays it; "max" has torch
            compile the model first, which rounds differently.
        resume: go on from the last checkpoint of the run directory.
        distributed: share the run among the processes that torchrun starts, see `Ranks`.
        sync_batch_norm: have BatchNorm's statistics in training be those of a whole batch, and not
            those of each process's share of it.
    """

    epochs: Count = 100
    batch_size: Count = 128
    drop_last: bool = False
    max_steps: Count | None = None
    clip_grad_norm: Annotated[float, Range(above=0)] | None = None
    ema_decay: Annotated[float, Range(minimum=0, below=1)] | None = None
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    progressive_resizing: list[Count] | None = None
    device: str = "auto"
    # More than any machine has would only make torch fail.
    threads: Annotated[int, Range(minimum=1, maximum=4096)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: Literal["none", "graph", "max"] = "none"
    resume: bool = True
    distributed: bool = False
    sync_batch_norm: bool = True

    def __post_init__(self) -> None:
        # Hydra hands a nested config over as a dict.
        if isinstance(self.early_stopping, dict):
            object.__setattr__(self, "early_stopping", EarlyStopping(**self.early_stopping))
