"""Preview of augmentation: images before and after it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from resnet_sweep.data.dataset import Batch, Batches, Dataset
from resnet_sweep.picture import png
from resnet_sweep.randomness import derive_seed

# Pixels on the screen: approximate width of an image, and the space around it.
IMAGE, GAP, MARGIN = 160, 12, 30
DPI = 100
FONT_SIZE = 9
# Pixels from one line of text to the next.
LINE = 16

Operation = Callable[[Tensor, Tensor, Generator], Batch]


@dataclass(frozen=True)
class ImageRow:
    """A row of images, (B, 3, H, W), 0..255, with a text beside them and lines under each."""

    title: str
    images: Tensor
    captions: list[list[str]]


def draw_augmentation(
    operations: Sequence[Operation], dataset: Dataset, images: int, draws: int, seed: int
) -> bytes:
    """Return a PNG file of some training images before augmentation, and several times after it.

    Args:
        operations: in order; see `resnet_sweep.augmentation`.
        dataset: dataset of the images.
        images: number of images, side by side.
        draws: number of rows after augmentation.
        seed: seed of the random choices.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "show"))
    positions = torch.randperm(len(dataset.train), generator=generator)[:images]
    batch, labels = Batches(dataset.train, torch.device("cpu")).take(positions)
    return draw_grid(augment(operations, batch, labels, dataset.classes, draws, seed))


def augment(
    operations: Sequence[Operation],
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    draws: int,
    seed: int,
) -> list[ImageRow]:
    """Return a row of the images before augmentation, and a row for each draw after it."""
    rows = [ImageRow("before", images, captions(labels, classes))]
    for draw in range(draws):
        generator = torch.Generator().manual_seed(derive_seed(seed, "show", draw))
        changed, mixed = images, labels
        for operation in operations:
            changed, mixed = operation(changed, mixed, generator)
        rows.append(ImageRow(f"draw {draw + 1}", changed, captions(mixed, classes)))
    return rows


def captions(labels: Tensor, classes: Sequence[str]) -> list[list[str]]:
    """Return the class of each label; for a mixed one, the two largest with their shares."""
    if labels.ndim == 1:
        return [[classes[label]] for label in labels.tolist()]
    found = []
    for shares in labels.tolist():
        largest = sorted(range(len(shares)), key=shares.__getitem__, reverse=True)[:2]
        one, other = (f"{classes[label]} {shares[label]:.2f}" for label in largest)
        mixed = not other.endswith(" 0.00")
        found.append([f"{one} /", other] if mixed else [classes[largest[0]]])
    return found


def draw_grid(rows: Sequence[ImageRow]) -> bytes:
    """Return a PNG file of the rows, with images scaled by a whole number."""
    # This import takes a second, and training doesn't need it.
    from matplotlib.figure import Figure

    count, _, height, width = rows[0].images.shape
    zoom = max(1, IMAGE // width)
    # The height of a row includes its longest caption; its title is in the margin.
    heights = [zoom * height + LINE * max(map(len, row.captions)) for row in rows]
    across = MARGIN + count * (zoom * width + GAP)
    down = GAP + sum(heights) + GAP * len(rows)
    figure = Figure((across / DPI, down / DPI), dpi=DPI, facecolor="white")
    # Positions are in pixels, and matplotlib counts from the bottom.
    style: dict[str, Any] = {"transform": None, "ha": "center", "fontsize": FONT_SIZE}
    top = down - GAP
    for row, row_height in zip(rows, heights, strict=True):
        pixels = row.images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        bottom = top - zoom * height
        title_style = style | {"va": "center", "fontsize": FONT_SIZE + 1, "color": "0.35"}
        figure.text(MARGIN / 2, (top + bottom) / 2, row.title, rotation=90, **title_style)
        for column, (image, caption) in enumerate(zip(pixels, row.captions, strict=True)):
            left = MARGIN + column * (zoom * width + GAP)
            figure.figimage(image.repeat(zoom, 0).repeat(zoom, 1), left, bottom, origin="upper")
            for number, line in enumerate(caption, start=1):
                figure.text(left + zoom * width / 2, bottom - number * LINE, line, **style)
        top -= row_height + GAP
    return png(figure, DPI)
