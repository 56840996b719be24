"""Random crops and flips."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Probability


class RandomCrop:
    """Pad each image with black pixels on each side, and crop it to its old size at random.

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
    """Crop zero-padded images, (B, C, H, W), at offsets (B,), int64, of 0 to 2 * padding."""
    height, width = images.shape[-2:]
    # All windows of the padded image, as a view: (B, C, offsets, offsets, H, W).
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


class RandomHorizontalFlip:
    """Mirror each image with a probability."""

    def __init__(self, probability: Probability = 0.5) -> None:
        self.probability = probability

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        mirrored = (draws < self.probability)[:, None, None, None]
        return torch.where(mirrored, images.flip(-1), images), labels
