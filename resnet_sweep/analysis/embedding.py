"""A map of the vectors that a network's classifier sees."""

from collections.abc import Iterator
from typing import Any

import numpy as np
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
# Matplotlib's twenty colours without its grays, the strong ones first.
COLORS = [colormaps["tab20"].colors[index] for index in (*range(0, 20, 2), *range(1, 20, 2))
          if index not in (14, 15)]  # fmt: skip
# No more classes than that can be told apart.
NAMES = len(COLORS)


class ClassifierInputs(Observer):
    """Within this context, the inputs of a network's classifier are collected.

    Args:
        layers: of the network.
    """

    def __init__(self, layers: Layers) -> None:
        self.classifier = layers.classifier
        self.collected: list[Tensor] = []

    def attach(self) -> Iterator[RemovableHandle]:
        if self.classifier is not None:
            yield self.classifier.register_forward_pre_hook(self._collect)

    def _collect(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.collected.append(inputs[0].flatten(1).float().cpu())

    def features(self) -> np.ndarray:
        """All that were collected, (n, width), float32.

        Raises:
            NotApplicableError: the network has no linear classifier.
        """
        if not self.collected:
            raise NotApplicableError("the model has no linear layer")
        return torch.cat(self.collected).numpy()


def embed(features: np.ndarray) -> np.ndarray:
    """A map of vectors on which near ones stay near.

    Van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008; of the DIMENSIONS principal
    components, where there are more.

    Args:
        features: (n, width).

    Returns:
        (n, 2), float32.

    Raises:
        NotApplicableError: there are fewer than three vectors, or all are the same.
    """
    if len(features) < 3 or not np.ptp(features, axis=0).any():
        raise NotApplicableError("a map needs three images at least, and features that differ")
    dimensions = min(DIMENSIONS, len(features))
    if features.shape[1] > dimensions:
        features = PCA(dimensions, random_state=0).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, random_state=0).fit_transform(features)


def draw_embedding(
    points: np.ndarray, labels: np.ndarray, classes: list[str], title: str
) -> Figure:
    """The map, coloured by class, with names at the classes' medians.

    Of more than NAMES classes, the most compact have a colour and a name, and the others are gray.

    Args:
        points: (n, 2).
        labels: (n,), integers.
        classes: their names.
        title: above all.
    """
    medians, chosen = compact_classes(points, labels, classes)
    if len(classes) > NAMES:
        title += f"\nin colour {len(chosen)} of {len(classes)} classes, the most compact"
    colored = chosen if len(classes) > NAMES else sorted(medians)
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots()
    others = ~np.isin(labels, colored)
    axes.scatter(*points[others].T, s=8, color="lightgray", linewidths=0)
    for label, color in zip(colored, COLORS, strict=False):
        axes.scatter(
            *points[labels == label].T, s=18, color=color, linewidths=0, label=classes[label]
        )
        if label in chosen:
            axes.text(
                *medians[label], classes[label], ha="center", va="center", fontsize=11,
                fontweight="bold", path_effects=[withStroke(linewidth=3, foreground="white")],
            )  # fmt: skip
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", markerscale=1.5)
    return figure


def compact_classes(
    points: np.ndarray, labels: np.ndarray, classes: list[str]
) -> tuple[dict[int, np.ndarray], list[int]]:
    """Where each class is, and the NAMES most compact whose names don't cover each other.

    Args:
        points: (n, 2).
        labels: (n,), integers.
        classes: their names.

    Returns:
        The median of each class that has points; labels, the most compact class first.
    """
    groups = {int(label): points[labels == label] for label in np.unique(labels)}
    medians = {label: np.median(group, axis=0) for label, group in groups.items()}
    spreads = {
        label: np.linalg.norm(group - medians[label], axis=1).mean()
        for label, group in groups.items()
    }
    # The room of a name, in shares of the map.
    letter, line = (0.018, 0.035) * np.ptp(points, axis=0)
    chosen: list[int] = []
    for label in sorted(spreads, key=spreads.get):
        apart = (
            abs(medians[label] - medians[other])
            > (letter * (len(classes[label]) + len(classes[other])) / 2, line)
            for other in chosen
        )
        if len(chosen) < NAMES and all(each.any() for each in apart):
            chosen.append(label)
    return medians, chosen
