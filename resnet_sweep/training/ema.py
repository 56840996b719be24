"""Exponential moving average of a model's weights."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """An exponential moving average of weights and of BatchNorm's statistics.

    Polyak and Juditsky, 1992, "Acceleration of Stochastic Approximation by Averaging". After
    step t, counted from 1, the average moves towards the model by 1 - min(decay, t / (t + 9)), as
    in TensorFlow's ExponentialMovingAverage, so that the weights of the first steps are soon
    forgotten.

    Args:
        model: its weights are the first average.
        decay: weight of the old average in each step.

    Attributes:
        model: a copy of the model, with averaged weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._averaged, self._averaged_counts = _tensors(self.model)
        self._trained, self._trained_counts = _tensors(model)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the model's weights after a step, counted from 1."""
        weight = 1 - min(self.decay, step / (step + 9))
        torch._foreach_lerp_(self._averaged, self._trained, weight)
        if self._averaged_counts:
            torch._foreach_copy_(self._averaged_counts, self._trained_counts)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from averaged weights."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Return all tensors of a model's state: floating ones, and counters."""
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )
