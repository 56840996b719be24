"""Random crops and flips."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Generator, Tensor


class RandomCrop:
    """Pad each image with black, and crop it to its old size at a random position.

    He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Args:
        padding: pixels on each side.
    """

    def __init__(self, padding: Annotated[int, Ge(0)] = 4) -> None:
        self.padding = padding

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        top, left = torch.randint(
            2 * self.padding + 1, (2, len(images)), generator=generator, device=images.device
        )
        return crop(images, self.padding, top, left), labels


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """Crop each zero-padded image at its own offset.

    Args:
        images: (B, C, H, W).
        padding: pixels on each side.
        top, left: (B,), int64, 0 to 2 * padding.

    Returns:
        (B, C, H, W).
    """
    height, width = images.shape[-2:]
    # All windows of the padded image, as a view: (B, C, offsets, offsets, H, W).
    windows = F.pad(images, [padding] * 4).unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


class RandomHorizontalFlip:
    """Mirror each image with a probability.

    Args:
        probability: of mirroring an image.
    """

    def __init__(self, probability: Annotated[float, Ge(0), Le(1)] = 0.5) -> None:
        self.probability = probability

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        mirrored = (draws < self.probability)[:, None, None, None]
        return torch.where(mirrored, images.flip(-1), images), labels
