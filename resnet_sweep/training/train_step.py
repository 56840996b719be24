"""A step of a training."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from resnet_sweep.randomness import derive_seed
from resnet_sweep.training.averaging import WeightAverage
from resnet_sweep.training.evaluation import Normalize, autocast
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.resizing import resize
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
    ) -> None:
        self.model, self.optimizer = ranks.parallel(model, device), optimizer
        self.augmentation, self.loss, self.normalize = augmentation, loss, normalize
        self.device, self.precision = device, precision
        self.clip_grad_norm = clip_grad_norm
        self.tally, self.average = tally, average
        self.seed, self.ranks = seed, ranks
        self.place = () if ranks.leads else (ranks.rank,)
        self.generator = torch.Generator(device)

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
        torch.manual_seed(derive_seed(self.seed, "model", epoch, step, *self.place))
        for operation in self.augmentation:
            images, labels = operation(images, labels, self.generator)
        batch = len(images)
        share = self.ranks.share(batch)
        images, labels = images[share], labels[share]
        if size is not None and size != images.shape[-1]:
            images = resize(images, size)
        with autocast(self.device, self.precision):
            logits = self.model(self.normalize(images))
            loss = self.ranks.weigh(self.loss(logits, labels), len(images), batch)
        self.optimizer.zero_grad()
        loss.backward()
        self.tally.count(step, loss, logits, labels)
        if self.clip_grad_norm is not None:
            norm = self.tally.grad_norms[step]
            clip_grads_with_norm_(self.tally.weights, self.clip_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        before = self.tally.copy_layers() if last else None
        self.optimizer.step()
        if before is not None:
            self.tally.count_update(before)
        if self.average:
            self.average.update(global_step + 1)
