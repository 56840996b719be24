"""Objectives: what runs are ranked by, such as the distance of their curves from a reference."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from resnet_sweep.compare.collection import LOGGED_RUNS, logged_runs
from resnet_sweep.compare.format import number, shown
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
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


def read_reference(reference: str, option: str = "reference=") -> list[Row]:
    """Return the curves that `reference` names.

    Args:
        reference: the name of a logged run, a run directory, or a file called metrics.csv.
        option: how the command line sets it, for the error message.

    Returns:
        A row for each epoch, at least one, with `epoch` and the columns that are known.

    Raises:
        ConfigError: it is none of these, or can't be read, or has no curve to compare with.
    """
    name, directory = f"{option}{shown(reference)}", Path(reference)
    if not os.path.isdir(directory):
        if directory.name == "metrics.csv":
            directory = directory.parent
        elif reference in logged_runs():
            directory = LOGGED_RUNS / reference
        else:
            raise ConfigError(
                f"{name} doesn't exist: use {' or '.join(logged_runs())}, a run directory, or a "
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


Direction = Literal["maximize", "minimize"]


def _lowest_loss(run: LoadedRun) -> float | None:
    return min((row["val_loss"] for row in run.metrics.rows if "val_loss" in row), default=None)


class _Kind(NamedTuple):
    direction: Direction
    # The header of a column of its values, and their number of decimals for people.
    title: str
    digits: int
    # A distance depends on the reference, too.
    value: Callable[[LoadedRun], float | None] | None


OBJECTIVES: Mapping[str, _Kind] = {
    "val_acc": _Kind("maximize", "best", 2, lambda run: run.best_accuracy),
    "val_loss": _Kind("minimize", "lowest loss", 4, _lowest_loss),
    "distance_to_reference": _Kind("minimize", "distance", 2, None),
    "seconds": _Kind("minimize", "seconds", 1, lambda run: run.record.seconds),
    "parameters": _Kind("minimize", "parameters", 0, lambda run: run.record.parameters),
}
# Objectives that don't measure how good a run is, so that they need another one beside them.
COSTS = ("seconds", "parameters")


class Objective:
    """A value that runs are ranked by.

    Args:
        name: `val_acc`, the best validation accuracy in percent; `val_loss`, the lowest validation
            loss of any epoch; `distance_to_reference`, see `distance`, in points; `seconds` of
            training and evaluating; or `parameters`, the number of trained weights.
        reference: the curves of the distance, see `read_reference`.

    Raises:
        ConfigError: there is no such objective, or its reference is missing or can't be used.
    """

    def __init__(self, name: str = "val_acc", reference: str | None = None) -> None:
        if name not in OBJECTIVES:
            raise ConfigError(f"objective={name} must be one of {', '.join(OBJECTIVES)}")
        self.name = name
        self.direction, self.title, self.digits, _ = OBJECTIVES[name]
        self._curves: Sequence[Row] = []
        if name == "distance_to_reference":
            if reference is None:
                raise ConfigError(
                    "objective=distance_to_reference has no reference: give it with "
                    "reference=logged_run_1, a run directory, or a metrics.csv"
                )
            self._curves = read_reference(reference)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Objective":
        """Return the objective of a config, the first of several; raises as `Objective` does."""
        return cls.all_of(config)[0]

    @classmethod
    def all_of(cls, config: Mapping[str, Any]) -> list["Objective"]:
        """Return the objectives of a config; raises as `Objective` does."""
        asked = config.get("objective", "val_acc")
        names = [asked] if isinstance(asked, str) else list(asked)
        if names and all(name in COSTS for name in names):
            raise ConfigError(
                f"objective={asked} doesn't measure how good a run is: put val_acc before it, as "
                f"in objective=[val_acc,{names[0]}]"
            )
        if not names or len({*names}) < len(names):
            raise ConfigError(
                f"objective={asked} must name at least one objective, and each only once"
            )
        return [cls(name, config.get("reference")) for name in names]

    def value(self, run: LoadedRun | BrokenRun) -> float | None:
        """Return the value of a run so far; None if it diverged, is broken or has no epoch."""
        if isinstance(run, BrokenRun) or run.record.state == "diverged":
            return None
        value_of = OBJECTIVES[self.name].value
        return value_of(run) if value_of else distance(run.metrics.rows, self._curves)

    def gain(self, difference: float) -> float:
        """Return a difference between values, positive if it is an improvement."""
        return difference if self.direction == "maximize" else -difference

    def format(self, value: float) -> str:
        """Return a value for people."""
        return number(value, self.digits, "%" if self.name == "val_acc" else "")

    def difference(self, value: float) -> str:
        """Return a difference between values for people."""
        return number(value, self.digits, sign="+")


def check_directions(
    objectives: Sequence[Objective], asked: str | Sequence[str]
) -> list[Direction]:
    """Return the directions of a search, which are those of its objectives.

    Raises:
        ConfigError: `asked`, the value of `hydra.sweeper.direction`, has other directions.
    """
    wanted = [objective.direction for objective in objectives]
    given = [asked] if isinstance(asked, str) else [*asked]
    if given != wanted:
        names = [objective.name for objective in objectives]
        raise ConfigError(
            f"hydra.sweeper.direction is {_override(given)}, but objective={_override(names)} "
            f"needs {_override(wanted)}: add hydra.sweeper.direction={_override(wanted)}"
        )
    return wanted


def _override(values: Sequence[str]) -> str:
    """Return one value, or several as a list, as they are written in an override."""
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"
