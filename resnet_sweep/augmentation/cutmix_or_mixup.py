"""CutMix for some images, MixUp for the others."""

from typing import Annotated

import torch
from torch import Generator, Tensor

from resnet_sweep.augmentation.cutmix import CutMix
from resnet_sweep.augmentation.mixup import MixUp
from resnet_sweep.ranges import Range


class CutMixOrMixUp:
    """Mix each image with another one, by CutMix or by MixUp.

    As Touvron et al., 2021, "Training data-efficient image transformers & distillation through
    attention", alternate between them; with a choice for each image, where theirs is for a batch.

    Args:
        num_classes: of the data.
        cutmix_probability: of CutMix, where MixUp has the rest.
        cutmix_alpha, mixup_alpha: the shares are from Beta(alpha, alpha).
    """

    def __init__(
        self,
        num_classes: int,
        cutmix_probability: Annotated[float, Range(minimum=0, maximum=1)] = 0.5,
        cutmix_alpha: Annotated[float, Range(above=0)] = 1.0,
        mixup_alpha: Annotated[float, Range(above=0)] = 1.0,
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
