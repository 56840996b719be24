"""Erasing of rectangles: Cutout and Random Erasing."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Count, Probability

# Rectangles drawn for an image; if none of them fits, nothing is erased.
TRIES = 10


class Cutout:
    """Fill a square of each image with the data's mean.

    DeVries and Taylor, 2017, "Improved Regularization of Convolutional Neural Networks with
    Cutout": the square's centre is any pixel, so part of it may lie outside the image.

    Args:
        mean: mean of the data, see `MeanFill`.
        size: side of the square, in pixels.
    """

    def __init__(self, mean: list[float], size: Count = 8) -> None:
        self.fill = MeanFill(mean)
        self.size = size

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        y, x = draw_pixels(images, generator)
        return self.fill(images, square(y, x, self.size, *images.shape[-2:])), labels


def draw_pixels(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw a row and a column of each of B images, (B,), int64."""
    y, x = (
        torch.randint(side, (len(images),), generator=generator, device=images.device)
        for side in images.shape[-2:]
    )
    return y, x


def square(y: Tensor, x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Return which pixels are in squares around (B,) rows and columns, as `inside` does.

    If the size is even, the centre is the pixel below and right of the square's middle.
    """
    top, left = y - size // 2, x - size // 2
    return inside(top, left, top + size, left + size, height, width)


class RandomErasing:
    """Fill a rectangle of some images with the data's mean.

    Zhong et al., 2020, "Random Erasing Data Augmentation". As in torchvision, the aspect ratio is
    uniform in its logarithm, and the first of ten rectangles that is smaller than the image in both
    directions is taken; if none is, nothing is erased.

    Args:
        mean: mean of the data, see `MeanFill`.
        probability: probability that an image has a rectangle erased.
        scale: least and largest area, as a share of the image's.
        ratio: least and largest aspect ratio, height to width.

    Raises:
        ValueError: scale or ratio isn't a smaller and a larger number.
    """

    def __init__(
        self,
        mean: list[float],
        probability: Probability = 0.5,
        scale: Sequence[Probability] = (0.02, 0.33),
        ratio: Sequence[Annotated[float, Gt(0)]] = (0.3, 3.3),
    ) -> None:
        for name, bounds in (("scale", scale), ("ratio", ratio)):
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(
                    f"{name}={list(bounds)} must be two numbers, the smaller one first"
                )
        self.fill = MeanFill(mean)
        self.probability, self.scale, self.ratio = probability, scale, ratio

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        height, width = images.shape[-2:]
        area, ratio = torch.rand((2, len(images), TRIES), generator=generator, device=images.device)
        chance, y, x = torch.rand((3, len(images)), generator=generator, device=images.device)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        least, most = (math.log(bound) for bound in self.ratio)
        ratio = (least + (most - least) * ratio).exp()
        heights = (area * ratio).sqrt().round()
        widths = (area / ratio).sqrt().round()
        fits = (heights < height) & (widths < width)
        first = fits.int().argmax(1, keepdim=True)
        heights, widths = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
        top = (y * (height - heights + 1)).floor()
        left = (x * (width - widths + 1)).floor()
        erased = fits.any(1) & (chance < self.probability)
        box = inside(top, left, top + heights, left + widths, height, width)
        return self.fill(images, box & erased[:, None, None, None]), labels


class MeanFill:
    """Fills parts of images with the data's mean, which is zero once they are normalised.

    Args:
        mean: per channel, of images scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float]) -> None:
        self.color = torch.tensor(mean).view(1, -1, 1, 1) * 255

    def __call__(self, images: Tensor, where: Tensor) -> Tensor:
        """Fill the pixels where `where`, (B, 1, H, W), is true; return floats."""
        # Only the first batch waits for a copy to the device.
        self.color = self.color.to(images.device)
        return torch.where(where, self.color, images)


def inside(
    top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int
) -> Tensor:
    """Return which pixels are in the boxes, (B, 1, height, width), bool.

    Args:
        top, left: (B,), first row and column of each box.
        bottom, right: (B,), row and column after its last ones. A box may extend past the image.
        height, width: size of the images, in pixels.
    """
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    in_rows = (top[:, None] <= rows) & (rows < bottom[:, None])
    in_columns = (left[:, None] <= columns) & (columns < right[:, None])
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]
