"""CutMix."""

import torch
from torch import Generator, Tensor

from resnet_sweep.augmentation.boxes import inside
from resnet_sweep.augmentation.mixing import Mixing, mix_labels


class CutMix(Mixing):
    """Paste a box of another image into each, and mix their labels by what is seen of both.

    Yun et al., 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features"; with a box for each image, where the paper has one for the batch.

    Args:
        num_classes: of the data.
        alpha: the share that an image keeps, before the box is cut off at its border, is from
            Beta(alpha, alpha).
        probability: of an image being mixed.
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


def paste(
    images: Tensor, partners: Tensor, shares: Tensor, y: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    """Each image with a box of its partner in the same place.

    Args:
        images: (B, C, H, W).
        partners: (B,), int64.
        shares: (B,), float32, the part of its area that each image would keep if the box were
            all inside.
        y, x: (B,), int64, the boxes' centres.

    Returns:
        (B, C, H, W); (B,), float32, the part of its area that each image keeps.
    """
    height, width = images.shape[-2:]
    # Half a side of the box, as a part of the image's.
    half = (1 - shares).sqrt() / 2
    half_height, half_width = (half * height).long(), (half * width).long()
    top, bottom = (y - half_height).clamp(min=0), (y + half_height).clamp(max=height)
    left, right = (x - half_width).clamp(min=0), (x + half_width).clamp(max=width)
    box = inside(top, left, bottom, right, height, width)
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return torch.where(box, images[partners], images), kept
