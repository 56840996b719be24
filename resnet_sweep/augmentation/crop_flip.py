"""Random crops and flips."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Probability


class RandomCrop:
    """Pads each image with black pixels on all sides, and crops it to its size at a random offset.

    He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    def __init__(self, padding: Annotated[int, Ge(0)] = 4) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        top, left = torch.randint(
            2 * self.padding + 1, (2, len(images)), generator=generator, device=images.device
        )
        return crop(images, self.padding, top, left), labels


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Pad images, (B, C, H, W), with zeros, and crop them at offsets, (B,), int64.

    Args:
        images: (B, C, H, W).
        padding: number of pixels on each side.
        top, left: row and column of each crop in the padded image, from 0 to 2 * padding.
    """
    height, width = images.shape[-2:]
    # A view of all crops of the padded image: (B, C, offsets, offsets, H, W).
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


class RandomHorizontalFlip:
    """Mirrors each image with a probability."""

    def __init__(self, probability: Probability = 0.5) -> None:
        self.probability = probability

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        mirrored = (draws < self.probability)[:, None, None, None]
        return torch.where(mirrored, images.flip(-1), images), labels
