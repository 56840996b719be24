"""The training loop."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.data.batches import Batches
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.metrics import best_row
from resnet_sweep.runs.run import Run
from resnet_sweep.training.checkpoint import (
    BEST,
    NEXT_BEST,
    read_last,
    settle_best,
    write_checkpoint,
    write_last,
)
from resnet_sweep.training.evaluation import (
    Normalize,
    accuracy,
    autocast,
    cross_entropy,
    predict,
)
from resnet_sweep.training.interruption import Interrupted, StopRequest
from resnet_sweep.training.monitor import Monitor, Step
from resnet_sweep.training.settings import TrainerSettings

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

    Args:
        model: on the device.
        optimizer: of the model's weights.
        schedule: from the number of a step, counted from 0, to its learning rate.
        augmentation: operations on training batches, in order; see `resnet_sweep.augmentation`.
        loss: from logits (B, classes) and labels (B,) to a scalar.
        dataset: what is trained and validated on.
        settings: of the trainer.
        seed: of the run.
        device, precision: where, and how exactly.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        augmentation: Sequence[Callable],
        loss: Callable[[Tensor, Tensor], Tensor],
        dataset: Dataset,
        settings: TrainerSettings,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        self.schedule = schedule
        self.augmentation = augmentation
        self.loss = loss
        self.settings = settings
        self.seed = seed
        self.device = device
        self.precision = precision
        self.train_batches = Batches(dataset.train, device)
        self.validation_batches = Batches(dataset.validation, device)
        self.normalize = Normalize(dataset.mean, dataset.std, device)
        self.generator = torch.Generator(device)

        self.steps_per_epoch = steps_per_epoch(len(dataset.train), settings)
        self.steps = settings.epochs * self.steps_per_epoch
        if settings.max_steps is not None:
            self.steps = min(self.steps, settings.max_steps)

        # Where the training is: the epochs behind it, and the steps of the present one.
        self.rows: list[dict[str, float]] = []
        self.step = 0
        self.seconds = 0.0
        # Of each step of the present epoch, on the device.
        self.losses = torch.zeros(self.steps_per_epoch, device=device)
        self.grad_norms = torch.zeros(self.steps_per_epoch, device=device)
        self.correct = torch.zeros(self.steps_per_epoch, device=device, dtype=torch.int64)

    @property
    def global_step(self) -> int:
        """How many steps of the run are made."""
        return len(self.rows) * self.steps_per_epoch + self.step

    @property
    def steps_this_epoch(self) -> int:
        """How many steps the present epoch has; the last may be cut short by max_steps."""
        return min(self.steps_per_epoch, self.steps - len(self.rows) * self.steps_per_epoch)

    def fit(self, run: Run, monitors: Sequence[Monitor], stop: StopRequest) -> None:
        """Train to the end, from the run's last checkpoint if it has one.

        Raises:
            Diverged: the loss became NaN or infinite.
            Interrupted: `stop` was asked for; the state is saved.
        """
        self.run, self.monitors, self.stop = run, monitors, stop
        self.checkpoints = run.directory / "checkpoints"
        state = read_last(self.checkpoints, run.record.signature)
        if state is not None:
            self.load_state(state)
        settle_best(self.checkpoints, self._best_epoch())
        if self.rows and not (self.checkpoints / BEST).exists():
            log.warning(
                "warning: %s is gone; unless a later epoch is better, there will be none, and only "
                "trainer.resume=false trains it anew", self.checkpoints / BEST,
            )  # fmt: skip
        run.write_metrics(self.rows)
        self._tell("started", run.directory, self.global_step)
        self._saved = time.monotonic()
        try:
            while len(self.rows) < math.ceil(self.steps / self.steps_per_epoch):
                self._train_epoch()
                self._end_epoch()
        except Interrupted:
            self._inspect()
            self._save()
            raise

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to go on from here."""
        return {
            "signature": self.run.record.signature,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses[: self.step].cpu(),
            "grad_norms": self.grad_norms[: self.step].cpu(),
            "correct": self.correct[: self.step].cpu(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.step, self.seconds = state["rows"], state["step"], state["seconds"]
        for name in ("losses", "grad_norms", "correct"):
            getattr(self, name)[: self.step] = state[name]

    def _train_epoch(self) -> None:
        self.model.train()
        epoch = len(self.rows)
        begun = time.monotonic() - self.seconds
        shuffle = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.train_batches), generator=shuffle).to(self.device)
        self._inspected = self.step
        self._looked = time.monotonic()
        while self.step < self.steps_this_epoch:
            self.stop.check()
            first = self.step * self.settings.batch_size
            self._train_step(order[first : first + self.settings.batch_size])
            self.step += 1
            moment = time.monotonic()
            self.seconds = moment - begun
            if moment - self._looked > INSPECTION_SECONDS:
                self._inspect()
            if moment - self._saved > CHECKPOINT_SECONDS:
                self._inspect()
                self._save()
        self._inspect()
        self.seconds = time.monotonic() - begun

    def _train_step(self, positions: Tensor) -> None:
        epoch = len(self.rows)
        images, labels = self.train_batches.take(positions)
        self.generator.manual_seed(derive_seed(self.seed, "augmentation", epoch, self.step))
        torch.manual_seed(derive_seed(self.seed, "model", epoch, self.step))
        for operation in self.augmentation:
            images, labels = operation(images, labels, self.generator)
        with autocast(self.device, self.precision):
            logits = self.model(self.normalize(images))
            loss = self.loss(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        self.losses[self.step] = loss.detach()
        self.correct[self.step] = (logits.detach().argmax(1) == labels).sum()
        self.grad_norms[self.step] = torch.nn.utils.get_total_norm(gradients)
        lr = self.schedule(self.global_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()

    def _inspect(self) -> None:
        """Look at the steps made since the last time."""
        self._looked = time.monotonic()
        recent = slice(self._inspected, self.step)
        if recent.start == recent.stop:
            return
        columns = (each[recent].tolist() for each in (self.losses, self.correct, self.grad_norms))
        steps = []
        base = len(self.rows) * self.steps_per_epoch
        for index, loss, correct, norm in zip(
            range(recent.start, recent.stop), *columns, strict=True
        ):
            lr = self.schedule(base + index)
            if not math.isfinite(loss):
                raise Diverged(
                    f"the loss became {loss} in epoch {len(self.rows) + 1}, step {index + 1} of "
                    f"{self.steps_this_epoch}, at learning rate {lr:g} and gradient norm {norm:g}"
                )
            steps.append(
                Step(
                    epoch=len(self.rows) + 1,
                    step=index,
                    global_step=base + index,
                    lr=lr,
                    loss=loss,
                    correct=correct,
                    images=self._batch_images(index),
                    grad_norm=norm,
                )
            )
        self._inspected = self.step
        self._tell("stepped", steps)

    def _batch_images(self, index: int) -> int:
        """How many images a step of an epoch has."""
        size = self.settings.batch_size
        return min(size, len(self.train_batches) - index * size)

    def _end_epoch(self) -> None:
        begun = time.monotonic()
        logits, truth = predict(
            self.model, self.validation_batches, self.normalize, self.precision, self.stop.check
        )
        val_loss, val_acc = cross_entropy(logits, truth), accuracy(logits, truth)
        if not math.isfinite(val_loss):
            raise Diverged(
                f"the validation loss became {val_loss} after epoch {len(self.rows) + 1}, step "
                f"{self.step} of {self.steps_this_epoch}, at learning rate "
                f"{self.schedule(self.global_step - 1):g} and gradient norm "
                f"{self.grad_norms[self.step - 1].item():g}"
            )
        sizes = torch.tensor([self._batch_images(index) for index in range(self.step)])
        images = int(sizes.sum())
        losses = self.losses[: self.step].cpu().double()
        row = {
            "epoch": len(self.rows) + 1,
            "lr": self.schedule(self.global_step - self.step),
            "train_loss": (losses * sizes).sum().item() / images,
            "train_acc": 100 * int(self.correct[: self.step].sum()) / images,
            "val_loss": val_loss,
            "val_acc": val_acc,
            "grad_norm": self.grad_norms[: self.step].cpu().double().mean().item(),
            "seconds": self.seconds + time.monotonic() - begun,
            "images_per_second": images / max(self.seconds, 1e-9),
        }
        self.rows.append(row)
        improved = self._best_epoch() == row["epoch"]
        if improved:
            best = {name: row[name] for name in ("epoch", "val_acc", "val_loss")}
            best |= {"signature": self.run.record.signature, "model": self.model.state_dict()}
            write_checkpoint(self.checkpoints / NEXT_BEST, best)
        self.step, self.seconds = 0, 0.0
        self._save()
        # Only now does the run go on from here, and not from before this epoch.
        if improved:
            os.replace(self.checkpoints / NEXT_BEST, self.checkpoints / BEST)
        self.run.write_metrics(self.rows)
        self._tell("epoch_ended", row, self.global_step)

    def _best_epoch(self) -> int | None:
        best = best_row(self.rows)
        return best and best["epoch"]

    def _save(self) -> None:
        self.run.verify_lease()
        write_last(self.checkpoints, self.state())
        self._saved = time.monotonic()

    def _tell(self, event: str, *details: object) -> None:
        for monitor in self.monitors:
            getattr(monitor, event)(*details)
