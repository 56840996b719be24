"""Stochastic depth."""

import torch
from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """In training, zeros in place of some images' residuals, chosen anew for each image and step.

    Huang et al., "Deep Networks with Stochastic Depth", 2016, equation 2. The residuals that are
    left grow by 1 / (1 - probability), which keeps their mean, so that nothing is scaled outside
    of training, as the paper has it.

    Shapes: (N, ...) to the same.

    Args:
        probability: with which an image's residual is dropped, below 1; at 0 nothing is drawn.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, residual: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return residual
        survival = 1 - self.probability
        shape = (len(residual), *[1] * (residual.ndim - 1))
        survives = torch.empty(shape, dtype=residual.dtype, device=residual.device)
        return residual * survives.bernoulli_(survival).div_(survival)
