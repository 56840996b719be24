"""Class activation: where in an image a class is seen."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from resnet_sweep.analysis.layers import Layers, NotApplicableError, recording
from resnet_sweep.analysis.sheet import Sheet

COLUMNS = 8
SIZE = 1.3
SCALE = {"cmap": "inferno", "vmin": 0.0, "vmax": 1.0}


def grad_cam(model: nn.Module, layers: Layers, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient-weighted class activation maps of the last feature maps.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", 2017, equations 1 and 2.

    Args:
        model: in evaluation mode.
        layers: of it.
        images: (B, 3, H, W), normalized.
        classes: (B,), int64: one for each image.

    Returns:
        (B, h, w), float32, at least 0, on the CPU.

    Raises:
        NotApplicableError: there are no feature maps.
    """
    if layers.features is None:
        raise NotApplicableError("no top-level part of the model gives maps of more than a pixel")
    with torch.enable_grad(), recording({"features": layers.features}) as outputs:
        # Even where all weights are frozen, there is a gradient.
        logits = model(images.clone().requires_grad_())
        scores = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, outputs["features"])
    features, gradient = outputs["features"].detach().float(), gradient.float()
    weights = gradient.mean((2, 3), keepdim=True)
    return F.relu((weights * features).sum(1)).cpu()


def draw_class_activation(
    images: np.ndarray,
    rows: Sequence[tuple[str, Sequence[Tensor | None], Sequence[str]]],
    captions: Sequence[str],
    title: str,
) -> Figure:
    """The images, and beneath each its maps, laid over it.

    Args:
        images: (B, H, W, 3), uint8.
        rows: the name of a kind of map, the maps, (h, w) each or None for no map, and their
            captions.
        captions: of the images.
        title: above all.
    """
    columns = min(COLUMNS, len(images))
    step, row_step, left, top = SIZE + 0.15, SIZE + 0.45, 0.9, 0.9
    band = row_step * (1 + len(rows))
    bands = -(-len(images) // columns)
    width = max(left + step * columns + 0.1, 6)
    sheet = Sheet(width, top + band * bands + 0.4, title)
    for index, image in enumerate(images):
        x = left + step * (index % columns)
        y = top + band * (index // columns)
        sheet.picture(x, y, SIZE, image)
        sheet.text(x + SIZE / 2, y - 0.15, captions[index])
        for name, maps, map_captions in rows:
            y += row_step
            if index % columns == 0:
                sheet.text(left / 2, y + SIZE / 2, name)
            if maps[index] is not None:
                sheet.picture(x, y, SIZE, image)
                sheet.picture(x, y, SIZE, _enlarge(maps[index], image.shape), alpha=0.6, **SCALE)
                sheet.text(x + SIZE / 2, y - 0.15, map_captions[index])
    y = top + band * bands - 0.2
    sheet.colorbar(width / 2 - 1, y, 2, **SCALE)
    sheet.text(width / 2 - 1.1, y + 0.05, "share of the map's largest value", ha="right")
    return sheet.figure


def _enlarge(activation: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """A map in the size of its image, with 1 for its largest value."""
    scaled = activation / activation.max().clamp(min=torch.finfo(torch.float32).tiny)
    return F.interpolate(scaled[None, None], size=shape[:2], mode="bilinear")[0, 0].numpy()
