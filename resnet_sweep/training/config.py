"""Settings of the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from resnet_sweep.ranges import Count
from resnet_sweep.runs.metrics import Metric, Row, gain

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class EarlyStopping:
    """Criteria that end a run before its schedule does. The schedule keeps its length.

    Attributes:
        epoch: last epoch to train; None sets no limit.
        patience: epochs in a row without an improvement after which the run ends (Prechelt, 1998,
            "Early Stopping - But When?"); None allows any number of them.
        metric: metric that has to improve.
        min_delta: smallest improvement, exclusive, in the metric's unit.
    """

    epoch: Count | None = None
    patience: Count | None = None
    metric: Metric = "val_acc"
    min_delta: Annotated[float, Ge(0)] = 0.0

    def reason(self, rows: Sequence[Row]) -> str | None:
        """Return why training ends after these epochs, or None if it continues."""
        if self.epoch is not None and len(rows) >= self.epoch:
            return f"trainer.early_stopping.epoch={self.epoch} is reached"
        if self.patience is None or not rows:
            return None
        best, waited = rows[0], 0
        for row in rows[1:]:
            waited += 1
            if gain(self.metric, row[self.metric], best[self.metric]) > self.min_delta:
                best, waited = row, 0
        if waited < self.patience:
            return None
        return (
            f"{self.metric} hasn't improved for {waited} epochs since epoch {best['epoch']} "
            f"({best[self.metric]:.4g})"
        )


@dataclass(frozen=True)
class TrainerConfig:
    """Length of a run, batch size, and where and how it is computed.

    Attributes:
        epochs: passes over the training images; the schedule spans them.
        batch_size: images in a step.
        drop_last: leave out the last batch of an epoch if it is smaller.
        max_steps: stop after this many steps; the schedule keeps its length.
        clip_grad_norm: largest norm of the gradient of all weights together; a larger one is scaled
            down (Pascanu et al., 2013, "On the difficulty of training Recurrent Neural Networks").
        ema_decay: decay of the `ExponentialMovingAverage` that is evaluated and kept as the best.
        early_stopping: when the run ends before its last epoch; by default never.
        progressive_resizing: sizes of the training images, see `ProgressiveResizing`.
        device: as torch names it, such as "cuda:1", or "auto": a GPU if there is one.
        threads: CPU threads; None for torch's own choice.
        precision: of the forward pass; "auto" is bfloat16 where the device is faster with it.
        compile: mode of `torch.compile`, see `resnet_sweep.training.device.compile_model`.
        resume: continue from the last checkpoint of the run directory; False starts over.
        distributed: share every batch among the processes that torchrun starts.
        sync_batch_norm: compute BatchNorm's statistics over the shares of all processes.
    """

    epochs: Count = 100
    batch_size: Count = 128
    drop_last: bool = False
    max_steps: Count | None = None
    clip_grad_norm: Annotated[float, Gt(0)] | None = None
    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    progressive_resizing: list[Count] | None = None
    device: str = "auto"
    # More than any machine has would only make torch fail.
    threads: Annotated[int, Ge(1), Le(4096)] | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compile: CompileMode | None = None
    resume: bool = True
    distributed: bool = False
    sync_batch_norm: bool = True

    def __post_init__(self) -> None:
        # Hydra passes a nested config as a dict.
        if isinstance(self.early_stopping, dict):
            object.__setattr__(self, "early_stopping", EarlyStopping(**self.early_stopping))
