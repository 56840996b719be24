"""Rectangles erased."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Generator, Tensor

from resnet_sweep.augmentation.boxes import MeanFill, inside
from resnet_sweep.ranges import Range

# Rectangles tried for an image before it is left as it is.
TRIES = 10


class RandomErasing:
    """Fill a rectangle of some images with the data's mean.

    Zhong et al., 2020, "Random Erasing Data Augmentation". As in torchvision, the aspect ratio is
    uniform in its logarithm, and of ten rectangles the first is taken that is smaller than the
    image in both directions; if none is, nothing is erased.

    Args:
        mean: of the data, per channel, of images scaled to 0..1.
        probability: of an image losing a rectangle.
        scale: least and largest area, as a share of the image's.
        ratio: least and largest aspect ratio, height to width.

    Raises:
        ValueError: scale or ratio isn't a smaller and a larger number.
    """

    def __init__(
        self,
        mean: list[float],
        probability: Annotated[float, Range(minimum=0, maximum=1)] = 0.5,
        scale: Sequence[Annotated[float, Range(minimum=0, maximum=1)]] = (0.02, 0.33),
        ratio: Sequence[Annotated[float, Range(above=0)]] = (0.3, 3.3),
    ) -> None:
        for name, bounds in (("scale", scale), ("ratio", ratio)):
            if len(bounds) != 2 or bounds[0] > bounds[1]:
                raise ValueError(
                    f"{name}={list(bounds)} must be two numbers, the smaller one first"
                )
        self.fill = MeanFill(mean)
        self.probability = probability
        self.scale = scale
        self.ratio = ratio

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
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
