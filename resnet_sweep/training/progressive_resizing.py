"""Progressive resizing: training that starts with small images."""

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import median

import torch.nn.functional as F
from torch import Tensor

from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import duration


class ProgressiveResizing:
    """A schedule of the size of the training images.

    The run has one part for each entry of `sizes`, and the parts are equally long. A repeated size
    is used for several parts. Howard, 2018, "Now anyone can train Imagenet in 18 minutes"; Tan and
    Le, 2021, "EfficientNetV2: Smaller Models and Faster Training", section 4.

    Args:
        sizes: widths of the images in pixels, in ascending order.
        epochs: number of epochs of the run.

    Raises:
        ValueError: the sizes aren't ascending.
    """

    def __init__(self, sizes: Sequence[int], epochs: int) -> None:
        if not sizes or list(sizes) != sorted(sizes):
            raise ValueError(
                f"trainer.progressive_resizing={list(sizes)} must be sizes in ascending order, for "
                "example [16, 24, 32]; a size may be repeated"
            )
        self.sizes, self.epochs = list(sizes), epochs

    def size(self, epoch: int) -> int:
        """Return the size in an epoch, counted from 0; the last epoch always has the last size."""
        return self.sizes[math.ceil((epoch + 1) * len(self.sizes) / self.epochs) - 1]

    def __str__(self) -> str:
        """Return the sizes with their epochs, counted from 1."""
        parts = []
        for size, group in groupby(range(self.epochs), key=self.size):
            epochs = [epoch + 1 for epoch in group]
            span = f" {epochs[0]}" if len(epochs) == 1 else f"s {epochs[0]} to {epochs[-1]}"
            parts.append(f"{size} pixels in epoch{span}")
        return ", ".join(parts)

    def notes(self, rows: Sequence[Row], images: int) -> list[str]:
        """Return a note on the time that smaller sizes saved, if a smaller size was used.

        Args:
            rows: metrics of the epochs.
            images: number of training images in an epoch.
        """
        last = self.sizes[-1]
        speeds: dict[int, list[float]] = {}
        for row in rows:
            size = self.size(int(row["epoch"]) - 1)
            speeds.setdefault(size, []).append(row["images_per_second"])
        if speeds.keys() <= {last}:
            return []
        if last not in speeds:
            return [
                "the time saved by progressive resizing is unknown, since no epoch was trained at "
                f"{last} pixels"
            ]
        # Medians are used because other work on the machine may slow down some epochs.
        seconds = sum(len(speed) * images / median(speed) for speed in speeds.values())
        without = len(rows) * images / median(speeds[last])
        return [
            f"progressive resizing saved about {duration(max(without - seconds, 0.0))} of "
            f"{duration(without)} of training, estimated from the median speed at each size, up to "
            f"{last} pixels"
        ]


def scaled_height(height: int, width: int, new_width: int) -> int:
    """Return the height of an image that is scaled to another width, in pixels."""
    return max(1, round(height * new_width / width))


def resize(images: Tensor, width: int) -> Tensor:
    """Resize images bilinearly to another width, with antialiasing; the height is in proportion.

    Shapes: (B, C, H, W), uint8 or floating, to (B, C, H', width), float32.
    """
    height = scaled_height(images.shape[-2], images.shape[-1], width)
    return F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
