"""Color jitter."""

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch

Strength = Annotated[float, Ge(0)]


class ColorJitter:
    """Randomly changes brightness, contrast, saturation and hue of each image, in this order.

    Howard, 2013, "Some Improvements on Deep Convolutional Neural Network Based Image
    Classification", where the order is random. Gray images have no saturation and no hue, so only
    their brightness and contrast change.

    Args:
        brightness, contrast, saturation: strengths. A factor is drawn uniformly from
            max(0, 1 - strength) to 1 + strength.
        hue: strength. A shift is drawn uniformly from -hue to hue; 1 is a full turn of the color
            circle.
    """

    def __init__(
        self,
        brightness: Strength = 0.4,
        contrast: Strength = 0.4,
        saturation: Strength = 0.4,
        hue: Annotated[float, Ge(0), Le(0.5)] = 0.1,
    ) -> None:
        self.factors = [
            (max(0.0, 1 - strength), 1 + strength)
            for strength in (brightness, contrast, saturation)
        ]
        self.hue = hue

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        draws = torch.rand((4, len(images)), generator=generator, device=images.device)
        images = images.float()
        adjustments = (adjust_brightness, adjust_contrast, adjust_saturation)
        for adjust, (low, high), draw in zip(adjustments, self.factors, draws[:3], strict=True):
            images = adjust(images, low + (high - low) * draw)
        if images.shape[1] == 3:
            images = shift_hue(images, self.hue * (2 * draws[3] - 1))
        return images, labels


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of pixels, (B, C, H, W), 0..255, from black by factors, (B,)."""
    return _extrapolate(torch.zeros_like(images), images, factors)


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of pixels, (B, C, H, W), 0..255, from the mean gray by factors, (B,)."""
    return _extrapolate(luma(images).mean((1, 2, 3), keepdim=True), images, factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Scale the distance of pixels, (B, C, H, W), 0..255, from their gray by factors, (B,)."""
    return _extrapolate(luma(images), images, factors)


def shift_hue(images: Tensor, shifts: Tensor) -> Tensor:
    """Shift the hue of images, (B, 3, H, W), 0..255, by (B,) turns of the color circle."""
    red, green, blue = images.unbind(1)
    value = images.amax(1)
    chroma = value - images.amin(1)
    divisor = torch.where(chroma == 0, 1, chroma)
    # The unit is a sixth of a turn: 0 is red, 2 is green, 4 is blue.
    hue = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue = hue + 6 * shifts[:, None, None]
    # The difference between a channel and the brightest one depends on the angle between the hue
    # and the channel's own color.
    channels = []
    for color in (0, 2, 4):
        angle = ((hue - color + 3) % 6 - 3).abs()
        channels.append(value - chroma * (angle - 1).clamp(0, 1))
    return torch.stack(channels, 1)


def luma(images: Tensor) -> Tensor:
    """Return images, (B, C, H, W), as gray, (B, 1, H, W), with the weights of ITU-R BT.601."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]


def _extrapolate(start: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    factors = factors[:, None, None, None]
    return (factors * images + (1 - factors) * start).clamp(0, 255)
