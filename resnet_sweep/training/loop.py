"""The training loop."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.data.batches import Batches
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.layers import Layer, write_layers
from resnet_sweep.runs.metrics import best_row
from resnet_sweep.runs.run import Run
from resnet_sweep.training.averaging import WeightAverage
from resnet_sweep.training.checkpoint import (
    BEST,
    NEXT_BEST,
    copy_state,
    fault_of_best,
    read_last,
    settle_best,
    write_checkpoint,
    write_last,
)
from resnet_sweep.training.evaluation import Normalize, accuracy, cross_entropy, predict
from resnet_sweep.training.interruption import Interrupted, StopRequest
from resnet_sweep.training.monitor import Monitor, Step
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.resizing import ProgressiveResizing
from resnet_sweep.training.schedules import Schedule
from resnet_sweep.training.settings import TrainerSettings
from resnet_sweep.training.tally import Tally
from resnet_sweep.training.train_step import TrainStep
from resnet_sweep.training.writer import Writer

# Reading a number from a GPU makes it wait, so the steps are looked at only this often.
INSPECTION_SECONDS = 0.5
# What a killed run loses at the most, when its epochs are long.
CHECKPOINT_SECONDS = 300


log = logging.getLogger(__name__)


class Diverged(Exception):
    """The loss became NaN or infinite."""


def steps_per_epoch(images: int, settings: TrainerSettings) -> int:
    """How many steps an epoch of so many training images has."""
    whole, rest = divmod(images, settings.batch_size)
    return whole if settings.drop_last else whole + bool(rest)


class Training:
    """A model in training.

    Every random choice is a function of the seed, the epoch and the step, and all the rest is in
    the checkpoint: a run that is stopped anywhere and goes on later is, bit for bit on a CPU, the
    run that was never stopped.

    Several processes may train one model together, each on a share of every batch; then rank 0
    alone has the run directory and a clock, and what they do at a step they do all.

    Args:
        model: on the device.
        optimizer: of the model's weights.
        schedule: of the learning rate.
        augmentation: operations on training batches, in order; see `resnet_sweep.augmentation`.
        loss: from logits (B, classes) and labels, (B,) or (B, classes) if the augmentation mixes
            them, to a scalar.
        dataset: what is trained and validated on.
        settings: of the trainer.
        seed: of the run.
        device, precision: where, and how exactly.
        ranks: the processes that train it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        augmentation: Sequence[Callable],
        loss: Callable[[Tensor, Tensor], Tensor],
        dataset: Dataset,
        settings: TrainerSettings,
        seed: int,
        device: torch.device,
        precision: str,
        ranks: Ranks,
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.seed = seed
        self.device = device
        self.precision = precision
        self.ranks = ranks
        self.train_batches = Batches(dataset.train, device)
        indices = dataset.validation.indices
        part = replace(dataset.validation, indices=indices[ranks.share(len(indices))])
        self.validation_batches = Batches(part, device)
        self.normalize = Normalize(dataset.mean, dataset.std, device)

        self.steps_per_epoch = steps_per_epoch(len(dataset.train), settings)
        self.steps = settings.epochs * self.steps_per_epoch
        if settings.max_steps is not None:
            self.steps = min(self.steps, settings.max_steps)
        self.average = (
            None if settings.ema_decay is None else WeightAverage(self.model, settings.ema_decay)
        )
        self.resizing = (
            None
            if settings.progressive_resizing is None
            else ProgressiveResizing(settings.progressive_resizing, settings.epochs)
        )

        # Where the training is: the epochs behind it, and the steps of the present one.
        self.rows: list[dict[str, float]] = []
        self.layers: list[list[Layer]] = []
        self.step = 0
        self.seconds = 0.0
        self.tally = Tally(self.model, self.steps_per_epoch, device)

        self.writer = Writer(aside=device.type != "cpu")
        self.train_step = TrainStep(
            self.model,
            optimizer,
            augmentation,
            loss,
            self.normalize,
            device,
            precision,
            settings.clip_grad_norm,
            self.tally,
            self.average,
            seed,
            ranks,
            settings.compile,
        )

    @property
    def global_step(self) -> int:
        """How many steps of the run are made."""
        # The last epoch may be cut short by max_steps.
        return min(len(self.rows) * self.steps_per_epoch + self.step, self.steps)

    @property
    def steps_this_epoch(self) -> int:
        """How many steps the present epoch has."""
        return min(self.steps_per_epoch, self.steps - len(self.rows) * self.steps_per_epoch)

    def fit(self, run: Run | None, monitors: Sequence[Monitor], stop: StopRequest) -> str | None:
        """Train to the end, from the run's last checkpoint if it has one.

        Args:
            run: its directory; None on other ranks than 0.
            monitors: told of it all.
            stop: whether to stop; a rank that is asked to stops all.

        Returns:
            Why it ended before its last epoch; None if it didn't.

        Raises:
            Diverged: the loss became NaN or infinite.
            Interrupted: `stop` was asked for; the state is saved.
            Pruned: a monitor found the run not worth going on with.
        """
        self.run, self.monitors, self.stop = run, monitors, stop
        state = self.ranks.broadcast(run and self._last_state())
        if state is not None:
            self.load_state(state)
        if run is not None:
            self._begin()
        self._saved = time.monotonic()
        try:
            while len(self.rows) < math.ceil(self.steps / self.steps_per_epoch):
                if reason := self.settings.early_stopping.reason(self.rows):
                    return reason
                self._train_epoch()
                self._end_epoch()
        except Interrupted:
            self._inspect()
            self._save()
            raise
        finally:
            self.writer.wait()
        return None

    def _last_state(self) -> dict[str, Any] | None:
        return read_last(self._checkpoints, self.run.record.signature)

    def _begin(self) -> None:
        """Have the run directory say what the last checkpoint does."""
        best = self._best_epoch()
        settle_best(self._checkpoints, best)
        signature = self.run.record.signature
        if self.rows and (fault := fault_of_best(self._checkpoints, signature, best)):
            log.warning(
                "warning: %s can't be used (%s); unless a later epoch is better, there will be "
                "none, and only trainer.resume=false trains it anew",
                self._checkpoints / BEST, fault,
            )  # fmt: skip
        self._write_rows(self.rows, self.layers)
        self._tell("started", self.run.directory, self.global_step)

    @property
    def _checkpoints(self) -> Path:
        return self.run.directory / "checkpoints"

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on from here."""
        return {
            "signature": self.run.record.signature,
            "model": self.model.state_dict(),
            "average": self.average and self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "layers": torch.tensor(
                [[layer[1:] for layer in each] for each in self.layers], dtype=torch.float64
            ),
            "step": self.step,
            "seconds": self.seconds,
            "tally": self.tally.state_dict(self.step),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.step, self.seconds = state["rows"], state["step"], state["seconds"]
        names = self.tally.layers
        # Checkpoints of the first versions know nothing of layers.
        layers = state.get("layers", torch.full((len(self.rows), len(names), 3), math.nan))
        self.layers = [
            [Layer(name, *norms) for name, norms in zip(names, each, strict=True)]
            for each in layers.tolist()
        ]
        self.tally.load_state_dict(state.get("tally", state), self.step)
        for row in self.rows:
            self.schedule.observe(row)

    def notes(self) -> list[str]:
        """What the run has shown about its own settings, a sentence each."""
        images = sum(self._batch_images(index) for index in range(self.steps_per_epoch))
        notes = [] if self.resizing is None else self.resizing.notes(self.rows, images)
        return [*notes, *self.train_step.notes()]

    def _train_epoch(self) -> None:
        self.model.train()
        epoch = len(self.rows)
        begun = time.monotonic() - self.seconds
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.train_batches), generator=shuffle).to(self.device)
        self._inspected = self.step
        self._looked = time.monotonic()
        while self.step < self.steps_this_epoch:
            look, save = self._agree()
            first = self.step * self.settings.batch_size
            images, labels = self.train_batches.take(
                order[first : first + self.settings.batch_size]
            )
            self.train_step(
                images,
                labels,
                epoch,
                self.step,
                self.global_step,
                lr=self.schedule(self.global_step),
                size=self.resizing and self.resizing.size(epoch),
                last=self.step + 1 == self.steps_this_epoch,
            )
            self.step += 1
            self.seconds = time.monotonic() - begun
            if look or save:
                self._inspect()
            if save:
                self._save()
        self._inspect()
        self.seconds = time.monotonic() - begun

    def _agree(self) -> tuple[bool, bool]:
        """Whether to look at the steps, and to save the state, after the next step.

        Raises:
            Interrupted: a rank was asked to stop.
        """
        self._heed()
        moment = time.monotonic()
        look, save, signal = self.ranks.agree(
            self.ranks.leads and moment - self._looked > INSPECTION_SECONDS,
            self.ranks.leads
            and (moment - self._saved > CHECKPOINT_SECONDS or self.stop.endangered),
            self.stop.received or 0,
        )
        if signal:
            raise Interrupted(signal)
        return bool(look), bool(save)

    def _inspect(self) -> None:
        """Look at the steps made since the last time."""
        self._looked = time.monotonic()
        first, last = self._inspected, self.step
        if first == last:
            return
        tally = self.tally
        # Until now, each rank has those of its own shares.
        self.ranks.average(tally.losses[first:last])
        self.ranks.add(tally.correct[first:last])
        columns = (
            each[first:last].tolist() for each in (tally.losses, tally.correct, tally.grad_norms)
        )
        steps = []
        base = len(self.rows) * self.steps_per_epoch
        for index, loss, correct, norm, steepest in zip(
            range(first, last), *columns, tally.steepest(first, last), strict=True
        ):
            step = Step(
                epoch=len(self.rows) + 1,
                step=index,
                global_step=base + index,
                lr=self.schedule(base + index),
                loss=loss,
                correct=correct,
                images=self._batch_images(index),
                grad_norm=norm,
                steepest_layer=steepest[0],
                steepest_norm=steepest[1],
            )
            if not math.isfinite(loss):
                if steps:
                    self._tell("stepped", steps)
                raise self._diverged(f"the loss became {loss} in", index)
            steps.append(step)
        self._inspected = self.step
        self._tell("stepped", steps)

    def _batch_images(self, index: int) -> int:
        """How many images a step of an epoch has."""
        size = self.settings.batch_size
        return min(size, len(self.train_batches) - index * size)

    def _diverged(self, what: str, index: int) -> Diverged:
        """The error of a loss that isn't finite in, or after, a step of the present epoch."""
        # That of the step before, since in this one they are all NaN.
        layer, norm = self.tally.steepest(max(index - 1, 0), index + 1)[0]
        lr = self.schedule(len(self.rows) * self.steps_per_epoch + index)
        return Diverged(
            f"{what} epoch {len(self.rows) + 1}, step {index + 1} of "
            f"{self.steps_this_epoch}, at learning rate {lr:g} and gradient norm "
            f"{self.tally.grad_norms[index].item():g}; the largest gradient before was that of "
            f"layer {layer}, {norm:g}"
        )

    def _end_epoch(self) -> None:
        begun = time.monotonic()
        evaluated = self.average.model if self.average else self.model
        self.ranks.align(evaluated)
        logits, truth = map(
            self.ranks.collect,
            predict(evaluated, self.validation_batches, self.normalize, self.precision, self._heed),
        )
        val_loss, val_acc = cross_entropy(logits, truth), accuracy(logits, truth)
        if not math.isfinite(val_loss):
            raise self._diverged(f"the validation loss became {val_loss} after", self.step - 1)
        sizes = [self._batch_images(index) for index in range(self.step)]
        train_loss, train_acc, grad_norm = self.tally.means(sizes)
        row = {
            "epoch": len(self.rows) + 1,
            "lr": self.schedule(self.global_step - self.step),
            "train_loss": train_loss,
            "train_acc": train_acc,
            "val_loss": val_loss,
            "val_acc": val_acc,
            "grad_norm": grad_norm,
            "seconds": self.seconds + time.monotonic() - begun,
            "images_per_second": sum(sizes) / max(self.seconds, 1e-9),
        }
        # Lest clocks, or the last bits of a sum, part the ranks' decisions.
        row = self.ranks.broadcast(row)
        self.rows.append(row)
        self.layers.append(self.tally.summarize_layers(self.step))
        self.schedule.observe(row)
        self.step, self.seconds = 0, 0.0
        self._save(best=evaluated if self._best_epoch() == row["epoch"] else None)
        if self.global_step >= self.steps:
            self.writer.wait()
        self._tell("epoch_ended", row, self.layers[-1], self.global_step)

    def _heed(self) -> None:
        """Stop if that was asked for; ranks, which have to do it at one step, agree on it first."""
        if self.ranks.size == 1:
            self.stop.check()

    def _write_rows(self, rows: list[dict[str, float]], layers: list[list[Layer]]) -> None:
        write_layers(self.run.directory, layers)
        self.run.write_metrics(rows)

    def _best_epoch(self) -> int | None:
        best = best_row(self.rows)
        return best and best["epoch"]

    def _save(self, best: nn.Module | None = None) -> None:
        """Have the state written, and a model that the last epoch found to be the best."""
        if self.ranks.leads:
            states = self.state(), None if best is None else self._best_state(best)
            if self.writer.aside:
                states = copy_state(states)
            self.writer(partial(self._write, *states, [*self.layers]))
        self._saved = time.monotonic()
        if self.stop.endangered:
            self.writer.wait()
            self.stop.endangered = False
            log.warning("SIGTERM announced the end of the job: saved, and going on")

    def _best_state(self, model: nn.Module) -> dict[str, Any]:
        row = {name: self.rows[-1][name] for name in ("epoch", "val_acc", "val_loss")}
        return row | {"signature": self.run.record.signature, "model": model.state_dict()}

    def _write(
        self, state: dict[str, Any], best: dict[str, Any] | None, layers: list[list[Layer]]
    ) -> None:
        self.run.verify_lease()
        if best is not None:
            write_checkpoint(self._checkpoints / NEXT_BEST, best)
        write_last(self._checkpoints, state)
        # Only now does the run go on from here, and not from before this epoch.
        if best is not None:
            os.replace(self._checkpoints / NEXT_BEST, self._checkpoints / BEST)
        self._write_rows(state["rows"], layers)

    def _tell(self, event: str, *details: object) -> None:
        for monitor in self.monitors:
            getattr(monitor, event)(*details)
