"""What the stages of a network make of single images."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from resnet_sweep.analysis.layers import Layers, NotApplicableError, recording
from resnet_sweep.analysis.sheet import Sheet

STRONGEST = 3
SIZE = 0.85


@torch.inference_mode()
def stage_activations(model: nn.Module, layers: Layers, images: Tensor) -> dict[str, np.ndarray]:
    """The output of each stage, by its name, (B, channels, H, W), float32.

    Args:
        model: in evaluation mode.
        layers: of it.
        images: (B, 3, H, W), normalized.

    Raises:
        NotApplicableError: there is no stage.
    """
    if not layers.stages:
        raise NotApplicableError("no top-level part of the model gives maps of more than a pixel")
    with recording(layers.stages) as outputs:
        model(images)
    return {name: output.float().cpu().numpy() for name, output in outputs.items()}


def strongest_channels(activations: np.ndarray) -> np.ndarray:
    """The channels of each image with the largest mean absolute activation.

    Args:
        activations: (B, channels, H, W).

    Returns:
        (B, STRONGEST or, where there are fewer, channels), int64, the strongest first.
    """
    strength = np.abs(activations).mean((2, 3))
    return np.argsort(-strength, axis=1, kind="stable")[:, :STRONGEST]


def draw_activations(
    activations: dict[str, np.ndarray],
    images: np.ndarray,
    captions: Sequence[str],
    title: str,
) -> Figure:
    """A row for each image: the mean over the channels and the strongest channels of each stage.

    Args:
        activations: of each stage, (B, channels, H, W).
        images: (B, H, W, 3), uint8.
        captions: of the images.
        title: above all.
    """
    step, gap = SIZE + 0.08, 0.25
    group = step * (1 + STRONGEST) + gap
    top, row_step = 1.1, SIZE + 0.25
    left = 1.5 + step
    bottom = top + row_step * len(images)
    sheet = Sheet(left + gap + group * len(activations), bottom + 0.5, title)
    for row, (image, caption) in enumerate(zip(images, captions, strict=True)):
        y = top + row_step * row
        sheet.text(0.75, y + SIZE / 2, caption)
        sheet.picture(1.5, y, SIZE, image)
    for place, (name, maps) in enumerate(activations.items()):
        x = left + gap + group * place
        channels, height, width = maps.shape[1:]
        sheet.text(
            x + (group - gap) / 2, 0.6, f"{name}: {channels} x {height} x {width}", fontsize=10
        )
        sheet.text(x + SIZE / 2, 0.85, "mean")
        sheet.text(x + step * (1 + STRONGEST / 2), 0.85, "strongest channels")
        means, chosen = maps.mean(1), strongest_channels(maps)
        strongest = np.take_along_axis(maps, chosen[:, :, None, None], axis=1)
        mean_scale, scale = _scale(means), _scale(strongest)
        for row in range(len(maps)):
            y = top + row_step * row
            sheet.picture(x, y, SIZE, means[row], **mean_scale)
            for column, channel in enumerate(chosen[row], start=1):
                at = x + step * column
                sheet.picture(at, y, SIZE, strongest[row, column - 1], **scale)
                sheet.text(at + SIZE / 2, y - 0.08, str(channel), fontsize=6)
        sheet.colorbar(x, bottom, SIZE, **mean_scale)
        sheet.colorbar(x + step, bottom, step * STRONGEST - 0.08, **scale)
    return sheet.figure


def _scale(values: np.ndarray) -> dict[str, str | float]:
    """A colour scale for values: white is zero where there are negative ones."""
    largest = float(np.abs(values).max()) or 1.0
    if values.min() < 0:
        return {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    return {"cmap": "viridis", "vmin": 0.0, "vmax": largest}
