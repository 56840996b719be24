"""An embedding of the features that a network's classifier sees, in two dimensions."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnet_sweep.analysis.layers import Layers, NotApplicableError, Observer

DIMENSIONS = 50
PERPLEXITY = 30
# Matplotlib's twenty colors without its grays, the strong ones first.
COLORS = [
    colormaps["tab20"](index) for index in (*range(0, 20, 2), *range(1, 20, 2)) if index // 2 != 7
]
# Colors for more classes can't be distinguished.
NAMES = len(COLORS)

Points = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]


class ClassifierInputs(Observer):
    """Collects the inputs of a network's classifier, within its context.

    Args:
        layers: layers of the network.
    """

    def __init__(self, layers: Layers) -> None:
        self.classifier = layers.classifier
        self.collected: list[Tensor] = []

    def attach(self) -> Iterator[RemovableHandle]:
        if self.classifier is not None:
            yield self.classifier.register_forward_pre_hook(self._collect)

    def _collect(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.collected.append(inputs[0].flatten(1).float().cpu())

    def features(self) -> Points:
        """Return the collected inputs, (n, width), float32.

        Raises:
            NotApplicableError: the network has no linear classifier.
        """
        if not self.collected:
            raise NotApplicableError("the model has no linear layer")
        features: Points = torch.cat(self.collected).numpy()
        return features


def embed(features: Points) -> Points:
    """Return an embedding of vectors by t-SNE, in which near vectors stay near.

    Van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008, applied to the first DIMENSIONS
    principal components.

    Args:
        features: (n, width).

    Returns:
        (n, 2), float32.

    Raises:
        NotApplicableError: there are fewer than three vectors, or all are equal.
    """
    if len(features) < 3 or not np.ptp(features, axis=0).any():
        raise NotApplicableError("a map needs three images at least, and features that differ")
    dimensions = min(DIMENSIONS, len(features))
    if features.shape[1] > dimensions:
        features = PCA(dimensions, random_state=0).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points: Points = TSNE(perplexity=perplexity, random_state=0).fit_transform(features)
    return points


def draw_embedding(points: Points, labels: Labels, classes: list[str], title: str) -> Figure:
    """Draw an embedding, colored by class, with names at the classes' medians.

    If there are more than NAMES classes, the most compact ones have a color and a name, and the
    others are gray.

    Args:
        points: (n, 2).
        labels: (n,), integers.
        classes: names of the classes.
        title: above the figure.
    """
    medians, chosen = compact_classes(points, labels, classes)
    if len(classes) > NAMES:
        title += f"\nin color {len(chosen)} of {len(classes)} classes, the most compact"
    colored = chosen if len(classes) > NAMES else sorted(medians)
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots()
    others = ~np.isin(labels, colored)
    axes.scatter(points[others, 0], points[others, 1], s=8, color="lightgray", linewidths=0)
    for label, color in zip(colored, COLORS, strict=False):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=18, color=color, linewidths=0, label=classes[label])
        if label in chosen:
            x, y = medians[label]
            axes.text(
                x,
                y,
                classes[label],
                ha="center",
                va="center",
                fontsize=11,
                fontweight="bold",
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", markerscale=1.5)
    return figure


def compact_classes(
    points: Points, labels: Labels, classes: list[str]
) -> tuple[dict[int, Points], list[int]]:
    """Return the position of each class, and the most compact classes, NAMES at most.

    A class is left out if its name would cover that of a more compact one.

    Args:
        points: (n, 2).
        labels: (n,), integers.
        classes: names of the classes.

    Returns:
        The median of each class that has points; labels, the most compact class first.
    """
    groups = {int(label): points[labels == label] for label in np.unique(labels)}
    medians: dict[int, Points] = {
        label: np.median(group, axis=0) for label, group in groups.items()
    }
    spreads = {
        label: np.linalg.norm(group - medians[label], axis=1).mean()
        for label, group in groups.items()
    }
    # Width of a letter and height of a line, as shares of the figure.
    letter, line = (0.018, 0.035) * np.ptp(points, axis=0)
    chosen: list[int] = []
    for label in sorted(spreads, key=lambda label: float(spreads[label])):
        apart = (
            abs(medians[label] - medians[other])
            > (letter * (len(classes[label]) + len(classes[other])) / 2, line)
            for other in chosen
        )
        if len(chosen) < NAMES and all(axes.any() for axes in apart):
            chosen.append(label)
    return medians, chosen
