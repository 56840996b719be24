"""Mixing of images and their labels: MixUp and CutMix."""

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor

from resnet_sweep.augmentation.erasing import draw_pixels, inside
from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Probability

Alpha = Annotated[float, Gt(0)]


class Mixing:
    """Base class of operations that mix each image of a batch with another one, its partner.

    Args:
        num_classes: number of classes.
        alpha: the share that an image keeps is drawn from Beta(alpha, alpha).
        probability: probability that an image is mixed.
    """

    def __init__(
        self, num_classes: int, alpha: Alpha = 1.0, probability: Probability = 1.0
    ) -> None:
        self.num_classes, self.alpha, self.probability = num_classes, alpha, probability

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        count, device = len(images), images.device
        partners = torch.randperm(count, generator=generator, device=device)
        mixed = torch.rand(count, generator=generator, device=device) < self.probability
        # An image that isn't mixed keeps all of itself.
        shares = torch.where(mixed, draw_beta(self.alpha, count, generator), 1.0)
        images, shares = self.mix(images, partners, shares, generator)
        return images, mix_labels(labels, partners, shares, self.num_classes)

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix images, (B, C, H, W), with their partners, (B,), int64, by the shares that they keep.

        Returns:
            (B, C, H, W); (B,), float32, the share that each image keeps after all.
        """
        raise NotImplementedError


class MixUp(Mixing):
    """Blend each image with another one, and their labels by the same weights.

    Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization"; with a share for each image,
    where the authors' code draws one for the batch.
    """

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        return blend(images, partners, shares), shares


class CutMix(Mixing):
    """Paste a box of another image into each, and mix their labels by the visible areas.

    Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features"; with a box for each image, where the paper has one for the batch. An
    image keeps more than the share that was drawn if part of the box lies outside it.
    """

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        return paste(images, partners, shares, *draw_pixels(images, generator))


class CutMixOrMixUp:
    """Mix each image with another one, by CutMix or by MixUp.

    As in Touvron et al., 2021, "Training data-efficient image transformers & distillation through
    attention"; with a choice for each image, where theirs is for a batch.

    Args:
        num_classes: number of classes.
        cutmix_probability: probability of CutMix; otherwise MixUp is used.
        cutmix_alpha, mixup_alpha: the shares are drawn from Beta(alpha, alpha).
    """

    def __init__(
        self,
        num_classes: int,
        cutmix_probability: Probability = 0.5,
        cutmix_alpha: Alpha = 1.0,
        mixup_alpha: Alpha = 1.0,
    ) -> None:
        self.cutmix_probability = cutmix_probability
        self.cutmix = CutMix(num_classes, cutmix_alpha)
        self.mixup = MixUp(num_classes, mixup_alpha)

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        chosen = (draws < self.cutmix_probability)[:, None]
        cut_images, cut_labels = self.cutmix(images, labels, generator)
        mixed_images, mixed_labels = self.mixup(images, labels, generator)
        return (
            torch.where(chosen[..., None, None], cut_images, mixed_images),
            torch.where(chosen, cut_labels, mixed_labels),
        )


def blend(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return the mean, floating, of each image, weighted by its share, and its partner."""
    shares = shares[:, None, None, None]
    return shares * images + (1 - shares) * images[partners]


def paste(
    images: Tensor, partners: Tensor, shares: Tensor, y: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace a box of each image, with its centre at (y, x), by the same box of its partner.

    Returns:
        (B, C, H, W); (B,), float32, the share of its area that each image keeps.
    """
    height, width = images.shape[-2:]
    # Half a side of the box, as a share of the image's side.
    half = (1 - shares).sqrt() / 2
    half_height, half_width = (half * height).long(), (half * width).long()
    top, bottom = (y - half_height).clamp(min=0), (y + half_height).clamp(max=height)
    left, right = (x - half_width).clamp(min=0), (x + half_width).clamp(max=width)
    box = inside(top, left, bottom, right, height, width)
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(box, images[partners], images), kept


def draw_beta(alpha: float, count: int, generator: Generator) -> Tensor:
    """Draw numbers from Beta(alpha, alpha): (count,), float32.

    Such a number is 1/2 + t / (2 sqrt(2 alpha + t^2)), where t has Student's distribution with
    2 alpha degrees of freedom. Bailey, 1994, "Polar Generation of Random Variates with the
    t-Distribution", has a formula for t from two uniform numbers (Devroye, 1996, "Random Variate
    Generation in One Line of Code").
    """
    radius, angle = torch.rand((2, count), generator=generator, device=generator.device)
    cosine = torch.cos(2 * math.pi * angle)
    # Bailey's t^2 is 2 alpha (1 / power - 1) cosine^2. For a small alpha the power is near 0, so
    # numerator and denominator are multiplied by it, and nothing overflows.
    logarithm = radius.log() / alpha
    power, rest = logarithm.exp(), -logarithm.expm1()
    # Rounding of the square root can give a number outside the interval.
    numbers: Tensor = (1 + cosine * (rest / (power + rest * cosine**2)).sqrt()) / 2
    return numbers.clamp(0, 1)


def mix_labels(labels: Tensor, partners: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """Return the labels of mixed images, (B, classes), float32, the share of each class.

    Args:
        labels: (B,), int64, or (B, classes), float32.
        partners, shares: (B,), each image's partner, and the share that the image keeps.
        num_classes: number of classes.
    """
    if labels.ndim == 1:
        labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
