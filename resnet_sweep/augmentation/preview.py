"""Preview of the augmentation: images before and after it."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch, Batches, Dataset
from resnet_sweep.figures import ImageRow, draw_rows
from resnet_sweep.randomness import derive_seed

Operation = Callable[[Tensor, Tensor, Generator], Batch]


def draw_augmentation(
    operations: Sequence[Operation], dataset: Dataset, images: int, draws: int, seed: int
) -> bytes:
    """Return a PNG figure of training images before augmentation, and of several draws after it.

    Args:
        operations: operations in the order in which they are applied, see
            `resnet_sweep.augmentation`.
        dataset: dataset of the images.
        images: number of images, which are side by side.
        draws: number of rows after augmentation.
        seed: seed of the choice of the images and of the augmentation.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "show"))
    positions = torch.randperm(len(dataset.train), generator=generator)[:images]
    batch = Batches(dataset.train, torch.device("cpu")).take(positions)
    return draw_rows(augment(operations, batch, dataset.classes, draws, seed))


def augment(
    operations: Sequence[Operation], batch: Batch, classes: Sequence[str], draws: int, seed: int
) -> list[ImageRow]:
    """Return a row of images before augmentation, and a row after augmentation for each draw."""
    rows = [image_row("before", batch, classes)]
    for draw in range(draws):
        generator = torch.Generator().manual_seed(derive_seed(seed, "show", draw))
        changed = batch
        for operation in operations:
            changed = operation(*changed, generator)
        rows.append(image_row(f"draw {draw + 1}", changed, classes))
    return rows


def image_row(title: str, batch: Batch, classes: Sequence[str]) -> ImageRow:
    """Return a row of images, uint8 or floating, with their classes."""
    images, labels = batch
    pixels = images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return ImageRow(title, list(pixels), captions(labels, classes))


def captions(labels: Tensor, classes: Sequence[str]) -> list[str]:
    """Return the class of each label, or the two largest shares of a mixed label, as text."""
    if labels.ndim == 1:
        return [classes[label] for label in labels.tolist()]
    texts = []
    for shares in labels.tolist():
        largest = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)[:2]
        first, second = (f"{classes[label]} {shares[label]:.2f}" for label in largest)
        mixed = not second.endswith(" 0.00")
        texts.append(f"{first} /\n{second}" if mixed else classes[largest[0]])
    return texts
