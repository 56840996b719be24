"""A step of a training."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.record import duration
from resnet_sweep.training.averaging import WeightAverage
from resnet_sweep.training.evaluation import Normalize, autocast
from resnet_sweep.training.learning_rate import LearningRate
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.resizing import resize
from resnet_sweep.training.step_graphs import CudaRecorder, Recorder, StepGraphs
from resnet_sweep.training.tally import Tally


class TrainStep:
    """Augmentation, forward pass, backward pass and update.

    None of it waits for the device, but for augmentation that does (TrivialAugment).

    Args:
        model: on the device, in training mode.
        optimizer: of the model's weights; a group's `lr_scale` multiplies the learning rate.
        augmentation: operations on training batches, in order; see `resnet_sweep.augmentation`.
        loss: from logits (B, classes) and labels, (B,) or (B, classes) if the augmentation mixes
            them, to a scalar.
        normalize: from images to the model's input.
        device, precision: where, and how exactly.
        clip_grad_norm: longest gradient, or None.
        tally: what the step measures goes there.
        average: of the weights, or None.
        seed: of the run.
        ranks: the processes that share each batch.
        compile: "none", "graph" or "max", as `TrainerSettings` has it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        augmentation: Sequence[Callable],
        loss: Callable[[Tensor, Tensor], Tensor],
        normalize: Normalize,
        device: torch.device,
        precision: str,
        clip_grad_norm: float | None,
        tally: Tally,
        average: WeightAverage | None,
        seed: int,
        ranks: Ranks,
        compile: str,
    ) -> None:
        self.model, self.optimizer = ranks.parallel(model, device), optimizer
        self.augmentation, self.loss, self.normalize = augmentation, loss, normalize
        self.device, self.precision = device, precision
        self.clip_grad_norm = clip_grad_norm
        self.tally, self.average = tally, average
        self.seed, self.ranks = seed, ranks
        self.generator = torch.Generator(device)
        # The numbers that a step is told are in the device's memory wherever steps can be
        # recorded, so that a recorded step reads new ones, and makes of them what others do.
        on_device = device.type == "cuda" or compile != "none"
        self.rate = LearningRate(optimizer, device, on_device)
        self.place = torch.zeros(1, dtype=torch.int64, device=device) if on_device else None
        self.weight = torch.zeros((), device=device) if on_device else None
        self.graphs = None if compile == "none" else StepGraphs(self._recorder())
        self.augments_first = self.graphs is not None and not all(
            getattr(operation, "recordable", True) for operation in augmentation
        )
        self.recorded_model = compile_model(model) if compile == "max" else self.model

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: int,
        step: int,
        global_step: int,
        lr: float,
        size: int | None,
        last: bool,
    ) -> None:
        """Train on a batch.

        Args:
            images: (B, 3, H, W), uint8; the whole batch, of which this process takes its share.
            labels: (B,), int64.
            epoch, step, global_step: where in the run this is, from 0.
            lr: learning rate.
            size: of the images that the model is to see; None for that of `images`.
            last: whether this is the epoch's last step, whose update is measured.
        """
        self.generator.manual_seed(derive_seed(self.seed, "augmentation", epoch, step))
        # Each rank drops other features; the first, those of a process that is alone.
        others = () if self.ranks.leads else (self.ranks.rank,)
        torch.manual_seed(derive_seed(self.seed, "model", epoch, step, *others))
        self.rate.set(lr)
        place = step if self.place is None else self.place.fill_(step)
        weight = None
        if self.average:
            weight = self.average.weight(global_step + 1)
            weight = weight if self.weight is None else self.weight.fill_(weight)
        if self.augments_first:
            images, labels = self._augment(images, labels)
        # An epoch's last step is made for itself: it measures more, of a smaller batch often.
        if self.graphs is None or last:
            self._make(images, labels, place, weight, size, self.model, last)
        else:
            step = partial(
                self._make, place=place, weight=weight, size=size, model=self.recorded_model,
                last=False,
            )  # fmt: skip
            self.graphs(step, images, labels, size)

    def notes(self) -> list[str]:
        """What recording took, a sentence if there was any."""
        if self.graphs is None:
            return []
        return [
            f"{duration(self.graphs.seconds)} of its time went into the first steps and their "
            "recording (trainer.compile)"
        ]

    def _recorder(self) -> Recorder:
        return CudaRecorder(self.device, self.generator)

    def _augment(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        for operation in self.augmentation:
            images, labels = operation(images, labels, self.generator)
        return images, labels

    def _make(
        self,
        images: Tensor,
        labels: Tensor,
        place: int | Tensor,
        weight: float | Tensor | None,
        size: int | None,
        model: nn.Module,
        last: bool,
    ) -> None:
        """What is recorded of a step: it reads nothing that changes but from the device's memory.

        Args:
            images, labels: as for a call.
            place: of the step in its epoch; or (1,), on the device.
            weight: that the model's weights have for the average; or a scalar on the device.
            size, last: as for a call.
            model: the model, or what was compiled of it.
        """
        if not self.augments_first:
            images, labels = self._augment(images, labels)
        batch = len(images)
        share = self.ranks.share(batch)
        images, labels = images[share], labels[share]
        if size is not None and size != images.shape[-1]:
            images = resize(images, size)
        with autocast(self.device, self.precision):
            logits = model(self.normalize(images))
            loss = self.ranks.weigh(self.loss(logits, labels), len(images), batch)
        self.optimizer.zero_grad()
        loss.backward()
        norm = self.tally.count(place, loss, logits, labels)
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(self.tally.weights, self.clip_grad_norm, norm)
        before = self.tally.copy_layers() if last else None
        self.optimizer.step()
        if before is not None:
            self.tally.count_update(before)
        if self.average:
            self.average.update(weight)


def compile_model(model: nn.Module) -> nn.Module:
    """What torch compiles of a model, when it is first called, with the model's own weights.

    What inductor makes of it stays in its cache on the disk, for the other jobs of a sweep.
    """
    # Models compiled before, by other jobs of this process, count against a limit on variants.
    torch.compiler.reset()
    # Random numbers as without compilation; each shape is a program of its own.
    return torch.compile(model, dynamic=False, options={"fallback_random": True})
