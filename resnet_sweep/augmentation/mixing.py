"""Mixing of images and their labels: MixUp and CutMix."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Generator, Tensor

from resnet_sweep.augmentation.erasing import inside


class Mixing:
    """Base class of operations that mix each image of a batch with another one, its partner.

    Args:
        num_classes: number of classes.
        alpha: the share that an image keeps is drawn from Beta(alpha, alpha).
        probability: of mixing an image.
    """

    def __init__(
        self,
        num_classes: int,
        alpha: Annotated[float, Gt(0)] = 1.0,
        probability: Annotated[float, Ge(0), Le(1)] = 1.0,
    ) -> None:
        self.num_classes = num_classes
        self.alpha = alpha
        self.probability = probability

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw the partner of each image of a batch, and the share that the image keeps.

        Args:
            count: images in the batch, B.
            generator: on the device of the result.

        Returns:
            (B,), int64; (B,), float32.
        """
        device = generator.device
        partners = torch.randperm(count, generator=generator, device=device)
        mixed = torch.rand(count, generator=generator, device=device) < self.probability
        # An image that isn't mixed keeps all of itself.
        return partners, torch.where(mixed, draw_beta(self.alpha, count, generator), 1.0)


class MixUp(Mixing):
    """Blend each image with another one, and their labels by the same weights.

    Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization"; with a share for each image,
    where the authors' code draws one for the batch.

    Args:
        num_classes: number of classes.
        alpha: the share that an image keeps is drawn from Beta(alpha, alpha).
        probability: of mixing an image.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        partners, shares = self.draw(len(images), generator)
        mixed = blend(images, partners, shares)
        return mixed, mix_labels(labels, partners, shares, self.num_classes)


class CutMix(Mixing):
    """Paste a box of another image into each, and mix their labels by the visible areas.

    Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features"; with a box for each image, where the paper has one for the batch.

    Args:
        num_classes: number of classes.
        alpha: the share that an image keeps is drawn from Beta(alpha, alpha); it is larger if part
            of the box lies outside the image.
        probability: of mixing an image.
    """

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        height, width = images.shape[-2:]
        count, device = len(images), images.device
        partners, shares = self.draw(count, generator)
        y = torch.randint(height, (count,), generator=generator, device=device)
        x = torch.randint(width, (count,), generator=generator, device=device)
        mixed, shares = paste(images, partners, shares, y, x)
        return mixed, mix_labels(labels, partners, shares, self.num_classes)


class CutMixOrMixUp:
    """Mix each image with another one, by CutMix or by MixUp.

    As in Touvron et al., 2021, "Training data-efficient image transformers & distillation through
    attention"; with a choice for each image, where theirs is for a batch.

    Args:
        num_classes: number of classes.
        cutmix_probability: of CutMix; otherwise MixUp is used.
        cutmix_alpha, mixup_alpha: the shares are drawn from Beta(alpha, alpha).
    """

    def __init__(
        self,
        num_classes: int,
        cutmix_probability: Annotated[float, Ge(0), Le(1)] = 0.5,
        cutmix_alpha: Annotated[float, Gt(0)] = 1.0,
        mixup_alpha: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        self.cutmix_probability = cutmix_probability
        self.cutmix = CutMix(num_classes, cutmix_alpha)
        self.mixup = MixUp(num_classes, mixup_alpha)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        draws = torch.rand(len(images), generator=generator, device=images.device)
        chosen = (draws < self.cutmix_probability)[:, None]
        cut_images, cut_labels = self.cutmix(images, labels, generator)
        mixed_images, mixed_labels = self.mixup(images, labels, generator)
        return (
            torch.where(chosen[..., None, None], cut_images, mixed_images),
            torch.where(chosen, cut_labels, mixed_labels),
        )


def blend(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Return the weighted mean of each image and its partner.

    Args:
        images: (B, C, H, W).
        partners: (B,), int64.
        shares: (B,), float32, weight of the image itself.

    Returns:
        (B, C, H, W), floating.
    """
    shares = shares[:, None, None, None]
    return shares * images + (1 - shares) * images[partners]


def paste(
    images: Tensor, partners: Tensor, shares: Tensor, y: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace a box of each image by the same box of its partner.

    Args:
        images: (B, C, H, W).
        partners: (B,), int64.
        shares: (B,), float32, share of its area that each image keeps if the box is inside it.
        y, x: (B,), int64, centres of the boxes.

    Returns:
        (B, C, H, W); (B,), float32, share of its area that each image keeps.
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
    """Return the labels of mixed images.

    Args:
        labels: (B,), int64, or (B, classes), float32.
        partners: (B,), int64, the image that each image is mixed with.
        shares: (B,), the share that each image keeps.
        num_classes: number of classes.

    Returns:
        (B, classes), float32, the share of each class.
    """
    if labels.ndim == 1:
        labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
