"""The Muon optimizer."""

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor

from resnet_sweep.ranges import Count, Range

# Of the quintic iteration: they bring singular values near 1 in few steps, not exactly to it.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal for the filters of convolutions, and plain SGD for the rest.

    Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks". A filter bank
    counts as a matrix with a row for each output channel; its step is scaled by
    sqrt(max(1, rows / columns)). torch.optim.Muon does the same for two-dimensional weights only.

    Args:
        params: weights, or groups of them.
        lr: of the filters.
        momentum: of filters and the rest, in Nesterov's form.
        weight_decay: decoupled for the filters, as usual in SGD for the rest.
        rest_lr: of all weights that aren't filters: BatchNorm, biases, the classifier.
        ns_steps: steps of the Newton-Schulz iteration.
    """

    def __init__(
        self,
        params: Iterable,
        lr: Annotated[float, Range(above=0)] = 0.02,
        momentum: Annotated[float, Range(minimum=0, below=1)] = 0.95,
        weight_decay: Annotated[float, Range(minimum=0)] = 5e-4,
        rest_lr: Annotated[float, Range(above=0)] = 0.05,
        ns_steps: Count = 5,
    ) -> None:
        params = list(params)
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        divided = []
        for group in groups:
            for filters in (True, False):
                chosen = [weight for weight in group["params"] if (weight.ndim == 4) == filters]
                if chosen:
                    # The schedule is that of the filters; the rest keeps its distance from it.
                    scale = 1.0 if filters else rest_lr / lr
                    divided.append(
                        {**group, "params": chosen, "filters": filters, "lr_scale": scale}
                    )
        super().__init__(
            divided,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "ns_steps": ns_steps},
        )

    @torch.no_grad()
    def step(self) -> None:
        """Make a step with the gradients at hand."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            gradients = [weight.grad for weight in weights]
            if not group["filters"] and group["weight_decay"]:
                gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            averages = [self._average(weight) for weight in weights]
            torch._foreach_mul_(averages, group["momentum"])
            torch._foreach_add_(averages, gradients)
            updates = torch._foreach_add(gradients, averages, alpha=group["momentum"])
            if group["filters"]:
                updates = [orthogonal_filters(update, group["ns_steps"]) for update in updates]
                torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            if isinstance(group["lr"], Tensor):
                # As a factor among numbers, the host would have to read it.
                torch._foreach_mul_(updates, group["lr"])
                torch._foreach_sub_(weights, updates)
            else:
                torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _average(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        return state["momentum"]


def orthogonal_filters(update: Tensor, steps: int) -> Tensor:
    """An update of filters with all singular values brought near each other.

    Args:
        update: (out, in, height, width).
        steps: of the Newton-Schulz iteration.

    Returns:
        The same shape, scaled by sqrt(max(1, out / (in * height * width))).
    """
    rows = len(update)
    matrix = orthogonalize(update.reshape(rows, -1), steps)
    scale = max(1.0, rows / matrix.shape[1]) ** 0.5
    return matrix.view(update.shape).mul_(scale)


def orthogonalize(matrix: Tensor, steps: int) -> Tensor:
    """About the nearest (semi-)orthogonal matrix: U V' of a singular value decomposition U S V'.

    Args:
        matrix: (rows, columns).
        steps: of the Newton-Schulz iteration; with 5, singular values come to 0.7 to 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T.contiguous() if tall else x
