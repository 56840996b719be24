"""Progressive resizing: training on small images first."""

import math
from collections.abc import Sequence
from statistics import median

import torch.nn.functional as F
from torch import Tensor

from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import duration


class ProgressiveResizing:
    """The size of the training images in each epoch.

    Every entry of `sizes` has an equal part of the run, so a repeated size has a larger one.
    Howard, 2018, for DAWNBench; Tan and Le, 2021, "EfficientNetV2", section 4.

    Args:
        sizes: pixels, ascending.
        epochs: length of the run.

    Raises:
        ValueError: the sizes aren't ascending.
    """

    def __init__(self, sizes: Sequence[int], epochs: int) -> None:
        if not sizes or list(sizes) != sorted(sizes):
            raise ValueError(
                f"trainer.progressive_resizing={list(sizes)} must be ascending sizes, such as "
                "[16, 24, 32], each of which may be repeated"
            )
        self.sizes, self.epochs = list(sizes), epochs

    def size(self, epoch: int) -> int:
        """Return the size in an epoch, counted from 0; the last epoch has the last size."""
        return self.sizes[math.ceil((epoch + 1) * len(self.sizes) / self.epochs) - 1]

    def __str__(self) -> str:
        """Return the sizes with their epochs, counted from 1."""
        sizes = [self.size(epoch) for epoch in range(self.epochs)]
        spans = [
            (size, sizes.index(size) + 1, self.epochs - sizes[::-1].index(size))
            for size in dict.fromkeys(sizes)
        ]
        return ", ".join(
            f"{size} pixels in epoch" + (f" {first}" if first == last else f"s {first} to {last}")
            for size, first, last in spans
        )

    def notes(self, rows: Sequence[Row], images: int) -> list[str]:
        """Return how much time smaller sizes saved, as one sentence, or none if none was used.

        Args:
            rows: metrics of the epochs.
            images: training images in an epoch.
        """
        last = self.sizes[-1]
        sizes = [self.size(int(row["epoch"]) - 1) for row in rows]
        if {*sizes} <= {last}:
            return []
        if last not in sizes:
            return [
                "the time saved by progressive resizing is unknown, since no epoch was trained at "
                f"{last} pixels"
            ]
        # Medians, since other work on the machine may slow down some epochs.
        speeds = {
            size: median(
                row["images_per_second"]
                for row, row_size in zip(rows, sizes, strict=True)
                if row_size == size
            )
            for size in {*sizes}
        }
        without = len(rows) * images / speeds[last]
        saved = max(without - sum(images / speeds[size] for size in sizes), 0.0)
        return [
            f"progressive resizing saved about {duration(saved)} of {duration(without)} of "
            f"training, by the median speeds at each size, up to {last} pixels"
        ]


def resize(images: Tensor, size: int) -> Tensor:
    """Resize images, bilinearly with antialiasing.

    Args:
        images: (B, C, H, W), uint8 or floating.
        size: height and width, in pixels.

    Returns:
        (B, C, size, size), float32.
    """
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
