"""Training on small images first."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from resnet_sweep.runs.metrics import Row


class ProgressiveResizing:
    """The size of the images that each epoch trains on.

    The sizes share the run equally; one that is repeated has more of it. Howard, 2018, for
    DAWNBench; Tan and Le, 2021, "EfficientNetV2", section 4.

    Args:
        sizes: pixels, ascending.
        epochs: length of the run.
        images: trained on in an epoch.

    Raises:
        ValueError: the sizes aren't ascending.
    """

    def __init__(self, sizes: Sequence[int], epochs: int, images: int) -> None:
        if not sizes or list(sizes) != sorted(sizes):
            raise ValueError(
                f"trainer.progressive_resizing={list(sizes)} must be ascending sizes, such as "
                "[16, 24, 32], each of which may be repeated"
            )
        self.sizes, self.epochs, self.images = list(sizes), epochs, images

    def size(self, epoch: int) -> int:
        """The size in an epoch, counted from 0; the last epoch has the last size."""
        return self.sizes[math.ceil((epoch + 1) * len(self.sizes) / self.epochs) - 1]

    def saved(self, rows: Sequence[Row]) -> tuple[float, float] | None:
        """What the smaller sizes saved in the epochs of a run.

        Returns:
            Seconds of training saved, and seconds that it would have been at the last size in all
            epochs, at the mean speed of those that had it; None if there was none.
        """
        full = [row for row in rows if self.size(row["epoch"] - 1) == self.sizes[-1]]
        if not full:
            return None
        times = {row["epoch"]: self.images / row["images_per_second"] for row in rows}
        each = sum(times[row["epoch"]] for row in full) / len(full)
        return len(rows) * each - sum(times.values()), len(rows) * each


def resize(images: Tensor, size: int) -> Tensor:
    """Images at another size, bilinear with antialiasing.

    Args:
        images: (B, C, H, W), uint8 or floating.
        size: pixels, of both sides.

    Returns:
        (B, C, size, size), float32.
    """
    return F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
