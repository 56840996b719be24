"""A training step, and the metrics of the steps of an epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.metrics import LayerNorms
from resnet_sweep.training.config import CompileMode, TrainerConfig
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.evaluation import Normalize, autocast
from resnet_sweep.training.optimizers import ExponentialMovingAverage
from resnet_sweep.training.progressive_resizing import resize


class StepMetrics:
    """Metrics of each step of the present epoch, kept on the device until they are read.

    Reading a number from a GPU waits for it, so only the methods that return numbers do.

    Args:
        model: the model in training.
        steps: steps in a whole epoch.

    Attributes:
        parameters: the model's trained weights.
        layers: names of the weights that have two or more dimensions: filters and matrices.
        losses: (steps,), mean loss of a batch, in training mode.
        correct: (steps,), correctly classified images of a batch; an image with a mixed label
            counts by the share of the predicted class.
        grad_norms: (steps,), Euclidean norm of the gradient of all weights, before clipping.
        layer_grad_norms: (steps, layers), of each layer's.
        update_norms: (layers,), of the change that the epoch's last step made to each layer.
    """

    SAVED = ("losses", "correct", "grad_norms", "layer_grad_norms")

    def __init__(self, model: nn.Module, steps: int, device: torch.device) -> None:
        named = [
            (name, weight) for name, weight in model.named_parameters() if weight.requires_grad
        ]
        layers = [(name, weight) for name, weight in named if weight.ndim >= 2]
        self.parameters = [weight for _, weight in named]
        self.layers = [name.removesuffix(".weight") for name, _ in layers]
        self._layer_weights: list[Tensor] = [weight for _, weight in layers]
        self._zero = torch.zeros((), device=device)
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(steps, device=device)
        self.grad_norms = torch.zeros(steps, device=device)
        self.layer_grad_norms = torch.zeros(steps, len(layers), device=device)
        self.update_norms = torch.zeros(len(layers), device=device)

    def update(self, step: int, loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Store the metrics of a step after its backward pass.

        Args:
            step: of the epoch, from 0.
            loss: a scalar.
            logits: (B, classes).
            labels: (B,), or (B, classes) as probabilities.

        Returns:
            A scalar, the norm of the gradient of all weights.
        """
        predicted = logits.detach().argmax(1)
        if labels.ndim == 1:
            correct = (predicted == labels).sum()
        else:
            correct = labels.gather(1, predicted[:, None]).sum()
        gradients = {weight: weight.grad for weight in self.parameters if weight.grad is not None}
        norms = torch._foreach_norm([*gradients.values()])
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        self.losses[step] = loss.detach()
        self.correct[step] = correct.float()
        self.grad_norms[step] = norm
        if self.layers:
            # A weight that the loss doesn't depend on has no gradient.
            found = dict(zip(gradients, norms, strict=True))
            self.layer_grad_norms[step] = torch.stack(
                [found.get(weight, self._zero) for weight in self._layer_weights]
            )
        return norm

    def copy_layer_weights(self) -> list[Tensor]:
        """Return a copy of the layers' weights, for `measure_update`."""
        return [weight.detach().clone() for weight in self._layer_weights]

    @torch.no_grad()
    def measure_update(self, before: list[Tensor]) -> None:
        """Store how far a step moved the layers' weights from what they were before it."""
        if self.layers:
            norms = torch._foreach_norm(torch._foreach_sub(self._layer_weights, before))
            self.update_norms.copy_(torch.stack(norms))

    def largest_gradients(self, first: int, last: int) -> list[tuple[str, float]]:
        """Return the layer with the largest gradient, and that gradient's norm, for each step from
        `first` up to, but not including, `last`."""
        if not self.layers:
            return [("", 0.0)] * (last - first)
        largest = self.layer_grad_norms[first:last].nan_to_num(nan=torch.inf).max(1)
        layers, norms = largest.indices.tolist(), largest.values.tolist()
        return [(self.layers[layer], norm) for layer, norm in zip(layers, norms, strict=True)]

    @torch.no_grad()
    def layer_norms(self, steps: int) -> list[LayerNorms]:
        """Return the norms of each layer at the end of an epoch of this many steps."""
        if not self.layers:
            return []
        columns = (
            self.layer_grad_norms[:steps].cpu().double().mean(0).tolist(),
            torch.stack(torch._foreach_norm(self._layer_weights)).tolist(),
            self.update_norms.tolist(),
        )
        return [LayerNorms(*values) for values in zip(self.layers, *columns, strict=True)]

    def epoch_means(self, batch_sizes: Sequence[int]) -> tuple[float, float, float]:
        """Return means over an epoch whose steps had batches of these sizes.

        Returns:
            Mean loss over the images, percent of correctly classified images, and mean norm of the
            gradient over the steps.
        """
        steps, images = len(batch_sizes), sum(batch_sizes)
        losses, correct, norms = (
            values[:steps].cpu().double() for values in (self.losses, self.correct, self.grad_norms)
        )
        loss = (losses * torch.tensor(batch_sizes)).sum().item() / images
        return loss, 100 * correct.sum().item() / images, norms.mean().item()

    def state_dict(self, steps: int) -> dict[str, Any]:
        """Return the metrics of the first `steps` steps of the epoch."""
        saved = {name: getattr(self, name)[:steps].cpu() for name in self.SAVED}
        return saved | {"update_norms": self.update_norms.cpu()}

    def load_state_dict(self, state: dict[str, Any], steps: int) -> None:
        """Continue after `steps` steps of an epoch."""
        for name in self.SAVED:
            getattr(self, name)[:steps] = state[name]
        self.update_norms[:] = state["update_norms"]


@dataclass(eq=False)
class TrainStep:
    """Augmentation, forward pass, backward pass and update.

    It doesn't wait for a GPU, except for augmentation that does (TrivialAugment).

    Attributes:
        model: on the device, in training mode; it is compiled by `config.compile`.
        optimizer: a group's `lr_scale` multiplies the learning rate.
        augmentation, loss, precision: as for `Trainer`.
        metrics: stores the metrics of the step.
        ema: updated after each step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    augmentation: Sequence[Callable[..., tuple[Tensor, Tensor]]]
    loss: Callable[[Tensor, Tensor], Tensor]
    normalize: Normalize
    config: TrainerConfig
    seed: int
    device: torch.device
    precision: str
    process_group: ProcessGroup
    metrics: StepMetrics
    ema: ExponentialMovingAverage | None

    def __post_init__(self) -> None:
        if self.config.compile is not None:
            self.model = compile_model(self.model, self.config.compile)
        self.model = self.process_group.wrap(self.model, self.device)
        self.generator = torch.Generator(self.device)

    def __call__(
        self,
        images: Tensor,
        labels: Tensor,
        epoch: int,
        step: int,
        global_step: int,
        lr: float,
        size: int,
        last: bool,
    ) -> None:
        """Train on a batch.

        Args:
            images: (B, 3, H, W), uint8; the whole batch, of which this process takes its share.
            labels: (B,), int64.
            epoch, step, global_step: position in the run, from 0.
            size: height and width to which the images are resized.
            last: whether this is the epoch's last step, whose update is measured.
        """
        self.generator.manual_seed(derive_seed(self.seed, "augmentation", epoch, step))
        # Ranks drop different features; rank 0 drops those of a run in a single process.
        rank = () if self.process_group.is_main else (self.process_group.rank,)
        torch.manual_seed(derive_seed(self.seed, "model", epoch, step, *rank))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

        for operation in self.augmentation:
            images, labels = operation(images, labels, self.generator)
        batch = len(images)
        share = self.process_group.share(batch)
        images, labels = images[share], labels[share]
        if size != images.shape[-1]:
            images = resize(images, size)

        # A compiled step in a CUDA graph reuses the memory of the last gradients.
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            logits = self.model(self.normalize(images))
            loss = self.loss(logits, labels)
        ranks = self.process_group.world_size
        if ranks > 1:
            # So that its mean over the ranks is the mean over the batch.
            loss = loss * (len(images) * ranks / batch)
        torch.autograd.backward(loss)

        grad_norm = self.metrics.update(step, loss, logits, labels)
        if self.config.clip_grad_norm is not None:
            clip_grads_with_norm_(self.metrics.parameters, self.config.clip_grad_norm, grad_norm)
        before = self.metrics.copy_layer_weights() if last else None
        self.optimizer.step()
        if before is not None:
            self.metrics.measure_update(before)
        if self.ema:
            self.ema.update(global_step + 1)


def compile_model(model: nn.Module, mode: CompileMode) -> nn.Module:
    """Return a module that runs a model's forward and backward pass compiled by `torch.compile`.

    It has the weights of `model` itself, so `model` is what is saved, averaged and evaluated.
    Compilation takes seconds to minutes in the first step of each shape: a whole batch, the last,
    smaller batch of an epoch, and each size of progressive resizing. Dropout and stochastic depth
    draw the same random numbers as without compilation, so results differ by rounding alone.
    """
    # Models that earlier runs of this process compiled count against a limit on recompilations.
    torch.compiler.reset()
    # torch.compile takes a mode or options, and the random numbers are an option.
    options = {**torch._inductor.list_mode_options(mode), "fallback_random": True}
    compiled = torch.compile(model, dynamic=False, options=options)
    # torch declares a function, and returns a module for a module.
    assert isinstance(compiled, nn.Module)
    return compiled
