"""Filters of a network's first convolution, and activations of its stages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from resnet_sweep.analysis.image_grid import ImageGrid, Pixels
from resnet_sweep.analysis.layers import Layers, NotApplicableError, record_outputs
from resnet_sweep.data.dataset import IndexArray

# Filters in a row of the figure, and the side of one in inches.
FILTER_COLUMNS = 8
FILTER_SIZE = 0.8
# Channels of each stage that are drawn, and the side of a map in inches.
STRONGEST = 3
MAP_SIZE = 0.85


def first_filters(model: nn.Module) -> Pixels:
    """Return the weights of the first convolution, (filters, 3, height, width), float32.

    Raises:
        NotApplicableError: there is none, or its input isn't an RGB image.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight: Pixels = module.weight.detach().float().cpu().numpy()
            if weight.shape[1] != 3:
                raise NotApplicableError(
                    f"the first convolution has {weight.shape[1]} input channels, not 3 colors"
                )
            return weight
    raise NotApplicableError("the model has no convolution")


def draw_filters(filters: Pixels, title: str) -> Figure:
    """Draw the filters as images: red, green and blue are their weights, gray is zero."""
    largest = float(np.abs(filters).max())
    colors = 0.5 + filters.transpose(0, 2, 3, 1) / (2 * largest or 1)
    columns = min(FILTER_COLUMNS, len(filters))
    rows = math.ceil(len(filters) / columns)
    step = FILTER_SIZE + 0.25
    width = max(0.4 + step * columns, 6)
    left = (width - step * columns + 0.25) / 2
    grid = ImageGrid(width, 0.9 + step * rows, title)
    grid.text(
        width / 2, 0.5, f"channel by channel from {-largest:.2f} (dark) to {largest:.2f} (bright)"
    )
    for index, filter_ in enumerate(colors):
        row, column = divmod(index, columns)
        x, y = left + step * column, 0.95 + step * row
        grid.image(x, y, FILTER_SIZE, filter_)
        grid.text(x + FILTER_SIZE / 2, y - 0.1, str(index))
    return grid.figure


@torch.inference_mode()
def stage_activations(model: nn.Module, layers: Layers, images: Tensor) -> dict[str, Pixels]:
    """Return the output of each stage by its name, (B, channels, H, W), float32.

    Args:
        model: in evaluation mode.
        layers: layers of the model.
        images: (B, 3, H, W), normalized.

    Raises:
        NotApplicableError: there is no stage.
    """
    if not layers.stages:
        raise NotApplicableError("no top-level part of the model gives maps of more than a pixel")
    with record_outputs(layers.stages) as outputs:
        model(images)
    return {name: output.float().cpu().numpy() for name, output in outputs.items()}


def strongest_channels(maps: Pixels) -> tuple[IndexArray, Pixels]:
    """Return the channels of each image with the largest mean absolute activation, and their maps.

    Args:
        maps: (B, channels, H, W).

    Returns:
        (B, n), int64, the strongest first; (B, n, H, W); n is STRONGEST or the number of channels.
    """
    strength = np.abs(maps).mean((2, 3))
    channels: IndexArray = np.argsort(-strength, axis=1, kind="stable")[:, :STRONGEST]
    return channels, np.take_along_axis(maps, channels[:, :, None, None], axis=1)


def draw_activations(
    activations: dict[str, Pixels], images: Pixels, captions: Sequence[str], title: str
) -> Figure:
    """Draw, for each image, the mean over the channels and the strongest channels of each stage.

    Args:
        activations: (B, channels, H, W) for each stage.
        images, captions: (B, H, W, 3), uint8, and a text for each.
        title: above the figure.
    """
    step, gap = MAP_SIZE + 0.08, 0.25
    group = step * (1 + STRONGEST) + gap
    top, row_step = 1.1, MAP_SIZE + 0.25
    left = 1.5 + step
    bottom = top + row_step * len(images)
    grid = ImageGrid(left + gap + group * len(activations), bottom + 0.5, title)
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        y = top + row_step * row
        grid.text(0.75, y + MAP_SIZE / 2, caption)
        grid.image(1.5, y, MAP_SIZE, image)
    for place, (name, maps) in enumerate(activations.items()):
        x = left + gap + group * place
        size = " x ".join(map(str, maps.shape[1:]))
        grid.text(x + (group - gap) / 2, 0.6, f"{name}: {size}", fontsize=10)
        grid.text(x + MAP_SIZE / 2, 0.85, "mean")
        grid.text(x + step * (1 + STRONGEST / 2), 0.85, "strongest channels")
        means, (channels, strongest) = maps.mean(1), strongest_channels(maps)
        mean_scale, scale = _scale(means), _scale(strongest)
        for row in range(len(maps)):
            y = top + row_step * row
            grid.image(x, y, MAP_SIZE, means[row], **mean_scale)
            for column, channel in enumerate(channels[row], start=1):
                at = x + step * column
                grid.image(at, y, MAP_SIZE, strongest[row, column - 1], **scale)
                grid.text(at + MAP_SIZE / 2, y - 0.08, str(channel), fontsize=6)
        grid.colorbar(x, bottom, MAP_SIZE, **mean_scale)
        grid.colorbar(x + step, bottom, step * STRONGEST - 0.08, **scale)
    return grid.figure


def _scale(values: Pixels) -> dict[str, Any]:
    """Return a color scale for values; if there are negative ones, white is zero."""
    largest = float(np.abs(values).max()) or 1.0
    if values.min() < 0:
        return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    return {"cmap": "viridis", "vmin": 0.0, "vmax": largest}
