"""The training loop."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat, takewhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from resnet_sweep.data.dataset import Batches, Dataset
from resnet_sweep.protocols import Augmentation, Loss, ValidationMetric
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.metrics import LayerNorms, average_metrics
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks import Callback, Step
from resnet_sweep.training.checkpoint import RunCheckpoints
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.device import compile_model
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.evaluation import Normalize, accuracy, autocast, cross_entropy, predict
from resnet_sweep.training.fine_tuning import frozen_modules
from resnet_sweep.training.metrics import evaluate_metric
from resnet_sweep.training.optimizers import ExponentialMovingAverage
from resnet_sweep.training.progressive_resizing import ProgressiveResizing, resize
from resnet_sweep.training.schedules import Schedule
from resnet_sweep.training.signals import Interrupted, StopSignal
from resnet_sweep.training.step_metrics import StepMetrics

# Seconds between two calls of `Callback.on_steps`. The metrics are read before a call, and this
# blocks until a GPU has computed them.
REPORT_SECONDS = 0.5
# Seconds between two checkpoints within an epoch. A killed run loses about this much training.
CHECKPOINT_SECONDS = 300
# The run gets a note if its val_loss is more than this factor times the loss of random guessing,
# and its val_acc is low.
UNTRAINED_LOSS_RATIO = 10

log = logging.getLogger(__name__)


class Diverged(Exception):
    """The loss became NaN or infinite."""


def steps_per_epoch(images: int, config: TrainerConfig) -> int:
    """Return the number of steps in an epoch with this number of training images."""
    whole, rest = divmod(images, config.batch_size)
    return whole if config.drop_last else whole + bool(rest)


def total_steps(images: int, config: TrainerConfig) -> int:
    """Return the number of steps in a run with this number of training images."""
    steps = config.epochs * steps_per_epoch(images, config)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def number_of_epochs(images: int, config: TrainerConfig) -> int:
    """Return the number of epochs in a run; the last one may have fewer steps."""
    return math.ceil(total_steps(images, config) / steps_per_epoch(images, config))


@dataclass(eq=False, repr=False)
class Trainer:
    """Trains a model, evaluates it after each epoch, and saves checkpoints.

    Random numbers depend only on the seed, the epoch, the step and the rank. All other state is in
    the checkpoint. So on a CPU, a run that is stopped anywhere and resumed is equal, bit for bit,
    to a run that was never stopped.

    Several processes can train one model together, each on a share of every batch. Only rank 0 has
    the run directory. The clock of rank 0 decides when all ranks report steps and save checkpoints.

    Attributes:
        model: the model, on the device.
        optimizer: the optimizer; the `lr_scale` of a parameter group multiplies the learning rate.
        augmentation: operations on training batches.
        precision: precision of the forward pass, "float32" or "bfloat16".
        starting_weights: returns weights that replace those of the model before the first step, by
            their names; None keeps all. A resumed run doesn't call it.
        metrics: further metrics of the validation images, by their columns in `metrics.csv`.
        augmentation_epochs: for each operation, in how many of the first epochs it is applied; an
            operation without an entry is applied in every epoch.
        epoch_keys: the key of each epoch, see `resnet_sweep.config.epoch_keys`; may be empty.
        rows: metrics of the epochs so far, one row of `metrics.csv` per epoch.
        layers: for each epoch so far and each layer, the entries of `LayerNorms` except the name.
        step: number of steps of the current epoch that are done.
        seconds: time that these steps took.
        total_steps: number of steps in the run.
        emas: averages of the weights, one for each decay in `config.ema_decay`.
        evaluated: the model that is evaluated and saved as the best. It has the weights of the
            first average if there is one, and is `model` otherwise.
        wrapped_model: `model` for the forward pass, compiled if `config.compile` is set. With
            several processes, its backward pass averages the gradients over them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    augmentation: Sequence[Augmentation]
    loss: Loss
    dataset: Dataset
    config: TrainerConfig
    seed: int
    device: torch.device
    precision: str
    process_group: ProcessGroup
    starting_weights: Callable[[], Mapping[str, Tensor]] | None = None
    metrics: Mapping[str, ValidationMetric] = field(default_factory=dict)
    augmentation_epochs: Sequence[int] = ()
    epoch_keys: Sequence[str] = ()

    def __post_init__(self) -> None:
        config, dataset = self.config, self.dataset
        self.model = self.model.to(memory_format=torch.channels_last)
        self.train_batches = Batches(dataset.train, self.device)
        indices = dataset.validation.indices
        share = replace(dataset.validation, indices=indices[self.process_group.share(len(indices))])
        self.validation_batches = Batches(share, self.device)
        self.normalize = Normalize(dataset.mean, dataset.std, self.device)

        self.steps_per_epoch = steps_per_epoch(len(dataset.train), config)
        self.total_steps = total_steps(len(dataset.train), config)
        self.epochs = number_of_epochs(len(dataset.train), config)
        self.progressive_resizing = ProgressiveResizing(
            config.progressive_resizing or [dataset.train.images.shape[-1]], config.epochs
        )

        self.rows: list[dict[str, float]] = []
        self.layers: list[list[tuple[float, ...]]] = []
        self.step = 0
        self.seconds = 0.0
        self.frozen_modules = frozen_modules(self.model)
        self.step_metrics = StepMetrics(self.model, self.steps_per_epoch, self.device)
        self.emas = [ExponentialMovingAverage(self.model, decay) for decay in config.ema_decays]
        self.evaluated = self.emas[0].model if self.emas else self.model
        # On a CPU, a writing thread would only slow down training.
        self.saves_in_thread = self.device.type != "cpu"
        compiled = compile_model(self.model, config.compile) if config.compile else self.model
        self.wrapped_model = self.process_group.wrap(compiled, self.device)
        self.generator = torch.Generator(self.device)

    @property
    def global_step(self) -> int:
        """Number of steps of the run that are done."""
        # With max_steps, the last epoch may have fewer steps.
        return min(len(self.rows) * self.steps_per_epoch + self.step, self.total_steps)

    @property
    def steps_this_epoch(self) -> int:
        """Number of steps in the current epoch."""
        return min(self.steps_per_epoch, self.total_steps - len(self.rows) * self.steps_per_epoch)

    def fit(self, run: Run | None, callbacks: Sequence[Callback], stop: StopSignal) -> str | None:
        """Train to the end, starting from a checkpoint if `RunCheckpoints.load` finds one.

        Args:
            run: the run; None on all ranks but rank 0.
            callbacks: callbacks, which are called in this order.
            stop: receives the signals that stop the run. A signal to one rank stops all ranks.

        Returns:
            The reason if the run was stopped early, or None.

        Raises:
            Diverged: the loss became NaN or infinite.
            Interrupted: a signal stopped the run; its state is saved.
            Pruned: a callback ended the run.
        """
        self.callbacks, self.stop = callbacks, stop
        layers, in_thread = self.step_metrics.layers, self.saves_in_thread
        data = self.dataset.description
        self.checkpoints = None if run is None else RunCheckpoints(run, layers, in_thread, data)
        keys, stopping = self.epoch_keys, self.config.early_stopping
        saved = self.checkpoints and self.checkpoints.load(keys, stopping)
        state = self.process_group.broadcast(saved)
        if state is not None:
            self.load_state_dict(state)
        elif self.starting_weights is not None:
            self._load_starting_weights(self.starting_weights)
        if run is not None:
            for callback in callbacks:
                callback.on_train_start(run.directory, self.global_step)
                callback.train_started = True
        self._saved = time.monotonic()
        try:
            for epoch in range(len(self.rows), self.epochs):
                if reason := self.config.early_stopping.reason(self.rows):
                    return reason
                self.model.train()
                for module in self.frozen_modules:
                    module.eval()
                for images, labels in self.train_batches.each(self._remaining_batches(epoch)):
                    report_due, checkpoint_due = self._poll()
                    self.train_step(images, labels)
                    self.step += 1
                    if report_due or checkpoint_due:
                        self._report_steps()
                    if checkpoint_due:
                        self._save_checkpoint()
                self._report_steps()
                layer_norms = self._evaluate()
                self._save_checkpoint()
                for callback in callbacks:
                    callback.on_epoch_end(self.rows[-1], layer_norms, self.global_step)
        except Interrupted:
            self._report_steps()
            self._save_checkpoint()
            raise
        finally:
            if self.checkpoints is not None:
                self.checkpoints.wait()
        return None

    def _load_starting_weights(self, read: Callable[[], Mapping[str, Tensor]]) -> None:
        """Load the weights that rank 0 reads on all ranks."""
        weights = self.process_group.broadcast(read() if self.process_group.is_main else None)
        self.model.load_state_dict(weights, strict=False)
        for ema in self.emas:
            ema.model.load_state_dict(self.model.state_dict())

    def _remaining_batches(self, epoch: int) -> Iterator[Tensor]:
        """Yield the indices of the training images for each remaining step of an epoch."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.train_batches), generator=generator)
        order = order.to(self.train_batches.indices.device)
        self._reported = self.step
        self._reported_time = time.monotonic()
        self._epoch_start = self._reported_time - self.seconds
        for step in range(self.step, self.steps_this_epoch):
            first = step * self.config.batch_size
            yield order[first : first + self.config.batch_size]

    def _poll(self) -> tuple[bool, bool]:
        """Return whether to report steps, and whether to save a checkpoint, after the next step.

        Raises:
            Interrupted: a rank received a signal.
        """
        now, main = time.monotonic(), self.process_group.is_main
        report, checkpoint, signal = self.process_group.all_reduce_max(
            main and now - self._reported_time > REPORT_SECONDS,
            main and (now - self._saved > CHECKPOINT_SECONDS or self.stop.checkpoint_requested),
            self.stop.received or 0,
        )
        if signal:
            raise Interrupted(signal)
        return bool(report), bool(checkpoint)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        """Train one step: augmentation, forward pass, backward pass and update.

        The CPU doesn't wait for a GPU in this method, except in the augmentation TrivialAugment.

        Args:
            images: (B, C, H, W), uint8; the whole batch. This process uses only its share.
            labels: (B,), int64.
        """
        epoch, metrics = len(self.rows), self.step_metrics
        process_group = self.process_group
        self.generator.manual_seed(derive_seed(self.seed, "augmentation", epoch, self.step))
        # Each rank seeds its dropout masks differently. Rank 0 has the seed of a single process.
        rank = () if process_group.is_main else (process_group.rank,)
        torch.manual_seed(derive_seed(self.seed, "model", epoch, self.step, *rank))
        lr = self.schedule(self.global_step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

        for operation in self._operations(epoch):
            images, labels = operation(images, labels, self.generator)
        batch = len(images)
        share = process_group.share(batch)
        images, labels = images[share], labels[share]
        width = self.progressive_resizing.size(epoch)
        if width != images.shape[-1]:
            images = resize(images, width)

        # Gradients are cleared before the forward pass, because a CUDA graph reuses their memory in
        # every step.
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            logits = self.wrapped_model(self.normalize(images))
            loss = self.loss(logits, labels)
        if process_group.world_size > 1:
            # With this factor, the mean over the ranks is the mean over the batch, even if the
            # shares differ in size.
            loss = loss * (len(images) * process_group.world_size / batch)
        torch.autograd.backward(loss)

        grad_norm = metrics.update(self.step, loss, logits, labels)
        if self.config.clip_grad_norm is not None:
            clip_grads_with_norm_(metrics.parameters, self.config.clip_grad_norm, grad_norm)
        is_last = self.step + 1 == self.steps_this_epoch
        before = metrics.copy_layer_weights() if is_last else None
        self.optimizer.step()
        if before is not None:
            metrics.measure_update(before)
        for ema in self.emas:
            ema.update(self.global_step + 1)

    def _operations(self, epoch: int) -> Iterator[Augmentation]:
        """Yield the augmentation operations that are applied in an epoch, counted from 0."""
        limits = chain(self.augmentation_epochs, repeat(self.epochs))
        for operation, epochs in zip(self.augmentation, limits, strict=False):
            if epoch < epochs:
                yield operation

    def _report_steps(self) -> None:
        """Call the callbacks with the steps since the last report.

        Raises:
            Diverged: the loss of a step isn't finite.
        """
        self._reported_time = time.monotonic()
        if self._reported == self.step:
            return
        steps = self._read_steps(self._reported, self.step)
        finite = list(takewhile(lambda step: math.isfinite(step.loss), steps))
        self._reported += len(finite)
        if finite:
            for callback in self.callbacks:
                callback.on_steps(finite)
        if len(finite) < len(steps):
            loss = steps[len(finite)].loss
            raise self._divergence_error(
                f"the loss became {loss} in", self._reported, self._reported - 1
            )
        # This time includes the work of a GPU, because reading the metrics waited for it to end.
        self.seconds = time.monotonic() - self._epoch_start

    def _read_steps(self, first: int, last: int) -> list[Step]:
        """Read the metrics of the steps from `first` up to, but not including, `last`."""
        metrics = self.step_metrics
        losses, counts = metrics.losses[first:last], metrics.correct[first:last]
        # Each rank has measured only its own shares of the batches.
        self.process_group.all_reduce_sum(losses)
        self.process_group.all_reduce_sum(counts)
        losses /= self.process_group.world_size
        columns = (
            losses.tolist(),
            counts.tolist(),
            metrics.grad_norms[first:last].tolist(),
            *metrics.largest_gradients(first, last),
        )
        start = len(self.rows) * self.steps_per_epoch
        return [
            Step(
                *values,
                epoch=len(self.rows) + 1,
                step=step,
                global_step=start + step,
                lr=self.schedule(start + step),
                images=self._images_in(step),
            )
            for step, values in enumerate(zip(*columns, strict=True), first)
        ]

    def _images_in(self, step: int) -> int:
        """Return the number of images in a step of an epoch."""
        size = self.config.batch_size
        return min(size, len(self.train_batches) - step * size)

    def _divergence_error(self, what: str, step: int, finite: int) -> Diverged:
        """Return the error for a loss that isn't finite.

        Args:
            what: the start of the message, up to the epoch and the step.
            step: number of the step in the current epoch, from 0.
            finite: number of the last step of the epoch whose loss is finite; -1 if there is none.
        """
        lr = self.schedule(len(self.rows) * self.steps_per_epoch + step)
        message = (
            f"{what} epoch {len(self.rows) + 1}, step {step + 1} of {self.steps_this_epoch}, at "
            f"learning rate {lr:g} and gradient norm {self.step_metrics.grad_norms[step].item():g}"
        )
        if finite >= 0:
            (layer,), (norm,) = self.step_metrics.largest_gradients(finite, finite + 1)
            message += f"; before it, layer {layer} had the largest gradient, with norm {norm:g}"
        return Diverged(message)

    def _evaluate(self) -> list[LayerNorms]:
        """Evaluate the model after an epoch, add the row of metrics, and reset the step counters.

        Returns:
            Norms of each layer in the epoch.

        Raises:
            Diverged: the validation loss isn't finite.
        """
        start = time.monotonic()
        logits, labels = self._predict(self.evaluated)
        val_loss, val_acc = cross_entropy(logits, labels), accuracy(logits, labels)
        if not math.isfinite(val_loss):
            raise self._divergence_error(
                f"the validation loss became {val_loss} after", self.step - 1, self.step - 1
            )
        batch_sizes = [self._images_in(step) for step in range(self.step)]
        train_loss, train_acc, grad_norm = self.step_metrics.epoch_means(batch_sizes)
        further = {
            column: evaluate_metric(metric, logits, labels)
            for column, metric in self.metrics.items()
        }
        for ema in self.emas[1:]:
            averaged_loss, averaged_accuracy = average_metrics(ema.decay)
            logits, labels = self._predict(ema.model)
            further[averaged_loss.column] = cross_entropy(logits, labels)
            further[averaged_accuracy.column] = accuracy(logits, labels)
        row = {
            "epoch": len(self.rows) + 1,
            "lr": self.schedule(self.global_step - self.step),
            "train_loss": train_loss,
            "train_acc": train_acc,
            "val_loss": val_loss,
            "val_acc": val_acc,
            "grad_norm": grad_norm,
            "seconds": self.seconds + time.monotonic() - start,
            "images_per_second": sum(batch_sizes) / max(self.seconds, 1e-9),
            **further,
        }
        # All ranks use the row of rank 0. Their own rows differ in time and rounding, so the ranks
        # could choose different learning rates, or stop after different epochs.
        row = self.process_group.broadcast(row)
        self.rows.append(row)
        layer_norms = self.step_metrics.layer_norms(self.step)
        self.layers.append([layer[1:] for layer in layer_norms])
        self.schedule.observe(row)
        self.step, self.seconds = 0, 0.0
        return layer_norms

    def _predict(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return the logits of a model and the labels for the validation images; see `predict`."""
        self.process_group.broadcast_buffers(model)
        # A signal doesn't stop the evaluation on several ranks. They must all stop at the same
        # step, and `_poll` chooses it.
        single = self.process_group.world_size == 1
        shares = predict(
            model,
            self.validation_batches,
            self.normalize,
            self.precision,
            check=self.stop.raise_if_stopped if single else None,
        )
        logits, labels = (torch.cat(self.process_group.all_gather(share)) for share in shares)
        return logits, labels

    def _save_checkpoint(self) -> None:
        self._saved = time.monotonic()
        if self.checkpoints is None:
            return
        self.checkpoints.save(self.state_dict())
        if self.stop.checkpoint_requested:
            self.checkpoints.wait()
            self.stop.checkpoint_requested = False
            log.warning("received SIGTERM: saved a checkpoint, and training continues")
        elif self.global_step >= self.total_steps:
            self.checkpoints.wait()

    @property
    def epoch_key(self) -> str | None:
        """The key of the last epoch that is complete; None if there is none."""
        return self.epoch_keys[len(self.rows) - 1] if self.epoch_keys and self.rows else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state from which `load_state_dict` can continue."""
        return {
            "model": self.model.state_dict(),
            "emas": {ema.decay: ema.model.state_dict() for ema in self.emas},
            "optimizer": self.optimizer.state_dict(),
            "epoch_key": self.epoch_key,
            "rows": [*self.rows],
            "layers": torch.tensor(self.layers, dtype=torch.float64),
            "step": self.step,
            "seconds": self.seconds,
            "step_metrics": self.step_metrics.state_dict(self.step),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        for ema in self.emas:
            ema.model.load_state_dict(state["emas"][ema.decay])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.step, self.seconds = state["rows"], state["step"], state["seconds"]
        self.layers = state["layers"].tolist()
        self.step_metrics.load_state_dict(state["step_metrics"], self.step)
        for row in self.rows:
            self.schedule.observe(row)

    def notes(self) -> list[str]:
        """Return remarks about the run, derived from its metrics; each is one sentence."""
        images = sum(self._images_in(step) for step in range(self.steps_per_epoch))
        notes = self.progressive_resizing.notes(self.rows, images)
        last, classes = self.rows[-1], self.dataset.num_classes
        loss, accuracy = math.log(classes), 100 / classes
        if last["val_loss"] > UNTRAINED_LOSS_RATIO * loss and last["val_acc"] < 1.5 * accuracy:
            notes.append(
                f"the last epoch has val_loss {last['val_loss']:.4g} and val_acc "
                f"{last['val_acc']:.2f}%, and random guessing would have {loss:.2f} and "
                f"{accuracy:.2f}%: the model has learned nothing, so choose a lower optim.lr"
            )
        return notes
