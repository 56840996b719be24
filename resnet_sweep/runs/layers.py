"""What each epoch did to each layer: `layers.csv`."""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from resnet_sweep.runs.files import write_atomically


class Layer(NamedTuple):
    """A layer at the end of an epoch.

    Attributes:
        name: of its filters or matrix in the model.
        grad_norm: Euclidean norm of its gradient, the mean over the epoch's steps.
        weight_norm: of its weights.
        update_norm: of the change that the epoch's last step made to them.
    """

    name: str
    grad_norm: float
    weight_norm: float
    update_norm: float


def write_layers(directory: Path, epochs: Iterable[Iterable[Layer]]) -> None:
    """Write the layers of all epochs, of which the first has number 1."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("epoch", "layer", *Layer._fields[1:]))
    for epoch, layers in enumerate(epochs, start=1):
        for name, *figures in layers:
            # Unknown of epochs that an older version trained.
            cells = ("" if math.isnan(figure) else f"{figure:.6g}" for figure in figures)
            writer.writerow((epoch, name, *cells))
    write_atomically(directory / "layers.csv", text.getvalue().encode())
