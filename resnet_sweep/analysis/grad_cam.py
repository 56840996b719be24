"""Grad-CAM: where in an image a network sees a class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from resnet_sweep.analysis.image_grid import ImageGrid, Pixels
from resnet_sweep.analysis.layers import Layers, NotApplicableError, record_outputs

COLUMNS = 8
SIZE = 1.3
SCALE: dict[str, Any] = {"cmap": "inferno", "vmin": 0.0, "vmax": 1.0}


class MapRow(NamedTuple):
    """Maps of one kind: (h, w) for each image, or None for no map, with their captions."""

    title: str
    maps: Sequence[Tensor | None]
    captions: Sequence[str]


def grad_cam(model: nn.Module, layers: Layers, images: Tensor, classes: Tensor) -> Tensor:
    """Return gradient-weighted class activation maps of the last feature maps.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", 2017, equations 1 and 2.

    Args:
        model: in evaluation mode.
        layers: layers of the model.
        images: (B, 3, H, W), normalized.
        classes: (B,), int64, a class for each image.

    Returns:
        (B, h, w), float32, at least 0, on the CPU.

    Raises:
        NotApplicableError: there are no feature maps.
    """
    if layers.features is None:
        raise NotApplicableError("no top-level part of the model gives maps of more than a pixel")
    with torch.enable_grad(), record_outputs({"features": layers.features}) as outputs:
        # The input needs a gradient, so that there is one even if all weights are frozen.
        logits = model(images.clone().requires_grad_())
        scores = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, outputs["features"])
    features, gradient = outputs["features"].detach().float(), gradient.float()
    weights = gradient.mean((2, 3), keepdim=True)
    return F.relu((weights * features).sum(1)).cpu()


def draw_grad_cam(
    images: Pixels, captions: Sequence[str], rows: Sequence[MapRow], title: str
) -> Figure:
    """Draw the images, (B, H, W, 3), uint8, and below each its maps over it."""
    columns = min(COLUMNS, len(images))
    step, row_step, left, top = SIZE + 0.15, SIZE + 0.45, 0.9, 0.9
    band = row_step * (1 + len(rows))
    bands = -(-len(images) // columns)
    width = max(left + step * columns + 0.1, 6)
    grid = ImageGrid(width, top + band * bands + 0.4, title)
    for index, image in enumerate(images):
        x = left + step * (index % columns)
        y = top + band * (index // columns)
        grid.image(x, y, SIZE, image)
        grid.text(x + SIZE / 2, y - 0.15, captions[index])
        for row in rows:
            y += row_step
            if index % columns == 0:
                grid.text(left / 2, y + SIZE / 2, row.title)
            activation = row.maps[index]
            if activation is not None:
                grid.image(x, y, SIZE, image)
                grid.image(x, y, SIZE, _enlarge(activation, image.shape), alpha=0.6, **SCALE)
                grid.text(x + SIZE / 2, y - 0.15, row.captions[index])
    y = top + band * bands - 0.2
    grid.colorbar(width / 2 - 1, y, 2, **SCALE)
    grid.text(width / 2 - 1.1, y + 0.05, "share of the map's largest value", ha="right")
    return grid.figure


def _enlarge(activation: Tensor, shape: tuple[int, ...]) -> Pixels:
    """Scale a map to the size of its image, and to a largest value of 1."""
    scaled = activation / activation.max().clamp(min=torch.finfo(torch.float32).tiny)
    enlarged = F.interpolate(scaled[None, None], size=shape[:2], mode="bilinear")[0, 0]
    pixels: Pixels = enlarged.numpy()
    return pixels
