"""Grad-CAM: the regions of an image that are important for a class."""

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from torch import Tensor, nn

from resnet_sweep.analysis.layers import Layers, NotApplicableError, collect_outputs
from resnet_sweep.data.dataset import UInt8Array

# Opacity of a map over an image.
OPACITY = 0.6


def grad_cam(model: nn.Module, layers: Layers, images: Tensor, classes: Tensor) -> Tensor:
    """Return gradient-weighted class activation maps of the last feature maps.

    Selvaraju et al., 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", equations 1 and 2.

    Args:
        model: model in evaluation mode.
        layers: layers of the model.
        images: (B, C, H, W), normalized.
        classes: (B,), int64, a class for each image.

    Returns:
        The maps, (B, h, w), float32, not negative, on the CPU.

    Raises:
        NotApplicableError: the model has no feature maps.
    """
    if layers.features is None:
        raise NotApplicableError("no top-level module of the model returns maps larger than 1x1")
    with torch.enable_grad(), collect_outputs({"features": layers.features}) as outputs:
        # The input requires a gradient, so that gradients exist even if all weights are frozen.
        logits = model(images.clone().requires_grad_())
        scores = logits.gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, outputs["features"])
    features, gradient = outputs["features"].detach().float(), gradient.float()
    weights = gradient.mean((2, 3), keepdim=True)
    return F.relu((weights * features).sum(1)).cpu()


def overlay(activation: Tensor, image: UInt8Array) -> UInt8Array:
    """Return an image, (H, W, C), overlaid with its map, (h, w), scaled to a maximum of 1.

    The result is (H, W, 3).
    """
    scaled = activation / activation.max().clamp(min=torch.finfo(torch.float32).tiny)
    enlarged = F.interpolate(scaled[None, None], size=image.shape[:2], mode="bilinear")[0, 0]
    colors = 255 * colormaps["inferno"](enlarged.numpy())[..., :3]
    blend: UInt8Array = ((1 - OPACITY) * image + OPACITY * colors).round().astype(np.uint8)
    return blend
