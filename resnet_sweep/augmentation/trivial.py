"""TrivialAugment."""

import math
from collections import defaultdict
from typing import Annotated

import torch
from torch import Generator, Tensor

from resnet_sweep.ranges import Range

# The "wide" space: strengths from the least to the largest, and whether their sign is drawn.
OPERATIONS = {
    "identity": (0, 0, False),
    "shear_x": (0, 0.99, True),
    "shear_y": (0, 0.99, True),
    "translate_x": (0, 32, True),  # pixels
    "translate_y": (0, 32, True),
    "rotate": (0, 135, True),  # degrees
    "brightness": (0, 0.99, True),
    "saturation": (0, 0.99, True),
    "contrast": (0, 0.99, True),
    "sharpness": (0, 0.99, True),
    "posterize": (8, 2, False),  # bits
    "solarize": (1, 0, False),  # threshold, where white is 1
    "autocontrast": (0, 0, False),
    "equalize": (0, 0, False),
}


class TrivialAugment:
    """One operation on each image, of any strength.

    Müller and Hutter, 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    with its wide space, as in torchvision's TrivialAugmentWide.

    Args:
        num_magnitude_bins: how many strengths there are.
    """

    # The host has to know what was drawn.
    recordable = False

    def __init__(self, num_magnitude_bins: Annotated[int, Range(minimum=2)] = 31) -> None:
        self.num_magnitude_bins = num_magnitude_bins
        self.choices = [
            (name, torch.linspace(least, most, num_magnitude_bins).tolist(), signed)
            for name, (least, most, signed) in OPERATIONS.items()
        ]

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        if images.dtype != torch.uint8:
            images = images.round().clamp(0, 255).to(torch.uint8)
        groups = defaultdict(list)
        for index, drawn in enumerate(self.draw(len(images), generator)):
            groups[drawn].append(index)
        changed = torch.empty_like(images)
        for (name, strength), indices in groups.items():
            changed[indices] = apply(name, images[indices], strength)
        return changed, labels

    def draw(self, count: int, generator: Generator) -> list[tuple[str, float]]:
        """An operation and a strength for each image, which the host has to know."""
        limits = (len(OPERATIONS), self.num_magnitude_bins, 2)
        draws = [
            torch.randint(limit, (count,), generator=generator, device=generator.device)
            for limit in limits
        ]
        drawn = []
        for choice, bin_, negative in torch.stack(draws, 1).tolist():
            name, strengths, signed = self.choices[choice]
            drawn.append((name, -strengths[bin_] if signed and negative else strengths[bin_]))
        return drawn


def apply(name: str, images: Tensor, strength: float) -> Tensor:
    """One of OPERATIONS on uint8 images (B, 3, H, W)."""
    # Imported here because it takes seconds that other augmentation needn't wait.
    from torchvision.transforms.v2 import functional

    def affine(x: int = 0, y: int = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
        # A shear leaves the first row or column where it is, and a translation has no center.
        return functional.affine(images, 0.0, [x, y], 1.0, list(shear), center=[0, 0])

    match name:
        case "identity":
            return images
        case "shear_x":
            return affine(shear=(math.degrees(math.atan(strength)), 0))
        case "shear_y":
            return affine(shear=(0, math.degrees(math.atan(strength))))
        case "translate_x":
            return affine(x=int(strength))
        case "translate_y":
            return affine(y=int(strength))
        case "rotate":
            return functional.rotate(images, strength)
        case "brightness":
            return functional.adjust_brightness(images, 1 + strength)
        case "saturation":
            return functional.adjust_saturation(images, 1 + strength)
        case "contrast":
            return functional.adjust_contrast(images, 1 + strength)
        case "sharpness":
            return functional.adjust_sharpness(images, 1 + strength)
        case "posterize":
            return functional.posterize(images, round(strength))
        case "solarize":
            return functional.solarize(images, 255 * strength)
        case "autocontrast":
            return functional.autocontrast(images)
        case "equalize":
            return functional.equalize(images)
    raise ValueError(f"there is no operation {name}")
