"""TrivialAugment, which applies one random operation to each image."""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch

# TrivialAugment's wide search space: the weakest and the strongest setting of each operation, and
# whether its sign is random.
OPERATIONS: dict[str, tuple[float, float, bool]] = {
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
    """Applies one random operation with a random strength to each image.

    Müller and Hutter, 2021, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    with its wide search space, as in torchvision's TrivialAugmentWide.

    Args:
        num_magnitude_bins: number of different strengths.
    """

    def __init__(self, num_magnitude_bins: Annotated[int, Ge(2)] = 31) -> None:
        self.num_magnitude_bins = num_magnitude_bins
        self.choices = [
            (name, torch.linspace(weakest, strongest, num_magnitude_bins).tolist(), signed)
            for name, (weakest, strongest, signed) in OPERATIONS.items()
        ]

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        if images.dtype != torch.uint8:
            images = images.round().clamp(0, 255).to(torch.uint8)
        groups: defaultdict[tuple[str, float], list[int]] = defaultdict(list)
        for index, drawn in enumerate(self.draw(len(images), generator)):
            groups[drawn].append(index)
        changed = torch.empty_like(images)
        for (name, strength), indices in groups.items():
            changed[indices] = apply(name, images[indices], strength)
        return changed, labels

    def draw(self, count: int, generator: Generator) -> list[tuple[str, float]]:
        """Draw an operation and a strength for each image.

        This waits for a GPU, because the draws decide which operations run.
        """
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
    """Apply one of OPERATIONS to uint8 images (B, C, H, W); gray images have no saturation."""
    # This import takes seconds, and other operations don't need it.
    from torchvision.transforms.v2 import functional

    def affine(x: int = 0, y: int = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
        # With this center, a shear keeps the first row or column in place. It doesn't affect
        # translations.
        moved: Tensor = functional.affine(images, 0.0, [x, y], 1.0, list(shear), center=[0, 0])
        return moved

    angle = math.degrees(math.atan(strength))
    operations: dict[str, Callable[[], Tensor]] = {
        "identity": lambda: images,
        "shear_x": lambda: affine(shear=(angle, 0)),
        "shear_y": lambda: affine(shear=(0, angle)),
        "translate_x": lambda: affine(x=int(strength)),
        "translate_y": lambda: affine(y=int(strength)),
        "rotate": lambda: functional.rotate(images, strength),
        "brightness": lambda: functional.adjust_brightness(images, 1 + strength),
        "saturation": lambda: functional.adjust_saturation(images, 1 + strength),
        "contrast": lambda: functional.adjust_contrast(images, 1 + strength),
        "sharpness": lambda: functional.adjust_sharpness(images, 1 + strength),
        "posterize": lambda: functional.posterize(images, round(strength)),
        "solarize": lambda: functional.solarize(images, 255 * strength),
        "autocontrast": lambda: functional.autocontrast(images),
        "equalize": lambda: functional.equalize(images),
    }
    return operations[name]()
