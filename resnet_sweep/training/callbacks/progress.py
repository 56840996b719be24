"""Progress of a run: what is printed, logged and written into its record while it trains."""

import logging
import sys
import time
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn

from resnet_sweep.console import console
from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record, duration
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks.callback import Callback, Step

# Without a terminal, the progress within a long epoch is logged this often.
LOG_SECONDS = 60
# Gradients of training that works don't have norms near this one.
EXPLODING = 1000.0
# A layer hardly learns if its gradient is a smaller share of the largest gradient of any layer.
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
        # The file is opened for the first message, which super() doesn't handle.
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if not self.warned:
            self.warned = True
            reason = sys.exc_info()[1]
            print(
                f"warning: {self.baseFilename} can't be written ({reason}); the run continues "
                "without it",
                file=sys.stderr,
            )


class ProgressLog(Callback):
    """Logs a line for each epoch, and shows a progress bar on a terminal.

    Args:
        total_steps: steps in the whole run.
        steps_per_epoch: steps in a whole epoch.
        epochs: epochs in the whole run.
        bar: show a progress bar, if there is a terminal.
    """

    def __init__(
        self, total_steps: int, steps_per_epoch: int, epochs: int, bar: bool = True
    ) -> None:
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.epochs, self.bar = epochs, bar
        self.progress: Progress | None = None
        self.epoch = 0

    def on_train_start(self, directory: Path, step: int) -> None:
        self.first_step = self.done = step
        self.start = self.logged = time.monotonic()
        self.images = 0
        if step:
            epoch, done = divmod(step, self.steps_per_epoch)
            log.info(
                "resumed at epoch %d, step %d of %d", epoch + 1, done + 1, self.steps_per_epoch
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

    def on_steps(self, steps: list[Step]) -> None:
        for step in steps:
            if step.epoch != self.epoch:
                self.epoch, self.epoch_images, self.loss, self.correct = step.epoch, 0, 0.0, 0.0
            self.epoch_images += step.images
            self.images += step.images
            self.loss += step.loss * step.images
            self.correct += step.correct
        self.done = steps[-1].global_step + 1
        in_epoch = steps[-1].step + 1
        speed = self.images / max(time.monotonic() - self.start, 1e-9)
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
                left=f"{self.time_left()} left",
            )
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            position = f"{where}  step {in_epoch}/{self.steps_per_epoch}"
            log.info("%s  %s  %s left", position, text, self.time_left())

    def time_left(self) -> str:
        """Return the time that the rest of the run will take."""
        passed = time.monotonic() - self.start
        return duration(passed / (self.done - self.first_step) * (self.total_steps - self.done))

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.logged = time.monotonic()
        log.info("%s", epoch_line(row, self.epochs))

    def on_train_end(self, record: Record) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


def epoch_line(row: Row, epochs: int) -> str:
    """Return the metrics of an epoch in the words of the training log."""
    return (
        f"epoch {row['epoch']:{len(str(epochs))}}/{epochs}  train acc {row['train_acc']:5.2f}%  "
        f"val acc {row['val_acc']:5.2f}%  loss {row['train_loss']:.4f}  "
        f"val loss {row['val_loss']:.4f}  lr {row['lr']:.6f}  {row['seconds']:.1f} s"
    )


class Heartbeat(Callback):
    """Updates `run.progress`, which is written into `run.json` with each heartbeat of the run.

    Args:
        run: the run.
        steps_per_epoch: steps in a whole epoch.
    """

    def __init__(self, run: Run, steps_per_epoch: int) -> None:
        self.run, self.steps_per_epoch = run, steps_per_epoch

    def on_train_start(self, directory: Path, step: int) -> None:
        self.images, self.start = 0, time.monotonic()

    def on_steps(self, steps: list[Step]) -> None:
        self.images += sum(step.images for step in steps)
        self.run.progress = {
            "epoch": steps[-1].epoch,
            "step": steps[-1].step + 1,
            "steps": self.steps_per_epoch,
            "images_per_second": self.images / max(time.monotonic() - self.start, 1e-9),
        }


class GradientWarnings(Callback):
    """Warns of a layer whose gradient explodes or vanishes, once for each layer.

    Vanishing gradients of the first epoch are ignored, because some layers start at zero on
    purpose, such as those of CBAM.
    """

    def __init__(self) -> None:
        self.exploded: set[str] = set()
        self.vanished: set[str] = set()

    def on_steps(self, steps: list[Step]) -> None:
        for step in steps:
            layer, norm = step.steepest_layer, step.steepest_norm
            if norm > EXPLODING and layer not in self.exploded:
                self.exploded.add(layer)
                log.warning(
                    "warning: the gradient of layer %s explodes: its norm is %.3g in epoch %d, "
                    "step %d; a lower optim.lr, a longer schedule.warmup_epochs or "
                    "trainer.clip_grad_norm may help",
                    layer,
                    norm,
                    step.epoch,
                    step.step + 1,
                )

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        if row["epoch"] == 1 or not layers:
            return
        largest = max(layers, key=lambda layer: layer.grad_norm)
        for layer in layers:
            if layer.grad_norm <= VANISHING * largest.grad_norm and layer.name not in self.vanished:
                self.vanished.add(layer.name)
                log.warning(
                    "warning: the gradient of layer %s vanishes: its mean norm is %.3g in epoch "
                    "%d, where that of layer %s is %.3g",
                    layer.name,
                    layer.grad_norm,
                    row["epoch"],
                    largest.name,
                    largest.grad_norm,
                )
