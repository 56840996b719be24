"""Objectives: the values by which runs are ranked, for example the distance from a reference."""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, NamedTuple

from resnet_sweep.compare.collection import LOGGED_RUNS, logged_runs
from resnet_sweep.compare.format import format_number, safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.safe_read import read_rows
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import FURTHER, FurtherMetric, Row, further_metrics


class Curve(NamedTuple):
    """How a metrics column counts in the distance: factor from its unit to points, and weight."""

    scale: float
    weight: float


# A point is 1% of accuracy, or 1% of ln 100, which is the loss of a network that predicts 100
# classes with equal probabilities. Validation accuracy has less weight because it fluctuates by
# some points from epoch to epoch.
CURVES: Mapping[str, Curve] = {
    "train_acc": Curve(scale=1.0, weight=0.4),
    "val_acc": Curve(scale=1.0, weight=0.2),
    "train_loss": Curve(scale=100 / math.log(100), weight=0.4),
}


def distance(rows: Iterable[Row], reference: Iterable[Row]) -> float | None:
    """Return the distance between the curves of two runs, in points.

    Curves are compared epoch by epoch. For each column of CURVES, the mean square difference is
    taken over the epochs that both runs have. The distance is the root of the weighted mean of
    these over the columns, with the scale s_c and the weight w_c of each column:

        sqrt(sum_c w_c * mean_e (s_c * (a_ce - b_ce))^2 / sum_c w_c)

    It is 0 for equal curves, and about 100 between a run that learns nothing and a run that
    predicts everything correctly from the first epoch. A column that the runs don't have in any
    common epoch is left out, and the weights of the others are scaled up. Runs of different lengths
    are compared over the epochs of the shorter one, regardless of their schedules. If an epoch has
    several rows, the last one is used.

    Returns:
        The distance; None if the runs have no common epoch or no common column.
    """
    run_rows, reference_rows = ({row["epoch"]: row for row in run} for run in (rows, reference))
    pairs = [
        (row, reference_rows[epoch]) for epoch, row in run_rows.items() if epoch in reference_rows
    ]
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
    """Return the curves of the run that `reference` names.

    Args:
        reference: the name of a logged run, a run directory, or a file named metrics.csv.
        option: how the command line sets it, for the error message.

    Returns:
        A row for each epoch, at least one, with `epoch` and the known columns.

    Raises:
        ConfigError: `reference` is none of these, can't be read, or has no curve.
    """
    name, directory = f"{option}{safe_text(reference)}", Path(reference)
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
            f"{name} has no metrics.csv: name a run directory, for example outputs/DATE/TIME, or a "
            "metrics.csv"
        ) from error
    if problem:
        raise ConfigError(
            f"{name} can't be read, because {safe_text(problem)}: restore its metrics.csv"
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


class _Definition(NamedTuple):
    direction: Direction
    # The column's header, and the number of decimals of its values.
    title: str
    digits: int
    # None for the distance, which depends on the reference, too.
    value: Callable[[LoadedRun], float | None] | None


OBJECTIVES: Mapping[str, _Definition] = {
    "val_acc": _Definition("maximize", "best", 2, lambda run: run.best_accuracy),
    "val_loss": _Definition("minimize", "lowest loss", 4, _lowest_loss),
    "distance_to_reference": _Definition("minimize", "distance", 2, None),
    "seconds": _Definition("minimize", "seconds", 1, lambda run: run.record.seconds),
    "parameters": _Definition("minimize", "parameters", 0, lambda run: run.record.parameters),
}
# Objectives that don't measure the quality of a run, so that they are only allowed together with
# another objective.
COSTS = ("seconds", "parameters")


def _further_definition(metric: FurtherMetric) -> _Definition:
    return _Definition(
        "maximize" if metric.higher_is_better else "minimize",
        f"best {metric.column}",
        2 if metric.percent else 4,
        lambda run: metric.best(run.metrics.rows),
    )


class Objective:
    """A value by which runs are ranked.

    Args:
        name: `val_acc`, the best validation accuracy in percent; `val_loss`, the lowest validation
            loss of all epochs; `distance_to_reference`, see `distance`, in points; `seconds`, the
            time of training and evaluation; `parameters`, the number of trained weights; or the
            column of a further metric, whose best value counts.
        reference: the run whose curves the distance is measured from, see `read_reference`.
        metrics: the further metrics of the runs.

    Raises:
        ConfigError: there is no such objective, or its reference is missing or can't be read.
    """

    def __init__(
        self,
        name: str = "val_acc",
        reference: str | None = None,
        metrics: Sequence[FurtherMetric] = (),
    ) -> None:
        further = {metric.column: _further_definition(metric) for metric in metrics}
        if name not in OBJECTIVES and name not in further:
            known = [*OBJECTIVES, *further]
            near = get_close_matches(name, known, n=1, cutoff=0.8)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"objective={name} must be one of {', '.join(known)}, or {FURTHER}NAME with "
                f"metric=NAME{hint}"
            )
        self.name = name
        self._definition = OBJECTIVES.get(name) or further[name]
        self.direction, self.title, self.digits, _ = self._definition
        percent = {metric.column for metric in metrics if metric.percent}
        self.unit = "%" if name in {"val_acc", *percent} else ""
        self._curves: Sequence[Row] = []
        if name == "distance_to_reference":
            if reference is None:
                raise ConfigError(
                    "objective=distance_to_reference needs a reference: set one, for example "
                    "reference=logged_run_1, or the path of a run directory or a metrics.csv"
                )
            self._curves = read_reference(reference)

    @classmethod
    def from_config(
        cls, config: Mapping[str, Any], metrics: Sequence[FurtherMetric] | None = None
    ) -> "Objective":
        """Return the first objective of a config; see `all_from_config`."""
        return cls.all_from_config(config, metrics)[0]

    @classmethod
    def all_from_config(
        cls, config: Mapping[str, Any], metrics: Sequence[FurtherMetric] | None = None
    ) -> list["Objective"]:
        """Return the objectives of a config.

        Args:
            config: the composed config, or its settings without a group.
            metrics: the further metrics of the runs; None for those of the config.

        Raises:
            ConfigError: there is no objective, an objective occurs twice, none of them measures
                the quality of a run, or one of them isn't valid, see `Objective`.
        """
        setting = config.get("objective", "val_acc")
        names = [setting] if isinstance(setting, str) else list(setting)
        if names and all(name in COSTS for name in names):
            raise ConfigError(
                f"objective={setting} doesn't measure the quality of a run: put val_acc before it, "
                f"for example objective=[val_acc,{names[0]}]"
            )
        if not names or len({*names}) < len(names):
            raise ConfigError(
                f"objective={setting} must name at least one objective, and none of them twice"
            )
        if metrics is None:
            metrics = further_metrics(config)
        return [cls(name, config.get("reference"), metrics) for name in names]

    def value(self, run: LoadedRun | BrokenRun) -> float | None:
        """Return the value of a run; None if the run diverged, is broken or has no value yet."""
        if isinstance(run, BrokenRun) or run.record.state == "diverged":
            return None
        value_of = self._definition.value
        return value_of(run) if value_of else distance(run.metrics.rows, self._curves)

    def gain(self, difference: float) -> float:
        """Return a difference between values with the sign changed if lower values are better."""
        return difference if self.direction == "maximize" else -difference

    def format(self, value: float) -> str:
        """Format a value for a table."""
        return format_number(value, self.digits, self.unit)

    def format_difference(self, value: float) -> str:
        """Format a difference between values for a table."""
        return format_number(value, self.digits, sign="+")

    def format_interval(self, mean: float, interval: tuple[float, float] | None) -> str:
        """Format a mean difference, and its interval if there is one."""
        text = self.format_difference(mean)
        limits = ", ".join(map(self.format_difference, interval or ()))
        return f"{text} [{limits}]" if limits else text


def check_directions(
    objectives: Sequence[Objective], direction: str | Sequence[str]
) -> list[Direction]:
    """Return the directions of the objectives of a search.

    Args:
        objectives: the objectives.
        direction: value of `hydra.sweeper.direction`.

    Raises:
        ConfigError: `direction` differs from the directions of the objectives.
    """
    expected = [objective.direction for objective in objectives]
    directions = [direction] if isinstance(direction, str) else [*direction]
    if directions != expected:
        names = [objective.name for objective in objectives]
        raise ConfigError(
            f"hydra.sweeper.direction is {_override(directions)}, but objective={_override(names)} "
            f"needs {_override(expected)}: add hydra.sweeper.direction={_override(expected)}"
        )
    return expected


def _override(values: Sequence[str]) -> str:
    """Return one value, or a list of several values, in the syntax of an override."""
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"
