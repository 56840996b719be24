"""Confusion: which classes are taken for which."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

# Up to this many classes there is room for a number in each cell.
NUMBERED = 20


@dataclass(frozen=True)
class Pair:
    """A class that is taken for another.

    Attributes:
        true, predicted: names of the classes.
        images: of the one that are taken for the other.
        of: images of the one.
    """

    true: str
    predicted: str
    images: int
    of: int


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> np.ndarray:
    """How many images of each class are predicted to be of each.

    Args:
        labels, predicted: (n,), int64.
        classes: how many there are.

    Returns:
        (classes, classes), int64: a row for each true class, a column for each predicted one.
    """
    cells = (labels * classes + predicted).bincount(minlength=classes**2)
    return cells.view(classes, classes).numpy()


def most_confused(matrix: np.ndarray, classes: list[str], count: int) -> list[Pair]:
    """The `count` pairs of different classes with the most images; fewer where there are none."""
    wrong = matrix - np.diag(matrix.diagonal())
    pairs = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:count]:
        true, predicted = divmod(int(cell), len(classes))
        if images := int(wrong[true, predicted]):
            pairs.append(Pair(classes[true], classes[predicted], images, int(matrix[true].sum())))
    return pairs


def draw_confusion(matrix: np.ndarray, classes: list[str], title: str) -> Figure:
    """The matrix, each row in percent of its class."""
    small = len(classes) <= NUMBERED
    side = 4 + 0.5 * len(classes) if small else 4 + 0.11 * len(classes)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    # A class without images has an empty row.
    images = matrix.sum(1, keepdims=True)
    percent = np.divide(100 * matrix, images, out=np.zeros(matrix.shape), where=images > 0)
    picture = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    size = 10 if small else 5.5
    wide = max(map(len, classes)) > 3
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=90 if wide else 0, fontsize=size)
    axes.set_yticks(ticks, classes, fontsize=size)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=2)
    if small:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                color = "white" if percent[row, column] > 50 else "black"
                axes.text(column, row, count, ha="center", va="center", color=color)
    else:
        for line in np.arange(9.5, len(classes) - 1, 10):
            axes.axhline(line, color="gray", linewidth=0.3)
            axes.axvline(line, color="gray", linewidth=0.3)
    figure.colorbar(picture, ax=axes, label="images of the true class, %", fraction=0.03, pad=0.01)
    return figure
