"""What the mixing of images has in common: how much is kept of each, and what becomes of labels."""

import math
from typing import Annotated

import torch
from torch import Generator, Tensor

from resnet_sweep.ranges import Range


class Mixing:
    """An operation that mixes each image of a batch with another one.

    Args:
        num_classes: of the data.
        alpha: the share that an image keeps is from Beta(alpha, alpha).
        probability: of an image being mixed.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: Annotated[float, Range(above=0)] = 1.0,
        probability: Annotated[float, Range(minimum=0, maximum=1)] = 1.0,
    ) -> None:
        self.num_classes = num_classes
        self.alpha = alpha
        self.probability = probability

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """The image that each of a batch is mixed with, and the share that it keeps itself.

        Args:
            count: of images.
            generator: on the device of the result.

        Returns:
            (B,), int64; (B,), float32.
        """
        partners = draw_partners(count, generator)
        return partners, draw_shares(self.alpha, self.probability, count, generator)


def draw_partners(count: int, generator: Generator) -> Tensor:
    """The image that each of a batch is mixed with, by a random permutation: (B,), int64."""
    return torch.randperm(count, generator=generator, device=generator.device)


def draw_shares(alpha: float, probability: float, count: int, generator: Generator) -> Tensor:
    """The share that each image keeps: from Beta(alpha, alpha), or 1 if it isn't mixed.

    Args:
        alpha: above 0.
        probability: of an image being mixed.
        count: of images.
        generator: on the device of the result.

    Returns:
        (B,), float32, 0 to 1.
    """
    mixed = torch.rand(count, generator=generator, device=generator.device) < probability
    return torch.where(mixed, draw_beta(alpha, count, generator), 1.0)


def draw_beta(alpha: float, count: int, generator: Generator) -> Tensor:
    """Numbers from Beta(alpha, alpha): (count,), float32.

    Such a number is 1/2 + t / 2 sqrt(2 alpha + t^2), where t has Student's distribution with
    2 alpha degrees of freedom, for which Bailey, 1994, "Polar Generation of Random Variates with
    the t-Distribution", gives a formula of two uniform numbers (Devroye, 1996, "Random Variate
    Generation in One Line of Code").
    """
    radius, angle = torch.rand((2, count), generator=generator, device=generator.device)
    cosine = torch.cos(2 * math.pi * angle)
    # Bailey's t^2 is 2 alpha (1 / power - 1) cosine^2. Multiplied by the power, which vanishes
    # where alpha is small, nothing overflows.
    logarithm = radius.log() / alpha
    power, rest = logarithm.exp(), -logarithm.expm1()
    # The rounding of a square root can lead out of the interval.
    return ((1 + cosine * (rest / (power + rest * cosine**2)).sqrt()) / 2).clamp(0, 1)


def mix_labels(labels: Tensor, partners: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """Labels of mixed images.

    Args:
        labels: (B,), int64, or (B, classes), float32.
        partners: (B,), int64, the image that each is mixed with.
        shares: (B,), what each image keeps.
        num_classes: of the data.

    Returns:
        (B, classes), float32, the share of each class.
    """
    if labels.ndim == 1:
        labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
