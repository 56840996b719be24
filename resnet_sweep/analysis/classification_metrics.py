"""Classification metrics: accuracies, loss, the confusion matrix and calibration."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import confusion_matrix
from torch import Tensor

from resnet_sweep.training.evaluation import accuracy, cross_entropy

# Number of bins of the confidence, which have equal widths.
BINS = 15
# Number of best and of worst classes, and of pairs of confused classes.
EXTREMES = 5
PAIRS = 10
# With more classes, the cells of the confusion matrix have no room for numbers.
MAX_NUMBERED_CLASSES = 20

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that the model confuses.

    Attributes:
        true, predicted: names of the true class and of the predicted class.
        images: number of images of the true class for which the other class is predicted.
        class_images: number of all images of the true class.
    """

    true: str
    predicted: str
    images: int
    class_images: int


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is above `lower` and at most `upper`, in percent.

    Attributes:
        images: number of images.
        confidence: mean probability of the predicted class, in percent; None without images.
        accuracy: accuracy in percent; None without images.
    """

    lower: float
    upper: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """The calibration of a classifier: its confidence compared with its accuracy.

    Guo et al., 2017, "On Calibration of Modern Neural Networks", equations 2 and 3.

    Attributes:
        error: expected calibration error, in percentage points: the mean absolute difference
            between accuracy and confidence over the bins, weighted by the number of images.
        bins: bins from 0 to 100% confidence.
    """

    error: float
    bins: list[Bin]


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of a classifier on a test set.

    Attributes:
        classes: names of the classes.
        top1, top5: top-1 and top-5 accuracy in percent.
        loss: mean cross entropy.
        class_accuracy: accuracy of each class in percent; None for a class without images.
        confusion: (classes, classes), confusion matrix with a row for each true class and a column
            for each predicted class.
        confused_pairs: the PAIRS most frequent mistakes, the most frequent first.
        calibration: calibration of the predicted class's probability.
    """

    classes: list[str]
    top1: float
    top5: float
    loss: float
    class_accuracy: dict[str, float | None]
    confusion: Matrix
    confused_pairs: list[ConfusedPair]
    calibration: Calibration

    def extreme_classes(self, best: bool) -> list[tuple[str, float]]:
        """Return the EXTREMES best classes with their accuracies, best first, or the worst ones."""
        known = [(name, value) for name, value in self.class_accuracy.items() if value is not None]
        return sorted(known, key=lambda entry: entry[1], reverse=best)[:EXTREMES]

    def json(self, **context: Any) -> bytes:
        """Return `context` and all metrics as a JSON object with one entry per line."""
        content = context | asdict(self) | {"confusion": self.confusion.tolist()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def classification_metrics(
    logits: Tensor, labels: Tensor, classes: list[str]
) -> ClassificationMetrics:
    """Return the metrics of logits, (n, classes), float32, for labels, (n,), int64."""
    matrix = confusion_matrix(labels, logits.argmax(1), labels=range(len(classes)))
    counts = zip(matrix.diagonal().tolist(), matrix.sum(1).tolist(), strict=True)
    return ClassificationMetrics(
        classes=classes,
        top1=accuracy(logits, labels),
        top5=accuracy(logits, labels, k=5),
        loss=cross_entropy(logits, labels),
        class_accuracy={
            name: 100 * correct / images if images else None
            for name, (correct, images) in zip(classes, counts, strict=True)
        },
        confusion=matrix,
        confused_pairs=most_confused(matrix, classes),
        calibration=measure_calibration(logits, labels),
    )


def most_confused(matrix: Matrix, classes: list[str]) -> list[ConfusedPair]:
    """Return the most frequently confused pairs of classes, at most PAIRS."""
    wrong = matrix - np.diag(matrix.diagonal())
    pairs = []
    for cell in np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]:
        true, predicted = divmod(int(cell), len(classes))
        if images := int(wrong[true, predicted]):
            pairs.append(
                ConfusedPair(classes[true], classes[predicted], images, int(matrix[true].sum()))
            )
    return pairs


def measure_calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration of logits, (n, classes), for labels, (n,), int64."""
    confidences, predicted = logits.double().softmax(1).max(1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    index = torch.bucketize(confidences, edges[1:-1])
    bins, gaps = [], 0.0
    for number in range(BINS):
        inside = index == number
        images = int(inside.sum())
        confidence = bin_accuracy = None
        if images:
            confidence = 100 * confidences[inside].mean().item()
            bin_accuracy = 100 * correct[inside].mean().item()
            gaps += images * abs(bin_accuracy - confidence)
        lower, upper = (100 * edge for edge in edges[number : number + 2].tolist())
        bins.append(Bin(lower, upper, images, confidence, bin_accuracy))
    return Calibration(gaps / len(labels), bins)


def draw_confusion(matrix: Matrix, classes: list[str], title: str) -> Figure:
    """Draw a confusion matrix, each row in percent of the images of its class."""
    small = len(classes) <= MAX_NUMBERED_CLASSES
    side = 4 + (0.5 if small else 0.11) * len(classes)
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    # A class without images has an empty row.
    percent = 100 * matrix / matrix.sum(1, keepdims=True).clip(min=1)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
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
    figure.colorbar(image, ax=axes, label="share of the true class, %", fraction=0.03, pad=0.01)
    return figure


def draw_reliability(calibration: Calibration, title: str) -> Figure:
    """Draw a reliability diagram: accuracy by confidence, and the number of images below it."""
    figure = Figure(figsize=(6.5, 7.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins, width = [bin_ for bin_ in calibration.bins if bin_.images], 100 / BINS
    left = np.array([bin_.lower for bin_ in bins])
    style: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
    upper.bar(left, [bin_.accuracy or 0.0 for bin_ in bins], **style, label="accuracy")
    upper.plot([0, 100], [0, 100], "--", color="gray", label="perfect calibration")
    confidences = [bin_.confidence or 0.0 for bin_ in bins]
    marker = {"color": "tab:orange", "markeredgecolor": "white"}
    upper.plot(left + width / 2, confidences, "o", **marker, label="mean confidence")
    upper.set(
        title=f"{title}\nexpected calibration error {calibration.error:.2f}%",
        ylabel="accuracy, and mean confidence, %",
        xlim=(0, 100),
        ylim=(0, 100.5),
    )
    counts = lower.bar(left, [bin_.images for bin_ in bins], **style, color="gray")
    # Numbers at the bars are needed because a bar of few images among thousands is invisible.
    lower.bar_label(counts, fontsize=8, padding=1)
    lower.margins(y=0.2)
    lower.set(xlabel="confidence: probability of the predicted class, %", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
