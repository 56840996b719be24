"""A training step."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_

from resnet_sweep.randomness import derive_seed
from resnet_sweep.training.config import CompileMode
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.ema import ExponentialMovingAverage
from resnet_sweep.training.evaluation import Normalize, autocast
from resnet_sweep.training.progressive_resizing import resize
from resnet_sweep.training.step_metrics import StepMetrics


class TrainStep:
    """Augmentation, forward pass, backward pass and update.

    It doesn't wait for a GPU, except for augmentation that does (TrivialAugment).

    Args:
        model: on the device, in training mode.
        optimizer: of the model's weights; a group's `lr_scale` multiplies the learning rate.
        augmentation: operations on training batches, in order; see `resnet_sweep.augmentation`.
        loss: maps logits (B, classes) and labels, (B,) or (B, classes) if the augmentation mixes
            them, to a scalar.
        normalize: maps images to the model's input.
        device: of the model.
        precision: of the forward pass, "float32" or "bfloat16".
        clip_grad_norm: largest norm of the gradient, or None.
        metrics: stores the metrics of the step.
        ema: moving average of the weights, or None.
        seed: of the run.
        process_group: the processes that share each batch.
        compile: mode of `compile_model`; None doesn't compile.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        augmentation: Sequence[Callable[..., tuple[Tensor, Tensor]]],
        loss: Callable[[Tensor, Tensor], Tensor],
        normalize: Normalize,
        device: torch.device,
        precision: str,
        clip_grad_norm: float | None,
        metrics: StepMetrics,
        ema: ExponentialMovingAverage | None,
        seed: int,
        process_group: ProcessGroup,
        compile: CompileMode | None,
    ) -> None:
        if compile is not None:
            model = compile_model(model, compile)
        self.model = process_group.wrap(model, device)
        self.optimizer = optimizer
        self.augmentation, self.loss, self.normalize = augmentation, loss, normalize
        self.device, self.precision = device, precision
        self.clip_grad_norm = clip_grad_norm
        self.metrics, self.ema = metrics, ema
        self.seed, self.process_group = seed, process_group
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
            epoch, step, global_step: position in the run, from 0.
            lr: learning rate.
            size: of the images that the model sees; None for that of `images`.
            last: whether this is the epoch's last step, whose update is measured.
        """
        self.generator.manual_seed(derive_seed(self.seed, "augmentation", epoch, step))
        # ProcessGroup drop different features; rank 0 drops those of a run in a single process.
        rank = () if self.process_group.is_main else (self.process_group.rank,)
        torch.manual_seed(derive_seed(self.seed, "model", epoch, step, *rank))
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)

        for operation in self.augmentation:
            images, labels = operation(images, labels, self.generator)
        batch = len(images)
        share = self.process_group.share(batch)
        images, labels = images[share], labels[share]
        if size is not None and size != images.shape[-1]:
            images = resize(images, size)

        # A compiled step in a CUDA graph reuses the memory of the last gradients.
        self.optimizer.zero_grad()
        with autocast(self.device, self.precision):
            logits = self.model(self.normalize(images))
            loss = self.process_group.scale_loss(self.loss(logits, labels), len(images), batch)
        torch.autograd.backward(loss)

        grad_norm = self.metrics.update(step, loss, logits, labels)
        if self.clip_grad_norm is not None:
            clip_grads_with_norm_(self.metrics.parameters, self.clip_grad_norm, grad_norm)
        before = self.metrics.copy_layer_weights() if last else None
        self.optimizer.step()
        if before is not None:
            self.metrics.measure_update(before)
        if self.ema:
            self.ema.update(global_step + 1)


def compile_model(model: nn.Module, mode: CompileMode) -> nn.Module:
    """Return a module that runs a model's forward and backward pass compiled by `torch.compile`.

    It has the weights of `model` itself, so `model` is what is saved, averaged and evaluated.
    Compilation happens in the first step, and again in the first step of every other shape: the
    last, smaller batch of an epoch, and each size of progressive resizing. It takes seconds to
    minutes for each shape, and longest in mode "max-autotune"; other runs on the same machine read
    compiled kernels from inductor's cache on the disk.

    Dropout and stochastic depth draw the same random numbers as without compilation, so results
    differ by rounding alone.
    """
    # Models that earlier runs of this process compiled count against a limit on recompilations.
    torch.compiler.reset()
    # torch.compile takes a mode or options, and the random numbers are an option.
    options = {**torch._inductor.list_mode_options(mode), "fallback_random": True}
    compiled = torch.compile(model, dynamic=False, options=options)
    # torch declares a function, and returns a module for a module.
    assert isinstance(compiled, nn.Module)
    return compiled
