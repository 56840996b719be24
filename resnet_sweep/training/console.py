"""What a run tells on screen, and in a pipe or log file."""

import logging
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn

from resnet_sweep.console import console
from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record, duration
from resnet_sweep.training.monitor import Monitor, Step

# In a pipe, an epoch that takes long says this often where it is.
PLAIN_SECONDS = 60


log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.print(self.format(record), markup=False)
        except Exception:
            self.handleError(record)


class LogFile(logging.FileHandler):
    """A log file that a run can do without: that it can't be written is told once."""

    told = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        # Of opening it, which is done for the first message.
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told = True
            reason = sys.exc_info()[1]
            print(
                f"warning: {self.baseFilename} can't be written ({reason}); the run goes on "
                "without it",
                file=sys.stderr,
            )


class ConsoleMonitor(Monitor):
    """A line an epoch in the terms of the training log, and on a terminal a progress bar.

    Args:
        steps: in the whole run.
        steps_per_epoch: in a whole epoch.
        epochs: in the whole run.
        bar: show it, if there is a terminal.
    """

    def __init__(self, steps: int, steps_per_epoch: int, epochs: int, bar: bool = True) -> None:
        self.steps, self.steps_per_epoch, self.epochs = steps, steps_per_epoch, epochs
        self.bar = bar
        self.progress: Progress | None = None
        self.epoch = 0

    def started(self, directory: Path, step: int) -> None:
        self.first = self.done = step
        self.begun = self.told = time.monotonic()
        self.images = 0
        if step:
            epoch, done = divmod(step, self.steps_per_epoch)
            log.info(
                "going on at epoch %d, step %d of %d", epoch + 1, done + 1, self.steps_per_epoch
            )
        if self.bar and console.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                TextColumn("{task.fields[left]}"),
                console=console,
                transient=True,
            )
            self.task = self.progress.add_task("starting", total=1, text="", left="")
            self.progress.start()

    def stepped(self, steps: list[Step]) -> None:
        for step in steps:
            if step.epoch != self.epoch:
                self.epoch, self.epoch_images, self.loss, self.correct = step.epoch, 0, 0.0, 0
            self.epoch_images += step.images
            self.images += step.images
            self.loss += step.loss * step.images
            self.correct += step.correct
        self.done = steps[-1].global_step + 1
        in_epoch = steps[-1].step + 1
        speed = self.images / max(time.monotonic() - self.begun, 1e-9)
        text = (
            f"train acc {100 * self.correct / self.epoch_images:5.2f}%  "
            f"loss {self.loss / self.epoch_images:.4f}  {speed:,.0f} images/s"
        )
        where = f"epoch {self.epoch}/{self.epochs}"
        if self.progress is not None:
            self.progress.update(
                self.task,
                description=where,
                total=self.steps_per_epoch,
                completed=in_epoch,
                text=text,
                left=f"{self.left()} left",
            )
        elif time.monotonic() - self.told > PLAIN_SECONDS:
            self.told = time.monotonic()
            log.info(
                "%s  step %d/%d  %s  %s left",
                where, in_epoch, self.steps_per_epoch, text, self.left(),
            )  # fmt: skip

    def left(self) -> str:
        """The time that the rest of the run will take."""
        passed = time.monotonic() - self.begun
        return duration(passed / (self.done - self.first) * (self.steps - self.done))

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        self.told = time.monotonic()
        log.info("%s", epoch_line(row, self.epochs))

    def ended(self, record: Record) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def epoch_line(row: Row, epochs: int) -> str:
    """The metrics of an epoch in the terms of the training log."""
    return (
        f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  train acc {row['train_acc']:5.2f}%  "
        f"val acc {row['val_acc']:5.2f}%  loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  lr {row['lr']:.6f}  {row['seconds']:.1f} s"
    )
