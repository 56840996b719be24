"""The metrics of a run: `metrics.csv`, a row an epoch."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from resnet_sweep.runs.files import write_atomically

COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_acc",
    "val_loss",
    "val_acc",
    "grad_norm",
    "seconds",
    "images_per_second",
)
Row = Mapping[str, float]
# What a run can be watched by.
Metric = Literal["train_loss", "train_acc", "val_loss", "val_acc"]

# Enough digits that no information which a reader could use is lost; the rest keep all of them.
_FORMATS = {"epoch": "d", "seconds": ".3f", "images_per_second": ".1f"}


def best_row(rows: Iterable[Row]) -> Row | None:
    """The first row with the highest validation accuracy; None if there is no row."""
    return max(rows, key=lambda row: row["val_acc"], default=None)


def gain(metric: Metric, value: float, other: float) -> float:
    """By how much a value of a metric is better than another; negative if it is worse."""
    return value - other if metric.endswith("_acc") else other - value


def write_metrics(directory: Path, rows: Iterable[Row]) -> None:
    """Write all rows; a column missing from a row stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(
            format(row[column], _FORMATS.get(column, "")) if column in row else ""
            for column in COLUMNS
        )
    write_atomically(directory / "metrics.csv", text.getvalue().encode())


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics; a missing value is left out of its row.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
        ValueError: it holds something else than numbers.
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
