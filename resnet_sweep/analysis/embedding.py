"""A two-dimensional embedding of the features that are the input of a network's classifier."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor, nn

from resnet_sweep.analysis.layers import NotApplicableError

DIMENSIONS = 50
PERPLEXITY = 30
# Matplotlib's twenty colors without its grays, the strong ones first. More colors couldn't be
# distinguished.
COLORS = [
    colormaps["tab20"](index) for index in (*range(0, 20, 2), *range(1, 20, 2)) if index // 2 != 7
]

Points = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.integer[Any]]


@contextmanager
def collect_inputs(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """Yield a list that collects a layer's inputs in this context: (N, width), float32, on the CPU.

    If `layer` is None, the list stays empty.
    """
    collected: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        collected.append(inputs[0].flatten(1).float().cpu())

    if layer is None:
        yield collected
    else:
        with layer.register_forward_pre_hook(hook):
            yield collected


def embed(features: Points) -> Points:
    """Return a t-SNE embedding of vectors, which keeps near vectors near each other.

    Van der Maaten and Hinton, 2008, "Visualizing Data using t-SNE", applied to the first DIMENSIONS
    principal components.

    Args:
        features: (n, width).

    Returns:
        (n, 2), float32.

    Raises:
        NotApplicableError: there are fewer than three vectors, or all vectors are equal.
    """
    if len(features) < 3 or not np.ptp(features, axis=0).any():
        raise NotApplicableError("an embedding needs at least three images with different features")
    dimensions = min(DIMENSIONS, len(features))
    if features.shape[1] > dimensions:
        features = PCA(dimensions, random_state=0).fit_transform(features)
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points: Points = TSNE(perplexity=perplexity, random_state=0).fit_transform(features)
    return points


def draw_embedding(points: Points, labels: Labels, classes: list[str], title: str) -> Figure:
    """Draw an embedding, (n, 2), colored by class, with the name of a class at its median.

    If there are more classes than COLORS, only the most compact ones have a color and a name. The
    others are gray.
    """
    medians, named = compact_classes(points, labels, classes)
    colored = sorted(medians)
    if len(classes) > len(COLORS):
        title += f"\nthe {len(named)} most compact of {len(classes)} classes are colored"
        colored = named
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots()
    others = ~np.isin(labels, colored)
    axes.scatter(points[others, 0], points[others, 1], s=8, color="lightgray", linewidths=0)
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 11, "fontweight": "bold"}
    style["path_effects"] = [withStroke(linewidth=3, foreground="white")]
    for label, color in zip(colored, COLORS, strict=False):
        x, y = points[labels == label].T
        axes.scatter(x, y, s=18, color=color, linewidths=0, label=classes[label])
        if label in named:
            x, y = medians[label]
            axes.text(x, y, classes[label], **style)
    axes.set(title=title, xticks=[], yticks=[])
    axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside right upper", markerscale=1.5)
    return figure


def compact_classes(
    points: Points, labels: Labels, classes: list[str]
) -> tuple[dict[int, Points], list[int]]:
    """Return the median of each class that has points, and the most compact classes.

    The most compact class comes first, and there are at most as many classes as COLORS. A class is
    left out if its name would overlap the name of a more compact class.
    """
    medians: dict[int, Points] = {}
    spreads: dict[int, float] = {}
    for label in map(int, np.unique(labels)):
        group = points[labels == label]
        medians[label] = np.median(group, axis=0)
        spreads[label] = float(np.linalg.norm(group - medians[label], axis=1).mean())
    # Width of a letter and height of a line, as fractions of the figure.
    letter, line = (0.018, 0.035) * np.ptp(points, axis=0)
    chosen: list[int] = []
    for label in sorted(spreads, key=spreads.__getitem__):
        apart = (
            abs(medians[label] - medians[other])
            > (letter * (len(classes[label]) + len(classes[other])) / 2, line)
            for other in chosen
        )
        if len(chosen) < len(COLORS) and all(axes.any() for axes in apart):
            chosen.append(label)
    return medians, chosen
