"""Calibration: a network's confidence compared with its accuracy."""

from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is above `lower` and at most `upper`.

    Attributes:
        lower, upper: percent.
        images: number of images.
        confidence: their mean probability of the predicted class, percent; None without images.
        accuracy: percent; None without images.
    """

    lower: float
    upper: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Calibration of a classifier.

    Guo et al., "On Calibration of Modern Neural Networks", 2017, equations 2 and 3.

    Attributes:
        error: expected calibration error: the mean difference between accuracy and confidence of
            the bins, weighted by their images, in percentage points.
        bins: bins of equal width, from 0 to 100% confidence.
    """

    error: float
    bins: list[Bin]


def measure_calibration(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration of predictions, over BINS bins.

    Args:
        logits: (n, classes).
        labels: (n,), int64.
    """
    confidences, predicted = logits.double().softmax(1).max(1)
    correct = (predicted == labels).double()
    edges = torch.linspace(0, 1, BINS + 1, dtype=torch.float64)
    index = torch.bucketize(confidences, edges[1:-1])
    bins = []
    for number in range(BINS):
        inside = index == number
        images = int(inside.sum())
        bins.append(
            Bin(
                lower=100 * edges[number].item(),
                upper=100 * edges[number + 1].item(),
                images=images,
                confidence=100 * confidences[inside].mean().item() if images else None,
                accuracy=100 * correct[inside].mean().item() if images else None,
            )
        )
    gaps = [
        bin_.images * abs(bin_.accuracy - bin_.confidence)
        for bin_ in bins
        if bin_.accuracy is not None and bin_.confidence is not None
    ]
    return Calibration(error=sum(gaps) / len(labels), bins=bins)


def draw_reliability(calibration: Calibration, title: str) -> Figure:
    """Draw accuracy against confidence, and below it the number of images of that confidence."""
    figure = Figure(figsize=(6.5, 7.5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins, width = [bin_ for bin_ in calibration.bins if bin_.images], 100 / BINS
    left = [bin_.lower for bin_ in bins]
    style: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white"}
    accuracies = [bin_.accuracy or 0.0 for bin_ in bins]
    confidences = [bin_.confidence or 0.0 for bin_ in bins]
    upper.bar(left, accuracies, **style, label="accuracy")
    upper.plot([0, 100], [0, 100], "--", color="gray", label="perfect calibration")
    upper.plot(
        [bin_.lower + width / 2 for bin_ in bins],
        confidences,
        "o",
        color="tab:orange",
        markeredgecolor="white",
        label="mean confidence",
    )
    upper.set(
        title=f"{title}\nexpected calibration error {calibration.error:.2f}%",
        ylabel="accuracy, and mean confidence, %",
        xlim=(0, 100),
        ylim=(0, 100.5),
    )
    counts = lower.bar(left, [bin_.images for bin_ in bins], **style, color="gray")
    # A bar of few images among thousands is invisible, but its number isn't.
    lower.bar_label(counts, fontsize=8, padding=1)
    lower.margins(y=0.2)
    lower.set(xlabel="confidence: probability of the predicted class, %", ylabel="images")
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
    for axes in (upper, lower):
        axes.set_axisbelow(True)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return figure
