"""Progress of a run: console output, log messages, and the progress in `run.json`."""

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from resnet_sweep.console import console
from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record, duration
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks.callback import Callback, Step

if TYPE_CHECKING:
    # Hydra imports this module for `ConsoleHandler`, and importing torch would delay --help.
    from resnet_sweep.training.trainer import Trainer

# Without a terminal, the progress within an epoch is logged at this interval.
LOG_SECONDS = 60
# A layer's gradient explodes if its norm is larger; norms in stable training are far smaller.
EXPLODING = 1000.0
# A layer's gradient vanishes if its norm is at most this fraction of the largest one.
VANISHING = 1e-6

log = logging.getLogger(__name__)


class ConsoleHandler(logging.Handler):
    """Prints log messages above the progress bar, if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.print(self.format(record), markup=False)
        except Exception:
            self.handleError(record)


class LogFileHandler(logging.FileHandler):
    """Writes a log file. If that fails, it warns once, and the run continues."""

    warned = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        # The first message opens the file, and super() doesn't catch an error of open().
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.warned:
            self.warned = True
            error = sys.exc_info()[1]
            print(
                f"warning: {self.baseFilename} can't be written "
                f"({getattr(error, 'strerror', None) or error}); the run continues without it",
                file=sys.stderr,
            )


class ProgressLog(Callback):
    """Logs a line for each epoch, shows a progress bar on a terminal, and updates `run.progress`.

    Each heartbeat of the run writes `run.progress` into `run.json`.

    Args:
        bar: show a progress bar if there is a terminal.
    """

    def __init__(self, run: Run, trainer: "Trainer", bar: bool) -> None:
        self.run, self.epochs = run, trainer.config.epochs
        self.total_steps, self.steps_per_epoch = trainer.total_steps, trainer.steps_per_epoch
        self.bar: Progress | None = None
        if bar and console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[metrics]}"),
                TextColumn("{task.fields[time_left]}"),
                console=console,
                transient=True,
            )

    def on_train_start(self, directory: Path, step: int) -> None:
        self.first_step = step
        self.start = self.logged = time.monotonic()
        self.epoch = self.images = 0
        if step:
            epoch, done = divmod(step, self.steps_per_epoch)
            log.info(
                "resumed at epoch %d, step %d of %d", epoch + 1, done + 1, self.steps_per_epoch
            )
        if self.bar is not None:
            self.task = self.bar.add_task("starting", total=1, metrics="", time_left="")
            self.bar.start()

    def on_steps(self, steps: list[Step]) -> None:
        for step in steps:
            if step.epoch != self.epoch:
                self.epoch, self.epoch_images, self.loss, self.correct = step.epoch, 0, 0.0, 0.0
            self.epoch_images += step.images
            self.images += step.images
            self.loss += step.loss * step.images
            self.correct += step.correct
        last = steps[-1]
        elapsed = max(time.monotonic() - self.start, 1e-9)
        speed, done = self.images / elapsed, last.global_step + 1
        self.run.progress = {
            "epoch": last.epoch,
            "step": last.step + 1,
            "steps": self.steps_per_epoch,
            "images_per_second": speed,
        }
        metrics = (
            f"train acc {100 * self.correct / self.epoch_images:5.2f}%  "
            f"loss {self.loss / self.epoch_images:.4f}  {speed:,.0f} images/s"
        )
        seconds = elapsed / (done - self.first_step) * (self.total_steps - done)
        time_left = f"{duration(seconds)} left"
        epoch = f"epoch {last.epoch}/{self.epochs}"
        if self.bar is not None:
            self.bar.update(
                self.task,
                description=epoch,
                total=self.steps_per_epoch,
                completed=last.step + 1,
                metrics=metrics,
                time_left=time_left,
            )
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            position = f"step {last.step + 1}/{self.steps_per_epoch}"
            log.info("%s  %s  %s  %s", epoch, position, metrics, time_left)

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.logged = time.monotonic()
        log.info(
            "%s",
            f"epoch {row['epoch']:{len(str(self.epochs))}}/{self.epochs}  "
            f"train acc {row['train_acc']:5.2f}%  val acc {row['val_acc']:5.2f}%  "
            f"loss {row['train_loss']:.4f}  val loss {row['val_loss']:.4f}  "
            f"lr {row['lr']:.6f}  {row['seconds']:.1f} s",
        )

    def on_train_end(self, record: Record) -> None:
        if self.bar is not None:
            self.bar.stop()


class GradientWarnings(Callback):
    """Warns once for each layer whose gradient explodes or vanishes.

    Vanishing gradients in the first epoch are ignored, because some weights are initialized to
    zero on purpose, for example in CBAM.
    """

    def __init__(self) -> None:
        self.warned: set[tuple[str, str]] = set()

    def on_steps(self, steps: list[Step]) -> None:
        for step in steps:
            if step.largest_grad_norm > EXPLODING:
                self._warn_once(
                    "warning: the gradient of layer %s explodes: its norm is %.3g in epoch %d, "
                    "step %d; a lower optim.lr, a longer schedule.warmup_epochs or "
                    "trainer.clip_grad_norm may help",
                    step.largest_grad_layer,
                    step.largest_grad_norm,
                    step.epoch,
                    step.step + 1,
                )

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        largest = max(layers, key=lambda layer: layer.grad_norm)
        for layer in layers:
            if row["epoch"] > 1 and layer.grad_norm <= VANISHING * largest.grad_norm:
                self._warn_once(
                    "warning: the gradient of layer %s vanishes: its mean norm is %.3g in epoch "
                    "%d, and that of layer %s is %.3g",
                    layer.name,
                    layer.grad_norm,
                    row["epoch"],
                    largest.name,
                    largest.grad_norm,
                )

    def _warn_once(self, message: str, layer: str, *values: object) -> None:
        if (message, layer) not in self.warned:
            self.warned.add((message, layer))
            log.warning(message, layer, *values)
