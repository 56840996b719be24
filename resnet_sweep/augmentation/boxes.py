"""Boxes: a rectangle in each image, and what fills it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def inside(
    top: Tensor, left: Tensor, bottom: Tensor, right: Tensor, height: int, width: int
) -> Tensor:
    """Which pixels are in the boxes.

    Args:
        top, left: (B,), the first row and column of each box.
        bottom, right: (B,), the ones behind its last. A box may stick out of the image.
        height, width: of the images, in pixels.

    Returns:
        (B, 1, H, W), bool.
    """
    rows = torch.arange(height, device=top.device)
    columns = torch.arange(width, device=top.device)
    in_rows = (top[:, None] <= rows) & (rows < bottom[:, None])
    in_columns = (left[:, None] <= columns) & (columns < right[:, None])
    return in_rows[:, None, :, None] & in_columns[:, None, None, :]


class MeanFill:
    """Fills parts of images with the data's mean, which is zero once they are normalised.

    Args:
        mean: per channel, of images scaled to 0..1.
    """

    def __init__(self, mean: Sequence[float]) -> None:
        self.color = torch.tensor(mean).view(1, -1, 1, 1) * 255

    def __call__(self, images: Tensor, where: Tensor) -> Tensor:
        """Fill the pixels where (B, 1, H, W) is true; the result is floating."""
        # Kept there, so that only the first batch waits for a copy to the device.
        self.color = self.color.to(images.device)
        return torch.where(where, self.color, images)
