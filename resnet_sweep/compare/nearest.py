"""The distance of a run's curves from those of another, and the runs that are nearest."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from resnet_sweep.compare.collection import LOGGED_RUNS, logged_runs
from resnet_sweep.compare.diff_columns import cells, variants
from resnet_sweep.compare.format import format_table, shown
from resnet_sweep.compare.group import Group, Statistic, replicates, spread
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.runs_table import COLUMNS
from resnet_sweep.compare.safe_read import read_rows
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row


class Curve(NamedTuple):
    """A metrics column in the distance: points per unit, and its share if all are known."""

    scale: float
    weight: float


# A point is 1% of accuracy, or 1% of ln 100, the loss of a network that holds 100 classes equally
# likely. Validation accuracy has less weight because it varies by some points from epoch to epoch.
CURVES: Mapping[str, Curve] = {
    "train_acc": Curve(scale=1.0, weight=0.4),
    "val_acc": Curve(scale=1.0, weight=0.2),
    "train_loss": Curve(scale=100 / math.log(100), weight=0.4),
}


def distance(rows: Iterable[Row], reference: Iterable[Row]) -> float | None:
    """Return the distance between the curves of two runs, epoch by epoch, in points.

    The distance is the root of the weighted mean, over the columns of CURVES, of the mean square
    difference over the epochs that both runs have, each in points:

        sqrt(sum_c w_c * mean_e (s_c * (a_ce - b_ce))^2 / sum_c w_c)

    It is 0 for equal curves, and about 100 between a run that learns nothing and one that predicts
    everything from the first epoch on. A column that no epoch of both runs has is left out, and the
    weights of the others are scaled up. Runs of different lengths are compared over the epochs of
    the shorter one, regardless of their schedules. If an epoch has several rows, the last counts.

    Returns:
        The distance; None if the runs have no epoch in common, or no column.
    """
    ours, theirs = ({row["epoch"]: row for row in run} for run in (rows, reference))
    pairs = [(row, theirs[epoch]) for epoch, row in ours.items() if epoch in theirs]
    total = weights = 0.0
    for name, (scale, weight) in CURVES.items():
        squares = [
            (scale * (row[name] - other[name])) ** 2
            for row, other in pairs
            if name in row and name in other
        ]
        if squares:
            total += weight * fmean(squares)
            weights += weight
    return math.sqrt(total / weights) if weights else None


def read_reference(reference: str) -> list[Row]:
    """Return the curves that `reference` names.

    Args:
        reference: the name of a logged run, a run directory, or a file called metrics.csv.

    Returns:
        A row for each epoch, at least one, with `epoch` and the columns that are known.

    Raises:
        ConfigError: it is none of these, or can't be read, or has no curve to compare with.
    """
    name, directory = f"reference={shown(reference)}", Path(reference)
    if not os.path.isdir(directory):
        if directory.name == "metrics.csv":
            directory = directory.parent
        elif reference in logged_runs():
            directory = LOGGED_RUNS / reference
        else:
            raise ConfigError(
                f"{name} isn't known: name {' or '.join(logged_runs())}, a run directory, or a "
                "metrics.csv"
            )
    try:
        rows, problem = read_rows(directory)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{name} has no metrics.csv: name a run directory, such as outputs/DATE/TIME, or a "
            "metrics.csv"
        ) from error
    if problem:
        raise ConfigError(
            f"{name} can't be read, because {shown(problem)}: restore its metrics.csv"
        )
    if not any(column in row for row in rows for column in CURVES):
        raise ConfigError(
            f"{name} has no curve: its metrics.csv needs the column epoch, one of "
            f"{', '.join(CURVES)}, and a row for each epoch"
        )
    return rows


class NearestRuns:
    """Groups of replicates in the order of their distances from some references, nearest first.

    Args:
        runs: the candidates; those that can't be read are left out.
        references: curves, see `read_reference`, by the names that the table gives them.

    Attributes:
        groups: by the distance from the nearest reference; those without a complete run come last.
        distances: the distances of the groups from each reference, None where it isn't known.
    """

    def __init__(
        self, runs: Iterable[LoadedRun | BrokenRun], references: Mapping[str, Sequence[Row]]
    ) -> None:
        loaded = [run for run in runs if isinstance(run, LoadedRun)]
        self._values = {
            name: {run: distance(run.metrics.rows, rows) for run in loaded}
            for name, rows in references.items()
        }
        self.groups = self._sorted(replicates(loaded), *references)
        self.distances = {
            name: [self._distance(group, name) for group in self.groups] for name in references
        }

    def ranked(self, reference: str) -> list[Group]:
        """Return the groups in the order of their distances from one of the references."""
        return self._sorted(self.groups, reference)

    def lines(self, width: int | None) -> list[str]:
        """Return the table for people, the header first, for a terminal of a width, if any."""
        columns = [
            [shown(name), *(spread(distance, 2) for distance in distances)]
            for name, distances in self.distances.items()
        ]
        columns.append(COLUMNS["n"].cells(self.groups))
        columns.append(["epochs", *map(_epochs_of, self.groups)])
        right = range(len(columns))
        columns += cells(variants([group.runs[0] for group in self.groups]))
        columns.append(["run", *(shown(group.counted[0].name) for group in self.groups)])
        return format_table([*zip(*columns, strict=True)], right, width)

    def _distance(self, group: Group, reference: str) -> Statistic | None:
        return group.statistic(self._values[reference].__getitem__)

    def _sorted(self, groups: Iterable[Group], *references: str) -> list[Group]:
        def order(group: Group) -> tuple[bool, float]:
            found = (self._distance(group, reference) for reference in references)
            means = (statistic.mean for statistic in found if statistic is not None)
            return not group.complete, min(means, default=math.inf)

        return sorted(groups, key=order)


def _epochs_of(group: Group) -> str:
    """Return how many epochs the counted runs have, which limits what is compared."""
    counts = {len(run.metrics.rows) for run in group.counted}
    return str(*counts) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
