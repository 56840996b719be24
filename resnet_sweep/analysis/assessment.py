"""The figures that a test set gives a classifier."""

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from resnet_sweep.analysis.calibration import Calibration, measure_calibration
from resnet_sweep.analysis.confusion import Pair, confusion_matrix, most_confused
from resnet_sweep.training.evaluation import accuracy, cross_entropy

EXTREMES = 5
PAIRS = 10


@dataclass(frozen=True)
class Assessment:
    """What a classifier makes of a test set.

    Attributes:
        classes: their names.
        top1, top5: percent of the images whose label is among the one or five likeliest.
        loss: mean cross entropy.
        class_accuracy: of each class, percent; None of one without images.
        confusion: (classes, classes), a row for each true class, a column for each predicted one.
        confused_pairs: the most frequent mistakes, the most frequent first.
        calibration: of the predicted class's probability.
    """

    classes: list[str]
    top1: float
    top5: float
    loss: float
    class_accuracy: dict[str, float | None]
    confusion: np.ndarray
    confused_pairs: list[Pair]
    calibration: Calibration

    def best_classes(self) -> list[tuple[str, float]]:
        """The EXTREMES classes with the highest accuracy, with it, the best first."""
        return sorted(self._known(), key=lambda entry: -entry[1])[:EXTREMES]

    def worst_classes(self) -> list[tuple[str, float]]:
        """The EXTREMES classes with the lowest accuracy, with it, the worst first."""
        return sorted(self._known(), key=lambda entry: entry[1])[:EXTREMES]

    def _known(self) -> list[tuple[str, float]]:
        return [entry for entry in self.class_accuracy.items() if entry[1] is not None]

    def json(self, **circumstances: Any) -> bytes:
        """All figures, behind `circumstances`, as JSON with a line for each."""
        content = circumstances | asdict(self) | {"confusion": self.confusion.tolist()}
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()]
        return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def assess(logits: Tensor, labels: Tensor, classes: list[str]) -> Assessment:
    """The figures of a prediction.

    Args:
        logits: (n, classes), float32.
        labels: (n,), int64.
        classes: their names.
    """
    matrix = confusion_matrix(labels, logits.argmax(1), len(classes))
    shares = zip(matrix.diagonal().tolist(), matrix.sum(1).tolist(), strict=True)
    return Assessment(
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
