"""How far the curves of a run are from those of another, such as a logged one."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resnet_sweep.compare.collection import LOGGED_RUNS, logged_runs
from resnet_sweep.compare.reading import read_rows
from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.metrics import Row


class Curve(NamedTuple):
    """How a column of the metrics counts.

    Attributes:
        scale: points for one unit of it.
        weight: its share, where all columns are known.
    """

    scale: float
    weight: float


# A point is a hundredth of the way from knowing nothing of CIFAR-100 to knowing all of it: of an
# accuracy a percent, of the loss a hundredth of ln 100, where 100 classes are held equally likely.
# Validation goes up and down by some points from epoch to epoch in any run, and so counts less.
CURVES: Mapping[str, Curve] = {
    "train_acc": Curve(scale=1.0, weight=0.4),
    "val_acc": Curve(scale=1.0, weight=0.2),
    "train_loss": Curve(scale=100 / math.log(100), weight=0.4),
}


def distance(rows: Sequence[Row], reference: Sequence[Row]) -> float:
    """The distance between the curves of two runs, epoch by epoch, in points.

    It is the root of the weighted mean, over the columns of CURVES, of the mean square difference
    over the epochs that both runs have, each in points:

        sqrt(sum_c w_c * mean_e (s_c * (a_ce - b_ce))^2 / sum_c w_c)

    0 is the same curves, and about 100 all of the way from a run that learns nothing to one that
    knows everything at once. A column that isn't known in any epoch of both is left out, and the
    weights of the others make up for it. Runs of different lengths are compared over the epochs of
    the shorter one, with no regard to their schedules.

    Args:
        rows, reference: the metrics of the runs, a row an epoch.

    Raises:
        RequestError: the runs have no epoch in common, or no column.
    """
    others = {row["epoch"]: row for row in reference}
    # The last row of an epoch is that which counts, should there be several.
    pairs = [
        (row, others[epoch])
        for epoch, row in {row["epoch"]: row for row in rows}.items()
        if epoch in others
    ]
    if not pairs:
        raise RequestError(
            f"there is no epoch that the run ({_epochs(rows)}) and its reference "
            f"({_epochs(reference)}) both have: choose another reference"
        )
    total = weights = 0.0
    for name, (scale, weight) in CURVES.items():
        squares = [
            (scale * (row[name] - other[name])) ** 2
            for row, other in pairs
            if name in row and name in other
        ]
        if squares:
            total += weight * math.fsum(squares) / len(squares)
            weights += weight
    if not weights:
        raise RequestError(
            f"the run and its reference have none of {', '.join(CURVES)} in common: choose a "
            "reference with one of these columns"
        )
    return math.sqrt(total / weights)


def read_reference(reference: str, folder: Path | None = None) -> list[Row]:
    """The curves that `reference` names.

    Args:
        reference: the name of a logged run, a run directory, or a file called metrics.csv.
        folder: that a relative path starts from; None is the current one.

    Returns:
        A row an epoch, at least one, with `epoch` and the columns that are known.

    Raises:
        RequestError: it is none of these, or can't be read, or has no curve to compare with.
    """
    path = Path(folder or "", reference)
    if os.path.isdir(path):
        directory = path
    elif path.name == "metrics.csv":
        directory = path.parent
    elif reference in logged_runs():
        directory = LOGGED_RUNS / reference
    else:
        raise RequestError(
            f"reference={shown(reference)} isn't known: name {' or '.join(logged_runs())}, a run "
            "directory, or a metrics.csv"
        )
    try:
        rows, damage = read_rows(directory)
    except FileNotFoundError as error:
        raise RequestError(
            f"reference={shown(reference)} has no metrics.csv: name a run directory, such as "
            "outputs/DATE/TIME, or a metrics.csv"
        ) from error
    if damage:
        raise RequestError(
            f"reference={shown(reference)} can't be read, since {shown(damage)}: put a sound "
            "metrics.csv there"
        )
    if not any(name in row for row in rows for name in CURVES):
        raise RequestError(
            f"reference={shown(reference)} has no curve: its metrics.csv needs the column epoch, "
            f"one of {', '.join(CURVES)}, and a row an epoch"
        )
    return rows


def _epochs(rows: Sequence[Row]) -> str:
    numbers = [row["epoch"] for row in rows]
    return f"epochs {min(numbers)} to {max(numbers)}" if numbers else "no epochs"
