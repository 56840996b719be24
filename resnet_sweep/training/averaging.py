"""An average of a model's weights over the steps of its training."""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of weights and of BatchNorm's statistics.

    Polyak and Juditsky, 1992, "Acceleration of Stochastic Approximation by Averaging". After
    step t, counted from 1, the average moves to the model by 1 - min(decay, t / (t + 9)), as in
    TensorFlow's ExponentialMovingAverage: the first steps, where all is still changing, are soon
    forgotten.

    Args:
        model: whose first weights are the first average.
        decay: what the average keeps of itself at each step.

    Attributes:
        model: a model of its own that has the average for weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self._averaged, self._averaged_counts = _tensors(self.model)
        self._trained, self._trained_counts = _tensors(model)

    def weight(self, step: int) -> float:
        """What the model's weights count for after a step, counted from 1."""
        return 1 - min(self.decay, step / (step + 9))

    @torch.no_grad()
    def update(self, weight: float | Tensor) -> None:
        """Take in the model's weights.

        Args:
            weight: what they count for; or a scalar on their device.
        """
        if isinstance(weight, Tensor):
            changes = torch._foreach_sub(self._trained, self._averaged)
            torch._foreach_mul_(changes, weight)
            torch._foreach_add_(self._averaged, changes)
        else:
            torch._foreach_lerp_(self._averaged, self._trained, weight)
        if self._averaged_counts:
            torch._foreach_copy_(self._averaged_counts, self._trained_counts)

    def state_dict(self) -> dict[str, Any]:
        """The average, for `load_state_dict`."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from an average."""
        self.model.load_state_dict(state)


def _tensors(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """All tensors of a model's state: those that can be averaged, and the counts."""
    tensors = [*model.parameters(), *model.buffers()]
    return (
        [tensor for tensor in tensors if tensor.is_floating_point()],
        [tensor for tensor in tensors if not tensor.is_floating_point()],
    )
