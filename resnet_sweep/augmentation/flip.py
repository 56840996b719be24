"""Random flips."""

from typing import Annotated

import torch
from torch import Generator, Tensor

from resnet_sweep.ranges import Range


class RandomHorizontalFlip:
    """Mirror each image with some probability.

    Args:
        probability: of an image being mirrored.
    """

    def __init__(self, probability: Annotated[float, Range(minimum=0, maximum=1)] = 0.5) -> None:
        self.probability = probability

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        mirrored = (draws < self.probability)[:, None, None, None]
        return torch.where(mirrored, images.flip(-1), images), labels
