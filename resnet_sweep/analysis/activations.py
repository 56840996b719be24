"""Filters of a network's first convolution, and activations of its stages."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from torch import Tensor, nn

from resnet_sweep.analysis.layers import Layers, NotApplicableError, collect_outputs
from resnet_sweep.data.dataset import IndexArray, UInt8Array
from resnet_sweep.figures import ImageRow, draw_rows

# Number of filters in a row of the figure, and of channels of each stage that are drawn.
FILTER_COLUMNS = 8
STRONGEST_CHANNELS = 3
# Approximate width of a feature map in pixels, and size of a color scale.
MAP_SIZE = 96
SCALE = (12, MAP_SIZE)

Values = npt.NDArray[np.floating[Any]]


def first_filters(model: nn.Module) -> Values:
    """Return the weights of the first convolution, (filters, C, height, width), float32.

    Raises:
        NotApplicableError: there is no convolution, or its input isn't a gray or RGB image.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight: Values = module.weight.detach().float().cpu().numpy()
            if weight.shape[1] not in (1, 3):
                raise NotApplicableError(
                    f"the first convolution has {weight.shape[1]} input channels instead of 1 or 3"
                )
            return weight
    raise NotApplicableError("the model has no convolution")


def draw_filters(filters: Values) -> bytes:
    """Draw filters as images, whose gray, or red, green and blue, are the weights; zero is gray."""
    largest = float(np.abs(filters).max())
    colors = 0.5 + filters.transpose(0, 2, 3, 1) / (2 * largest or 1)
    pixels = (255 * colors).round().astype(np.uint8)
    numbers = [str(index) for index in range(len(filters))]
    title = (
        f"The {len(filters)} filters of the first convolution\n"
        f"each channel from {-largest:.2f} (dark) to {largest:.2f} (bright)"
    )
    return draw_rows([ImageRow("", list(pixels), numbers)], title, FILTER_COLUMNS)


@torch.inference_mode()
def stage_activations(model: nn.Module, layers: Layers, images: Tensor) -> dict[str, Values]:
    """Return the output of each stage, (B, channels, H, W), float32, by the stage's name.

    Args:
        model: model in evaluation mode.
        layers: layers of the model.
        images: (B, C, H, W), normalized.

    Raises:
        NotApplicableError: the model has no stages.
    """
    if not layers.stages:
        raise NotApplicableError("no top-level module of the model returns maps larger than 1x1")
    with collect_outputs(layers.stages) as outputs:
        model(images)
    return {name: output.float().cpu().numpy() for name, output in outputs.items()}


def strongest_channels(maps: Values) -> tuple[IndexArray, Values]:
    """Return the channels of each image with the largest mean absolute activation, and their maps.

    Args:
        maps: (B, channels, H, W).

    Returns:
        The channels, (B, n), int64, the strongest first, and their maps, (B, n, H, W); n is
        STRONGEST_CHANNELS, or the number of channels if that is smaller.
    """
    strength = np.abs(maps).mean((2, 3))
    channels: IndexArray = np.argsort(-strength, axis=1, kind="stable")[:, :STRONGEST_CHANNELS]
    return channels, np.take_along_axis(maps, channels[:, :, None, None], axis=1)


def draw_activations(
    activations: dict[str, Values], images: UInt8Array, captions: Sequence[str]
) -> bytes:
    """Draw, for each image, the mean over the channels and the strongest channels of each stage.

    Args:
        activations: outputs of each stage, (B, channels, H, W), by the stage's name.
        images: (B, H, W, C).
        captions: a text for each image.
    """
    rows = [
        ImageRow("", [image], [caption]) for image, caption in zip(images, captions, strict=True)
    ]
    scales = ImageRow("scale", [np.full((*SCALE, 3), 255, np.uint8)], [""])
    for name, maps in activations.items():
        channels, strongest = strongest_channels(maps)
        size = " x ".join(map(str, maps.shape[1:]))
        parts = ((maps.mean(1, keepdims=True), [["mean"]] * len(maps)), (strongest, channels))
        for part, labels in parts:
            pixels, scale, limits = colorize(part)
            scales.images += [scale] * part.shape[1]
            scales.captions += [f"{size}\n{limits}"] * part.shape[1]
            for row, row_pixels, row_labels in zip(rows, pixels, labels, strict=True):
                row.images += list(row_pixels)
                row.captions += [f"{name}\n{label}" for label in row_labels]
    title = "Activations after each stage: mean over the channels, and the strongest channels"
    return draw_rows([*rows, scales], title, size=MAP_SIZE)


def colorize(values: Values) -> tuple[UInt8Array, UInt8Array, str]:
    """Return values as colors, an image of the color scale, and a text with the scale's limits.

    If a value is negative, the scale is symmetric, and white is zero.
    """
    high = float(np.abs(values).max()) or 1.0
    low, colormap = 0.0, colormaps["viridis"]
    if values.min() < 0:
        low, colormap = -high, colormaps["RdBu_r"]
    scale = np.broadcast_to(np.linspace(0, 1, SCALE[1]), SCALE)
    pixels = colormap((values - low) / (high - low), bytes=True)[..., :3]
    return pixels, colormap(scale, bytes=True)[..., :3], f"{low:.2g} to\n{high:.2g}"
