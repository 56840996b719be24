"""Squares cut out."""

import torch
from torch import Generator, Tensor

from resnet_sweep.augmentation.boxes import MeanFill, inside
from resnet_sweep.ranges import Count


class Cutout:
    """Fill a square of each image with the data's mean.

    DeVries and Taylor, 2017, "Improved Regularization of Convolutional Neural Networks with
    Cutout": the square's centre is any pixel, so that part of it may lie outside of the image.

    Args:
        mean: of the data, per channel, of images scaled to 0..1.
        size: the square's side, in pixels.
    """

    def __init__(self, mean: list[float], size: Count = 8) -> None:
        self.fill = MeanFill(mean)
        self.size = size

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        count, device = len(images), images.device
        y = torch.randint(height, (count,), generator=generator, device=device)
        x = torch.randint(width, (count,), generator=generator, device=device)
        return self.fill(images, square(y, x, self.size, height, width)), labels


def square(y: Tensor, x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Which pixels are in the squares.

    Args:
        y, x: (B,), int64, their centres; of an even size, the pixel below and right of it.
        size: their side, in pixels.
        height, width: of the images, in pixels.

    Returns:
        (B, 1, H, W), bool.
    """
    top, left = y - size // 2, x - size // 2
    return inside(top, left, top + size, left + size, height, width)
