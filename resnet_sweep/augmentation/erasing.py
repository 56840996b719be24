"""Augmentation that erases a rectangle: Cutout and Random Erasing."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Count, Probability

# Number of rectangles that are drawn for an image; if none of them fits, nothing is erased.
ATTEMPTS = 10


class Cutout:
    """Fills a square in each image with the data's mean.

    DeVries and Taylor, 2017, "Improved Regularization of Convolutional Neural Networks with
    Cutout": the center of the square is any pixel, so the square may extend past the image.

    Args:
        mean: mean of the data, see `MeanFill`.
        size: side of the square, in pixels.
    """

    def __init__(self, mean: list[float], size: Count = 8) -> None:
        self.fill = MeanFill(mean)
        self.size = size

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        y, x = draw_pixels(images, generator)
        return self.fill(images, square_mask(y, x, self.size, *images.shape[-2:])), labels


def draw_pixels(images: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw a random pixel of each of B images: its rows and its columns, (B,), int64."""
    y, x = (
        torch.randint(side, (len(images),), generator=generator, device=images.device)
        for side in images.shape[-2:]
    )
    return y, x


def square_mask(y: Tensor, x: Tensor, size: int, height: int, width: int) -> Tensor:
    """Return a mask of squares, (B, 1, height, width), bool, like `box_mask`.

    Args:
        y, x: (B,), row and column of each square's center. If the size is even, this is the pixel
            below and to the right of the center.
        size: side of the squares, in pixels.
        height, width: size of the images, in pixels.
    """
    top, left = y - size // 2, x - size // 2
    return box_mask(top, left, top + size, left + size, height, width)


class RandomErasing:
    """Fills a rectangle in some images with the data's mean.

    Zhong et al., 2020, "Random Erasing Data Augmentation". As in torchvision, the logarithm of the
    aspect ratio is uniform, and ten random rectangles are drawn. The first one that is smaller than
    the image in both dimensions is used. If there is none, nothing is erased.

    Args:
        mean: mean of the data, see `MeanFill`.
        probability: probability that a rectangle of an image is erased.
        scale: smallest and largest area of the rectangle, as a fraction of the image's area.
        ratio: smallest and largest aspect ratio, height to width.

    Raises:
        ValueError: scale or ratio isn't a pair of numbers with the smaller one first.
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
        size = (2, len(images), ATTEMPTS)
        area, ratio = torch.rand(size, generator=generator, device=images.device)
        draws, y, x = torch.rand((3, len(images)), generator=generator, device=images.device)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = (math.log(bound) for bound in self.ratio)
        ratio = (low + (high - low) * ratio).exp()
        heights = (area * ratio).sqrt().round()
        widths = (area / ratio).sqrt().round()
        fits = (heights < height) & (widths < width)
        first = fits.int().argmax(1, keepdim=True)
        heights, widths = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
        top = (y * (height - heights + 1)).floor()
        left = (x * (width - widths + 1)).floor()
        erased = fits.any(1) & (draws < self.probability)
        box = box_mask(top, left, top + heights, left + widths, height, width)
        return self.fill(images, box & erased[:, None, None, None]), labels


class MeanFill:
    """Fills masked pixels with the data's mean, which normalization maps to zero.

    Args:
        mean: mean per channel, of images scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float]) -> None:
        self.color = torch.tensor(mean).view(1, -1, 1, 1) * 255

    def __call__(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return images, (B, C, H, W), floating, with the pixels filled where `mask` is true.

        Args:
            images: (B, C, H, W), uint8 or floating.
            mask: (B, 1, H, W), bool.
        """
        # The mean is copied to the device with the first batch only.
        self.color = self.color.to(images.device)
        return torch.where(mask, self.color, images)


def box_mask(
    top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int
) -> Tensor:
    """Return a mask of boxes, (B, 1, height, width), bool, which is true inside of them.

    Args:
        top, left: (B,), first row and first column of each box.
        bottom, right: (B,), row after the last row, and column after the last column, of each box.
            A box may extend past the image.
        height, width: size of the images, in pixels.
    """
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    in_rows = (top[:, None] <= rows) & (rows < bottom[:, None])
    in_columns = (left[:, None] <= columns) & (columns < right[:, None])
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]
