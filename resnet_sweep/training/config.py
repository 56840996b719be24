"""Settings of the trainer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, Predicate
from typing_extensions import Doc

from resnet_sweep.ranges import Count
from resnet_sweep.runs.metrics import Metric, Row, average_metrics, gain, is_further_column

Decay = Annotated[float, Ge(0), Lt(1)]


def have_columns(decays: Sequence[float]) -> bool:
    """Return whether several averages of the weights can have columns in `metrics.csv`."""
    columns = [metric.column for decay in decays for metric in average_metrics(decay)]
    return (
        bool(columns) and len({*columns}) == len(columns) and all(map(is_further_column, columns))
    )


Decays = Annotated[
    list[Decay],
    Predicate(have_columns),
    Doc("a list of different numbers of this kind, such as [0.999,0.99]"),
]
CompileMode = Literal["default", "reduce-overhead", "max-autotune"]


@dataclass(frozen=True)
class EarlyStopping:
    """Criteria that end a run early. They don't shorten the schedule, which spans all epochs.

    Attributes:
        epoch: last epoch to train; None sets no limit.
        patience: number of consecutive epochs without an improvement after which the run ends
            (Prechelt, 1998, "Early Stopping - But When?"); None never ends it.
        metric: metric that has to improve.
        min_delta: the metric has to improve by more than this, in its unit.
    """

    epoch: Count | None = None
    patience: Count | None = None
    metric: Metric = "val_acc"
    min_delta: Annotated[float, Ge(0)] = 0.0

    def first_stop(self, rows: Sequence[Row]) -> int | None:
        """Return after how many of these epochs training ends, or None if it continues."""
        counts = range(len(rows) + 1)
        return next((count for count in counts if self.reason(rows[:count]) is not None), None)

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
    """Settings of the `Trainer`.

    Attributes:
        epochs: number of passes over the training images; the schedule spans them.
        batch_size: number of images in a step.
        drop_last: leave out the last batch of an epoch if it is smaller.
        max_steps: stop after this many steps; the schedule still spans all epochs.
        clip_grad_norm: largest norm of the gradient of all weights together; a larger gradient is
            scaled down to it (Pascanu et al., 2013, "On the difficulty of training Recurrent Neural
            Networks"); None doesn't clip.
        ema_decay: decay of the `ExponentialMovingAverage` that is evaluated and saved as the best
            model; None evaluates and saves the trained weights. Of several averages, the first is
            saved, and all are evaluated.
        freeze: patterns for the names of weights or modules that aren't trained, see
            `resnet_sweep.training.fine_tuning.frozen_names`.
        backbone_lr_factor: factor of the learning rate of all weights but the classifier's.
        early_stopping: criteria that end the run early; by default none.
        progressive_resizing: sizes of the training images, see `ProgressiveResizing`.
        device: a torch device, for example "cuda:1", or "auto" for a GPU if there is one.
        threads: number of CPU threads; None for torch's default.
        precision: precision of the forward pass; "auto" is bfloat16 on devices where that is
            faster, and float32 on others.
        compile: mode of `torch.compile`, see `resnet_sweep.training.device.compile_model`; None
            doesn't compile.
        resume: continue from the last checkpoint in the run directory; False starts over.
        distributed: divide every batch among the processes that torchrun starts.
        sync_batch_norm: compute BatchNorm's statistics over the batches of all processes.
    """

    epochs: Count = 100
    batch_size: Count = 128
    drop_last: bool = False
    max_steps: Count | None = None
    clip_grad_norm: Annotated[float, Gt(0)] | None = None
    ema_decay: Decay | Decays | None = None
    freeze: list[str] = field(default_factory=list)
    backbone_lr_factor: Annotated[float, Gt(0), Le(1000)] = 1.0
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    progressive_resizing: list[Count] | None = None
    device: str = "auto"
    # torch fails if the number is far larger than the number of threads of any machine.
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

    @property
    def ema_decays(self) -> list[float]:
        """The decays of all averages of the weights; the first average is saved as the best."""
        if self.ema_decay is None:
            return []
        return [*self.ema_decay] if isinstance(self.ema_decay, Sequence) else [self.ema_decay]
