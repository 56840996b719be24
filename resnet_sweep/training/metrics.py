"""Further metrics of the validation images, which the config group `metric` names."""

from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_sweep.protocols import ValidationMetric
from resnet_sweep.ranges import Count
from resnet_sweep.training.evaluation import accuracy


def evaluate_metric(metric: ValidationMetric, logits: Tensor, labels: Tensor) -> float:
    """Return the value of a metric, and reset a metric that keeps a state."""
    value = float(metric(logits, labels))
    reset = getattr(metric, "reset", None)
    if callable(reset):
        reset()
    return value


@dataclass(frozen=True)
class TopK:
    """Percentage of the images whose label is among the k largest logits.

    Raises:
        ValueError: with so few classes, the value would always be 100%.
    """

    k: Count = 5
    num_classes: int | None = None

    def __post_init__(self) -> None:
        if self.num_classes is not None and self.k >= self.num_classes:
            raise ValueError(
                f"k={self.k} is always 100% for {self.num_classes} classes: choose a smaller k"
            )

    def __call__(self, logits: Tensor, labels: Tensor) -> float:
        return accuracy(logits, labels, self.k)


@dataclass(frozen=True)
class BalancedAccuracy:
    """Mean recall of the classes that occur, in percent.

    Brodersen et al., 2010, "The Balanced Accuracy and Its Posterior Distribution".
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> float:
        correct, _, actual = _counts(logits, labels)
        occurs = actual > 0
        return 100 * (correct[occurs] / actual[occurs]).mean().item()


@dataclass(frozen=True)
class MacroF1:
    """Mean F1 score of the classes, in percent; classes that occur nowhere are left out.

    The F1 score of a class is 2 * correct / (predicted + actual), with the numbers of its images
    that are classified correctly, of images that are assigned to it, and of its images.
    """

    def __call__(self, logits: Tensor, labels: Tensor) -> float:
        correct, predicted, actual = _counts(logits, labels)
        occurs = predicted + actual > 0
        return 100 * (2 * correct[occurs] / (predicted + actual)[occurs]).mean().item()


def _counts(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers of correct, predicted and actual images of each class, as float64."""
    predicted, classes = logits.argmax(1), logits.shape[1]
    images = (labels[predicted == labels], predicted, labels)
    correct, assigned, actual = (torch.bincount(of, minlength=classes).double() for of in images)
    return correct, assigned, actual
