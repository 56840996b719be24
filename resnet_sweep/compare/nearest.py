"""The distance of a run's curves from those of another, and the runs that are nearest."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resnet_sweep.compare.collection import LOGGED_RUNS, logged_runs
from resnet_sweep.compare.diff_columns import MISSING, variants
from resnet_sweep.compare.format import format_table, shown
from resnet_sweep.compare.group import Group, Statistic, replicates, spread
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.safe_read import read_rows
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row


class Curve(NamedTuple):
    """The part of a metrics column in the distance.

    Attributes:
        scale: points per unit of the column.
        weight: its share where all columns are known.
    """

    scale: float
    weight: float


# A point is 1% of accuracy, or 1% of ln 100, the loss of a network that holds 100 classes equally
# likely. Validation accuracy has less weight because it varies by some points from epoch to epoch.
CURVES: Mapping[str, Curve] = {
    "train_acc": Curve(scale=1.0, weight=0.4),
    "val_acc": Curve(scale=1.0, weight=0.2),
    "train_loss": Curve(scale=100 / math.log(100), weight=0.4),
}


def distance(rows: Sequence[Row], reference: Sequence[Row]) -> float:
    """Return the distance between the curves of two runs, epoch by epoch, in points.

    The distance is the root of the weighted mean, over the columns of CURVES, of the mean square
    difference over the epochs that both runs have, each in points:

        sqrt(sum_c w_c * mean_e (s_c * (a_ce - b_ce))^2 / sum_c w_c)

    It is 0 for equal curves, and about 100 between a run that learns nothing and one that predicts
    everything from the first epoch on. A column that no epoch of both runs has is left out, and the
    weights of the others are scaled up. Runs of different lengths are compared over the epochs of
    the shorter one, regardless of their schedules.

    Args:
        rows, reference: the metrics of the runs, a row for each epoch.

    Raises:
        ConfigError: the runs have no epoch in common, or no column.
    """
    others = {row["epoch"]: row for row in reference}
    # If an epoch has several rows, its last row is used.
    pairs = [
        (row, others[epoch])
        for epoch, row in {row["epoch"]: row for row in rows}.items()
        if epoch in others
    ]
    if not pairs:
        raise ConfigError(
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
        raise ConfigError(
            f"the run and its reference have none of {', '.join(CURVES)} in common: choose a "
            "reference with one of these columns"
        )
    return math.sqrt(total / weights)


def read_reference(reference: str, folder: Path | None = None) -> list[Row]:
    """Return the curves that `reference` names.

    Args:
        reference: the name of a logged run, a run directory, or a file called metrics.csv.
        folder: that a relative path starts from; None for the current folder.

    Returns:
        A row for each epoch, at least one, with `epoch` and the columns that are known.

    Raises:
        ConfigError: it is none of these, or can't be read, or has no curve to compare with.
    """
    path = Path(folder or "", reference)
    if os.path.isdir(path):
        directory = path
    elif path.name == "metrics.csv":
        directory = path.parent
    elif reference in logged_runs():
        directory = LOGGED_RUNS / reference
    else:
        raise ConfigError(
            f"reference={shown(reference)} isn't known: name {' or '.join(logged_runs())}, a run "
            "directory, or a metrics.csv"
        )
    try:
        rows, problem = read_rows(directory)
    except FileNotFoundError as error:
        raise ConfigError(
            f"reference={shown(reference)} has no metrics.csv: name a run directory, such as "
            "outputs/DATE/TIME, or a metrics.csv"
        ) from error
    if problem:
        raise ConfigError(
            f"reference={shown(reference)} can't be read, because {shown(problem)}: restore its "
            "metrics.csv"
        )
    if not any(name in row for row in rows for name in CURVES):
        raise ConfigError(
            f"reference={shown(reference)} has no curve: its metrics.csv needs the column epoch, "
            f"one of {', '.join(CURVES)}, and a row for each epoch"
        )
    return rows


def _epochs(rows: Sequence[Row]) -> str:
    numbers = [row["epoch"] for row in rows]
    return f"epochs {min(numbers)} to {max(numbers)}" if numbers else "no epochs"


class NearestRuns:
    """Groups of replicates in the order of their distances from some references, nearest first.

    Args:
        runs: the candidates; those that can't be read are left out.
        references: curves, see `read_reference`, by the names that the table gives them.

    Attributes:
        groups: in the order of the distance from the nearest of the references; those without a
            complete run come last.
        distances: for each reference, the distances of the groups: mean and spread over the
            counted runs, None where it isn't known.
    """

    def __init__(
        self, runs: Iterable[LoadedRun | BrokenRun], references: Mapping[str, Sequence[Row]]
    ) -> None:
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        found = [
            (group, [_distance_of(group, rows) for rows in references.values()])
            for group in replicates(loaded)
        ]
        found.sort(key=lambda pair: (not pair[0].complete, min(map(_mean, pair[1]), default=0.0)))
        self.groups = [group for group, _ in found]
        self.distances: dict[str, list[Statistic | None]] = {
            name: [distances[at] for _, distances in found] for at, name in enumerate(references)
        }

    def ranked(self, reference: str) -> list[Group]:
        """Return the groups in the order of their distances from one of the references."""
        pairs = zip(self.groups, self.distances[reference], strict=True)
        order = sorted(pairs, key=lambda pair: (not pair[0].complete, _mean(pair[1])))
        return [group for group, _ in order]

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people: distances in points, and what differs between the runs.

        Args:
            width: of the terminal; None if there is none.
        """
        columns = [
            [shown(name), *(spread(distance, 2) for distance in distances)]
            for name, distances in self.distances.items()
        ]
        columns.append(["n", *(str(len(group.counted)) for group in self.groups)])
        columns.append(["epochs", *map(_epochs_of, self.groups)])
        right = range(len(columns))
        for name, values in variants([group.runs[0] for group in self.groups]).items():
            cells = ["" if value is MISSING else shown(value) for value in values]
            columns.append([shown(name), *cells])
        columns.append(["run", *(shown(group.counted[0].name) for group in self.groups)])
        return format_table(list(zip(*columns, strict=True)), right, width)


def _distance_of(group: Group, reference: Sequence[Row]) -> Statistic | None:
    def distance_of(run: LoadedRun) -> float | None:
        try:
            return distance(run.metrics.rows, reference)
        except ConfigError:
            return None

    return group.statistic(distance_of)


def _mean(statistic: Statistic | None) -> float:
    return float("inf") if statistic is None else statistic.mean


def _epochs_of(group: Group) -> str:
    """Return how many epochs the counted runs have, which limits what is compared."""
    counts = {len(run.metrics.rows) for run in group.counted}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
