"""The metrics of a run: `metrics.csv`, a row for each epoch, and `layer_norms.csv`."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from resnet_sweep.runs.files import write_atomically

# The columns of metrics.csv, with the formats of their values: "" keeps all digits, which nobody
# needs of times. Accuracies are in percent.
COLUMNS = {
    "epoch": "d",
    "lr": "",
    "train_loss": "",
    "train_acc": "",
    "val_loss": "",
    "val_acc": "",
    "grad_norm": "",
    "seconds": ".3f",
    "images_per_second": ".1f",
}
# A row by its columns, of which some may be missing.
Row = Mapping[str, float]
# The metrics that a schedule, early stopping and pruning can watch.
Metric = Literal["train_loss", "train_acc", "val_loss", "val_acc"]


class LayerNorms(NamedTuple):
    """The norms of a layer at the end of an epoch, each the Euclidean one.

    Attributes:
        name: the layer's filters or matrix in the model.
        grad_norm: of the gradient, the mean over the epoch's steps.
        weight_norm: of the weights.
        update_norm: of the change by the last step of the epoch.
    """

    name: str
    grad_norm: float
    weight_norm: float
    update_norm: float


def best_row(rows: Iterable[Row]) -> Row | None:
    """Return the first row with the highest validation accuracy; None if there is no row."""
    return max(rows, key=lambda row: row["val_acc"], default=None)


def gain(metric: Metric, value: float, other: float) -> float:
    """Return by how much a value of a metric is better than another; negative if it is worse."""
    return value - other if metric.endswith("_acc") else other - value


def write_metrics(directory: Path, rows: Iterable[Row]) -> None:
    """Write `metrics.csv`; a column that a row doesn't have stays empty."""
    lines = (
        [format(row[name], form) if name in row else "" for name, form in COLUMNS.items()]
        for row in rows
    )
    _write_table(directory / "metrics.csv", COLUMNS, lines)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.csv`; an empty column is left out of its row.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
        ValueError: it has a value that isn't a number.
    """
    with (directory / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [
            {
                column: int(value) if column == "epoch" else float(value)
                for column, value in row.items()
                if value
            }
            for row in csv.DictReader(file)
        ]


def write_layer_norms(directory: Path, epochs: Iterable[Iterable[LayerNorms]]) -> None:
    """Write `layer_norms.csv`; the first epoch has number 1, and a norm that is NaN stays empty."""
    lines = (
        [str(epoch), name, *("" if math.isnan(norm) else f"{norm:.6g}" for norm in norms)]
        for epoch, layers in enumerate(epochs, start=1)
        for name, *norms in layers
    )
    _write_table(directory / "layer_norms.csv", ("epoch", "layer", *LayerNorms._fields[1:]), lines)


def _write_table(path: Path, header: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())
