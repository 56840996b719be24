"""The metrics of a run: `metrics.csv`, a row per epoch, and `layer_norms.csv`."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

from resnet_sweep.runs.files import write_atomically

# Maps the columns of metrics.csv to the formats of their values; "" keeps all digits. Accuracies
# are in percent.
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
# The columns of further metrics follow these columns. Their names begin with this prefix.
FURTHER = "val_"
_FURTHER_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
# Maps column names to values; columns may be missing.
Row = Mapping[str, float]
# The metrics that a schedule, early stopping and pruning can watch.
Metric = Literal["train_loss", "train_acc", "val_loss", "val_acc"]


class FurtherMetric(NamedTuple):
    """A metric of the validation images besides the loss and the accuracy of the evaluated model.

    Attributes:
        column: its column in `metrics.csv`.
        percent: whether the values are percentages.
        higher_is_better: whether the best epoch has the largest value.
    """

    column: str
    percent: bool
    higher_is_better: bool

    def best(self, rows: Iterable[Row]) -> float | None:
        """Return the best value of all epochs; None if there is none."""
        values = [row[self.column] for row in rows if self.column in row]
        return (max if self.higher_is_better else min)(values, default=None)


def further_metrics(config: Mapping[str, Any]) -> list[FurtherMetric]:
    """Return the further metrics of a run with this config; invalid ones are left out.

    They are the metrics in the group `metric`, and the `average_metrics` of all averages of the
    weights but the first.
    """
    group, trainer = config.get("metric"), config.get("trainer")
    named = [
        FurtherMetric(
            FURTHER + str(name),
            percent=node.get("percent", False) is True,
            higher_is_better=node.get("higher_is_better", True) is not False,
        )
        for name, node in (group.items() if isinstance(group, Mapping) else ())
        if isinstance(node, Mapping)
    ]
    decays = trainer.get("ema_decay") if isinstance(trainer, Mapping) else None
    averaged = [
        metric
        for decay in (decays[1:] if isinstance(decays, list) else ())
        if type(decay) in (int, float)
        for metric in average_metrics(decay)
    ]
    return [metric for metric in (*named, *averaged) if is_further_column(metric.column)]


def average_metrics(decay: float) -> tuple[FurtherMetric, FurtherMetric]:
    """Return the metrics of the averaged weights with this decay: the loss and the accuracy.

    Their columns are `val_loss_ema_0_99` and `val_acc_ema_0_99` for a decay of 0.99.
    """
    digits = f"{Decimal(str(decay)).normalize():f}".replace(".", "_")
    return (
        FurtherMetric(f"{FURTHER}loss_ema_{digits}", percent=False, higher_is_better=False),
        FurtherMetric(f"{FURTHER}acc_ema_{digits}", percent=True, higher_is_better=True),
    )


def is_further_column(name: str) -> bool:
    """Return whether a name can be the column of a further metric."""
    known = name in COLUMNS or not name.startswith(FURTHER)
    return not known and _FURTHER_NAME.fullmatch(name.removeprefix(FURTHER)) is not None


class LayerNorms(NamedTuple):
    """Euclidean norms of a layer's weight tensor, its gradient and its update in an epoch.

    Attributes:
        name: name of the weight tensor in the model.
        grad_norm: mean norm of the gradient over the epoch's steps.
        weight_norm: norm of the weights at the end of the epoch.
        update_norm: norm of the change that the last step of the epoch made.
    """

    name: str
    grad_norm: float
    weight_norm: float
    update_norm: float


def best_row(rows: Iterable[Row]) -> Row | None:
    """Return the first row with the highest validation accuracy; None if there is no row."""
    return max(rows, key=lambda row: row["val_acc"], default=None)


def gain(metric: Metric, value: float, other: float) -> float:
    """Return the improvement of a metric from `other` to `value`; negative if it is worse."""
    return value - other if metric.endswith("_acc") else other - value


def write_metrics(directory: Path, rows: Iterable[Row]) -> None:
    """Write `metrics.csv`; a column that is missing in a row stays empty.

    The columns of further metrics follow the others.
    """
    rows = list(rows)
    columns = COLUMNS | {name: "" for row in rows for name in row if is_further_column(name)}
    lines = (
        [format(row[name], form) if name in row else "" for name, form in columns.items()]
        for row in rows
    )
    _write_table(directory / "metrics.csv", columns, lines)


def read_metrics(directory: Path) -> list[dict[str, float]]:
    """Return the rows of `metrics.csv`, without their empty columns.

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
    """Write `layer_norms.csv`; epochs are numbered from 1, and a NaN norm stays empty."""
    lines = (
        [str(epoch), name, *("" if math.isnan(norm) else f"{norm:.6g}" for norm in norms)]
        for epoch, layers in enumerate(epochs, start=1)
        for name, *norms in layers
    )
    _write_table(directory / "layer_norms.csv", ("epoch", "layer", *LayerNorms._fields[1:]), lines)


def read_layer_norms(directory: Path) -> list[list[LayerNorms]]:
    """Return the norms of each layer in each epoch from `layer_norms.csv`; an empty norm is NaN.

    Raises:
        FileNotFoundError: there is no `layer_norms.csv`.
        ValueError: it has a value that isn't a number.
    """
    epochs: dict[str, list[LayerNorms]] = {}
    with (directory / "layer_norms.csv").open(newline="", encoding="utf-8") as file:
        for epoch, name, *norms in list(csv.reader(file))[1:]:
            values = (float(norm or "nan") for norm in norms)
            epochs.setdefault(epoch, []).append(LayerNorms(name, *values))
    return [*epochs.values()]


def _write_table(path: Path, header: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    write_atomically(path, text.getvalue().encode())
