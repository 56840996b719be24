"""Parameter groups, the Muon optimizer, and the exponential moving average of weights."""

import copy
from collections.abc import Iterable, Set
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resnet_sweep.ranges import Count

# Coefficients of the quintic Newton-Schulz iteration. Few steps bring singular values near 1, but
# not exactly to 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)

Tensors = list[Tensor] | tuple[Tensor, ...]


def param_groups(
    model: nn.Module,
    decay_norm_and_bias: bool,
    backbone_lr_factor: float = 1.0,
    classifier: Set[str] | None = None,
) -> list[dict[str, Any]]:
    """Return the trained weights of a model as parameter groups for an optimizer.

    Without `decay_norm_and_bias`, biases and the weights of normalization layers are in a second
    group, with weight_decay 0 (He et al., 2019, "Bag of Tricks for Image Classification with
    Convolutional Neural Networks", section 3.1).

    Args:
        model: the model; its frozen weights are left out.
        decay_norm_and_bias: whether biases and the weights of normalization layers decay.
        backbone_lr_factor: the `lr_scale` of all weights but the classifier's.
        classifier: names of the classifier's weights; None gives all weights the same learning
            rate.
    """
    groups = _decay_groups(model, decay_norm_and_bias)
    if classifier is None:
        return groups
    head = {id(weight) for name, weight in model.named_parameters() if name in classifier}
    divided = []
    for group in groups:
        for in_head, scale in ((False, backbone_lr_factor), (True, 1.0)):
            chosen = [weight for weight in group["params"] if (id(weight) in head) == in_head]
            if chosen:
                divided.append({**group, "params": chosen, "lr_scale": scale})
    return divided


def _decay_groups(model: nn.Module, decay_norm_and_bias: bool) -> list[dict[str, Any]]:
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if decay_norm_and_bias:
        return [{"params": trained}]
    no_decay = {
        id(weight)
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))
    }
    return [
        {"params": [weight for weight in trained if id(weight) not in no_decay]},
        {"params": [weight for weight in trained if id(weight) in no_decay], "weight_decay": 0.0},
    ]


class Muon(torch.optim.Optimizer):
    """Orthogonalized momentum for the filters of convolutions, and plain SGD for other weights.

    Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks". The filters of a
    convolution are treated as a matrix with a row for each output channel, and their update is
    scaled by sqrt(max(1, rows / columns)). torch.optim.Muon does the same, but only for
    two-dimensional weights.

    Args:
        lr: learning rate of the filters.
        momentum: Nesterov momentum of all weights.
        weight_decay: weight decay. It is decoupled for the filters, and as in SGD for the other
            weights.
        rest_lr: learning rate of the weights that aren't filters: BatchNorm, biases, classifier.
        ns_steps: number of steps of the Newton-Schulz iteration.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: Annotated[float, Gt(0)] = 0.02,
        momentum: Annotated[float, Ge(0), Lt(1)] = 0.95,
        weight_decay: Annotated[float, Ge(0)] = 5e-4,
        rest_lr: Annotated[float, Gt(0)] = 0.05,
        ns_steps: Count = 5,
    ) -> None:
        params = list(params)
        groups: list[dict[str, Any]] = (
            params if isinstance(params[0], dict) else [{"params": params}]
        )
        divided = []
        for group in groups:
            # The schedule sets the learning rate of the filters. `lr_scale` keeps the other
            # learning rate proportional to it.
            for filters, scale in ((True, 1.0), (False, rest_lr / lr)):
                chosen = [weight for weight in group["params"] if (weight.ndim == 4) == filters]
                lr_scale = scale * float(group.get("lr_scale", 1.0))
                parts = {"params": chosen, "filters": filters, "lr_scale": lr_scale}
                if chosen:
                    divided.append({**group, **parts})
        super().__init__(
            divided,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "ns_steps": ns_steps},
        )

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # Without the closure, which nothing uses.
        """Update the weights by their gradients."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients: Tensors = [weight.grad for weight in weights]
            if not group["filters"] and group["weight_decay"]:
                gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            for weight in weights:
                if not self.state[weight]:
                    self.state[weight]["momentum"] = torch.zeros_like(weight)
            averages = [self.state[weight]["momentum"] for weight in weights]
            torch._foreach_mul_(averages, group["momentum"])
            torch._foreach_add_(averages, gradients)
            updates: Tensors = torch._foreach_add(gradients, averages, alpha=group["momentum"])
            if group["filters"]:
                updates = [_orthogonal_filters(update, group["ns_steps"]) for update in updates]
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, updates, alpha=-group["lr"])


def orthogonalize(matrix: Tensor, steps: int) -> Tensor:
    """Approximate the nearest (semi-)orthogonal matrix: U V' for the decomposition U S V'.

    After 5 steps of the Newton-Schulz iteration, singular values that were at least 0.002 of the
    Frobenius norm are between 0.68 and 1.21.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T.contiguous() if tall else x


def _orthogonal_filters(update: Tensor, steps: int) -> Tensor:
    """Orthogonalize filters (out, in, height, width) as a matrix, and scale the result."""
    rows = len(update)
    matrix = orthogonalize(update.reshape(rows, -1), steps)
    scale = max(1.0, rows / matrix.shape[1]) ** 0.5
    return matrix.view(update.shape).mul_(scale)


class ExponentialMovingAverage:
    """An exponential moving average of a model's weights and of BatchNorm's statistics.

    Polyak and Juditsky, 1992, "Acceleration of Stochastic Approximation by Averaging". In step t,
    counted from 1, the weight of the old average is w = min(decay, t / (t + 9)), as in TensorFlow's
    ExponentialMovingAverage. The weight of the model is 1 - w. So the first steps soon lose their
    influence.

    Attributes:
        model: copy of the model, with averaged weights.
        decay: largest weight of the old average in a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._averaged, self._averaged_counts = _tensors(self.model)
        self._trained, self._trained_counts = _tensors(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the average with the model's weights after step `step`, counted from 1."""
        weight = 1 - min(self.decay, step / (step + 9))
        torch._foreach_lerp_(self._averaged, self._trained, weight)
        if self._averaged_counts:
            torch._foreach_copy_(self._averaged_counts, self._trained_counts)


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return the tensors of a model's state: the floating ones, and the integer counters."""
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )
