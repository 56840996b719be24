"""Random crops."""

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from resnet_sweep.ranges import Range


class RandomCrop:
    """Pad each image with black and cut an image of the old size out of it, anywhere.

    He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2.

    Args:
        padding: pixels on each side.
    """

    def __init__(self, padding: Annotated[int, Range(minimum=0)] = 4) -> None:
        self.padding = padding

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        top, left = torch.randint(
            2 * self.padding + 1, (2, len(images)), generator=generator, device=images.device
        )
        return crop(images, self.padding, top, left), labels


def crop(images: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """From each zero-padded image the part at its own offset.

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
