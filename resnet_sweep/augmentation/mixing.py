"""Augmentation that mixes images and their labels: MixUp and CutMix."""

import math
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Generator, Tensor

from resnet_sweep.augmentation.erasing import box_mask, draw_pixels
from resnet_sweep.data.dataset import Batch
from resnet_sweep.ranges import Probability

Alpha = Annotated[float, Gt(0)]


class Mixing:
    """Base class of operations that mix each image of a batch with another image, its partner.

    Args:
        num_classes: number of classes.
        alpha: parameter of the distribution Beta(alpha, alpha) of the share that an image keeps.
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
        # The share of an image that isn't mixed is 1.
        shares = torch.where(mixed, draw_beta(self.alpha, count, generator), 1.0)
        images, shares = self.mix(images, partners, shares, generator)
        return images, mix_labels(labels, partners, shares, self.num_classes)

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Mix images with their partners.

        Args:
            images: (B, C, H, W).
            partners: (B,), int64, index of each image's partner.
            shares: (B,), float32, share that each image is to keep.
            generator: generator on the images' device.

        Returns:
            The mixed images, (B, C, H, W), and the share that each image actually keeps, (B,),
            float32.
        """
        raise NotImplementedError


class MixUp(Mixing):
    """Blends each image with another image, and their labels with the same weights.

    Zhang et al., 2018, "mixup: Beyond Empirical Risk Minimization"; with a share for each image,
    while the authors' code draws one share for the batch.
    """

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        return blend(images, partners, shares), shares


class CutMix(Mixing):
    """Pastes a box of another image into each image, and mixes their labels by the visible areas.

    Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features"; with a box for each image, while the paper has one box for the batch. If
    the box extends past the image, the image keeps more than the share that was drawn.
    """

    def mix(
        self, images: Tensor, partners: Tensor, shares: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        return paste(images, partners, shares, *draw_pixels(images, generator))


class CutMixOrMixUp:
    """Mixes each image with another image, by CutMix or by MixUp.

    Touvron et al., 2021, "Training data-efficient image transformers & distillation through
    attention"; with a random choice for each image, while theirs is for a batch.

    Args:
        num_classes: number of classes.
        cutmix_probability: probability of CutMix; otherwise MixUp is used.
        cutmix_alpha, mixup_alpha: `alpha` of CutMix and of MixUp, see `Mixing`.
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
    """Return the mean of each image and its partner, weighted by the image's share, floating."""
    shares = shares[:, None, None, None]
    return shares * images + (1 - shares) * images[partners]


def paste(
    images: Tensor, partners: Tensor, shares: Tensor, y: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Replace a box in each image, with the center (y, x), by the same box of its partner.

    Returns:
        The images, (B, C, H, W), and the share of its area that each image keeps, (B,), float32.
    """
    height, width = images.shape[-2:]
    # Half of the box's side, as a fraction of the image's side.
    half = (1 - shares).sqrt() / 2
    half_height, half_width = (half * height).long(), (half * width).long()
    top, bottom = (y - half_height).clamp(min=0), (y + half_height).clamp(max=height)
    left, right = (x - half_width).clamp(min=0), (x + half_width).clamp(max=width)
    box = box_mask(top, left, bottom, right, height, width)
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(box, images[partners], images), kept


def draw_beta(alpha: float, count: int, generator: Generator) -> Tensor:
    """Draw numbers, (count,), float32, from the distribution Beta(alpha, alpha).

    If t has Student's t-distribution with 2 alpha degrees of freedom, then
    1/2 + t / (2 sqrt(2 alpha + t^2)) has this distribution (Devroye, 1996, "Random Variate
    Generation in One Line of Code"). Bailey, 1994, "Polar Generation of Random Variates with the
    t-Distribution", has a formula that gives t from two uniform numbers.
    """
    radius, angle = torch.rand((2, count), generator=generator, device=generator.device)
    cosine = torch.cos(2 * math.pi * angle)
    # Bailey's t^2 is 2 alpha (1 / power - 1) cosine^2. For a small alpha the power is near 0, so
    # numerator and denominator are multiplied by it, which prevents an overflow.
    logarithm = radius.log() / alpha
    power, rest = logarithm.exp(), -logarithm.expm1()
    # Because the square root is rounded, a number can be just outside of the interval.
    numbers: Tensor = (1 + cosine * (rest / (power + rest * cosine**2)).sqrt()) / 2
    return numbers.clamp(0, 1)


def mix_labels(labels: Tensor, partners: Tensor, shares: Tensor, num_classes: int) -> Tensor:
    """Return the labels of mixed images, (B, classes), float32: the share of each class.

    Args:
        labels: (B,), int64, or (B, classes), float32.
        partners: (B,), int64, index of each image's partner.
        shares: (B,), share that each image keeps.
        num_classes: number of classes.
    """
    if labels.ndim == 1:
        labels = (labels[:, None] == torch.arange(num_classes, device=labels.device)).float()
    return shares[:, None] * labels + (1 - shares[:, None]) * labels[partners]
