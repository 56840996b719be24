"""A split on the device, from which batches are taken."""

import torch
from torch import Tensor

from resnet_sweep.data.dataset import Split


class Batches:
    """The images of a split, kept as uint8 on the device that trains.

    On a CPU nothing is copied: memory-mapped arrays stay shared between processes.

    Args:
        split: n images.
        device: where batches are to be.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        indices = torch.from_numpy(split.indices)
        images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        if device.type != "cpu":
            images, labels = images[indices].to(device), labels[indices].to(device)
            indices = torch.arange(len(split), device=device)
        self.images, self.labels, self.indices = images, labels, indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The images at some positions of the split.

        Args:
            positions: (B,), int64, each below n.

        Returns:
            Images, (B, 3, H, W), uint8; labels, (B,), int64.
        """
        chosen = self.indices[positions]
        return self.images[chosen], self.labels[chosen].long()
