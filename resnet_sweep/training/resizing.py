"""Training on small images first."""

import math
from collections.abc import Sequence
from statistics import median

import torch.nn.functional as F
from torch import Tensor

from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import duration


class ProgressiveResizing:
    """The size of the images that each epoch trains on.

    The sizes share the run equally; one that is repeated has more of it. Howard, 2018, for
    DAWNBench; Tan and Le, 2021, "EfficientNetV2", section 4.

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
        """The size in an epoch, counted from 0; the last epoch has the last size."""
        return self.sizes[math.ceil((epoch + 1) * len(self.sizes) / self.epochs) - 1]

    def __str__(self) -> str:
        """The sizes with their epochs, counted from 1."""
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
        """What the smaller sizes saved in the epochs of a run, a sentence if there were any.

        Args:
            rows: of the epochs.
            images: trained on in each.
        """
        last = self.sizes[-1]
        sizes = [self.size(row["epoch"] - 1) for row in rows]
        if {*sizes} <= {last}:
            return []
        if last not in sizes:
            return [
                "what progressive resizing saved can't be told, since no epoch was trained at "
                f"{last} pixels"
            ]
        # By medians, since a machine that does other work now and then is slow in some epochs.
        speeds = {
            size: median(
                row["images_per_second"]
                for row, each in zip(rows, sizes, strict=True)
                if each == size
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
    """Images at another size, bilinear with antialiasing.

    Args:
        images: (B, C, H, W), uint8 or floating.
        size: pixels, of both sides.

    Returns:
        (B, C, size, size), float32.
    """
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
