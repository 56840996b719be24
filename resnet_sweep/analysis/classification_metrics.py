"""Classification metrics on a test set, and the confusion matrix."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from torch import Tensor

from resnet_sweep.analysis.calibration import Calibration, measure_calibration
from resnet_sweep.training.evaluation import accuracy, cross_entropy

EXTREMES = 5
PAIRS = 10
# With more classes there is no room for a number in each cell.
NUMBERED = 20

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pair:
    """A true class and another one that is predicted for it.

    Attributes:
        true, predicted: names of the classes.
        images: images of the true class with this prediction.
        of: images of the true class.
    """

    true: str
    predicted: str
    images: int
    of: int


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of a classifier on a test set.

    Attributes:
        classes: names of the classes.
        top1, top5: percent of the images whose label is among the one or five likeliest.
        loss: mean cross entropy.
        class_accuracy: percent for each class; None for a class without images.
        confusion: (classes, classes), a row for each true class, a column for each predicted one.
        confused_pairs: the most frequent mistakes, the most frequent first.
        calibration: of the predicted class's probability.
    """

    classes: list[str]
    top1: float
    top5: float
    loss: float
    class_accuracy: dict[str, float | None]
    confusion: Matrix
    confused_pairs: list[Pair]
    calibration: Calibration

    def best_classes(self) -> list[tuple[str, float]]:
        """Return the EXTREMES classes with the highest accuracy, and the accuracy, best first."""
        return sorted(self._known(), key=lambda entry: -entry[1])[:EXTREMES]

    def worst_classes(self) -> list[tuple[str, float]]:
        """Return the EXTREMES classes with the lowest accuracy, and the accuracy, worst first."""
        return sorted(self._known(), key=lambda entry: entry[1])[:EXTREMES]

    def _known(self) -> list[tuple[str, float]]:
        return [(name, value) for name, value in self.class_accuracy.items() if value is not None]

    def json(self, **circumstances: Any) -> bytes:
        """Return `circumstances` and all metrics as JSON, with a line for each."""
        content = circumstances | asdict(self) | {"confusion": self.confusion.tolist()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def classification_metrics(
    logits: Tensor, labels: Tensor, classes: list[str]
) -> ClassificationMetrics:
    """Return the metrics of predictions.

    Args:
        logits: (n, classes), float32.
        labels: (n,), int64.
        classes: names of the classes.
    """
    matrix = confusion_matrix(labels, logits.argmax(1), len(classes))
    shares = zip(matrix.diagonal().tolist(), matrix.sum(1).tolist(), strict=True)
    return ClassificationMetrics(
        classes=classes,
        top1=accuracy(logits, labels),
        top5=accuracy(logits, labels, k=5),
        loss=cross_entropy(logits, labels),
        class_accuracy={
            name: 100 * right / images if images else None
            for name, (right, images) in zip(classes, shares, strict=True)
        },
        confusion=matrix,
        confused_pairs=most_confused(matrix, classes, PAIRS),
        calibration=measure_calibration(logits, labels),
    )


def confusion_matrix(labels: Tensor, predicted: Tensor, classes: int) -> Matrix:
    """Count the images of each true class with each predicted class.

    Args:
        labels, predicted: (n,), int64.
        classes: number of classes.

    Returns:
        (classes, classes), int64: a row for each true class, a column for each predicted one.
    """
    cells = (labels * classes + predicted).bincount(minlength=classes**2)
    matrix: Matrix = cells.view(classes, classes).numpy()
    return matrix


def most_confused(matrix: Matrix, classes: list[str], count: int) -> list[Pair]:
    """Return the pairs of different classes with the most images, `count` at most."""
    wrong = matrix - np.diag(matrix.diagonal())
    pairs = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:count]:
        true, predicted = divmod(int(cell), len(classes))
        if images := int(wrong[true, predicted]):
            pairs.append(Pair(classes[true], classes[predicted], images, int(matrix[true].sum())))
    return pairs


def draw_confusion(matrix: Matrix, classes: list[str], title: str) -> Figure:
    """Draw the matrix, each row in percent of its class."""
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
                axes.text(column, row, str(count), ha="center", va="center", color=color)
    else:
        for line in np.arange(9.5, len(classes) - 1, 10):
            axes.axhline(line, color="gray", linewidth=0.3)
            axes.axvline(line, color="gray", linewidth=0.3)
    figure.colorbar(picture, ax=axes, label="images of the true class, %", fraction=0.03, pad=0.01)
    return figure
