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
    """Criteria that end a run before its schedule does. The schedule keeps its length."""

    epoch: Count | None = None
    """Last epoch to train. None, the default, sets no such limit."""

    patience: Count | None = None
    """Epochs in a row without an improvement after which the run ends (Prechelt, 1998, "Early
    Stopping - But When?"). None, the default, allows any number of them."""

    metric: Metric = "val_acc"
    """Metric that has to improve."""

    min_delta: Annotated[float, Ge(0)] = 0.0
    """A change of the metric counts as an improvement if it is larger than this, in the metric's
    unit."""

    def reason(self, rows: Sequence[Row]) -> str | None:
        """Return why training ends after these epochs, or None if it continues."""
        if self.epoch is not None and len(rows) >= self.epoch:
            return f"trainer.early_stopping.epoch={self.epoch} is reached"
        if self.patience is None or not rows:
            return None
        best, waited = rows[0], 0
        for row in rows[1:]:
            if gain(self.metric, row[self.metric], best[self.metric]) > self.min_delta:
                best, waited = row, 0
            else:
                waited += 1
        if waited < self.patience:
            return None
        return (
            f"{self.metric} hasn't improved for {waited} epochs since epoch {best['epoch']} "
            f"({best[self.metric]:.4g})"
        )


@dataclass(frozen=True)
class TrainerConfig:
    """Length of a run, batch size, and where and how it is computed."""

    epochs: Count = 100
    """Passes over the training images; the schedule spans them."""

    batch_size: Count = 128
    """Images in a step."""

    drop_last: bool = False
    """Leave out the last batch of an epoch if it is smaller than `batch_size`."""

    max_steps: Count | None = None
    """Stop after this many steps, without shortening the schedule. None: no such limit."""

    clip_grad_norm: Annotated[float, Gt(0)] | None = None
    """Largest norm of the gradient of all weights together; a larger one is scaled down to it
    (Pascanu et al., 2013, "On the difficulty of training Recurrent Neural Networks"). None: no
    clipping."""

    ema_decay: Annotated[float, Ge(0), Lt(1)] | None = None
    """Decay of an exponential moving average of the weights, which is then evaluated and kept as
    the best model; see `ExponentialMovingAverage`. None: no average."""

    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    """When the run ends before its last epoch; by default never."""

    progressive_resizing: list[Count] | None = None
    """Sizes of the training images, ascending, which share the run; see `ProgressiveResizing`.
    None: the images' own size."""

    device: str = "auto"
    """Device as torch names it, such as "cuda:1", or "auto": a GPU if there is one."""

    # More than any machine has would only make torch fail.
    threads: Annotated[int, Ge(1), Le(4096)] | None = None
    """CPU threads. None: as many as torch chooses."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; weights are always float32. "auto": bfloat16 where the device
    is faster with it."""

    compile: CompileMode | None = None
    """Mode of `torch.compile`, by which the model's forward and backward pass are compiled; see
    `resnet_sweep.training.train_step.compile_model`. None: no compilation."""

    resume: bool = True
    """Continue from the last checkpoint of the run directory. False: start from the beginning."""

    distributed: bool = False
    """Share every batch among the processes that torchrun starts."""

    sync_batch_norm: bool = True
    """In distributed training, compute BatchNorm's statistics over the whole batch. False: each
    process computes those of its own share."""

    def __post_init__(self) -> None:
        # Hydra passes a nested config as a dict.
        if isinstance(self.early_stopping, dict):
            object.__setattr__(self, "early_stopping", EarlyStopping(**self.early_stopping))
