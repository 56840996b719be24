"""Objectives: what runs are ranked by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_sweep.compare.format import number
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.compare.nearest import distance, read_reference
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row

DIRECTIONS: Mapping[str, Literal["maximize", "minimize"]] = {
    "val_acc": "maximize",
    "val_loss": "minimize",
    "distance_to_reference": "minimize",
    "seconds": "minimize",
    "parameters": "minimize",
}
# Objectives that don't measure how good a run is, so that they need another one beside them.
COSTS = ("seconds", "parameters")


class Objective:
    """A value that runs are ranked by.

    Args:
        name: `val_acc`, the best validation accuracy in percent; `val_loss`, the lowest validation
            loss of any epoch; `distance_to_reference`, see `distance`, in points; `seconds` of
            training and evaluating; or `parameters`, the number of trained weights.
        reference: of the distance, see `read_reference`; ignored by the other objectives.
        folder: that a relative path of the reference starts from; None for the current folder.

    Attributes:
        name: as above.
        title: the header of a column of its values.
        digits: the number of decimals for people.
        direction: "maximize" or "minimize".

    Raises:
        ConfigError: there is no such objective, or its reference is missing or can't be used.
    """

    def __init__(
        self, name: str = "val_acc", reference: str | None = None, folder: Path | None = None
    ) -> None:
        if name not in DIRECTIONS:
            raise ConfigError(f"objective={name} must be one of {', '.join(DIRECTIONS)}")
        self.name = name
        self.direction = DIRECTIONS[name]
        self.title = {
            "val_acc": "best",
            "val_loss": "lowest loss",
            "distance_to_reference": "distance",
        }.get(name, name)
        self.digits = {"val_loss": 4, "seconds": 1, "parameters": 0}.get(name, 2)
        self._curves: Sequence[Row] = []
        if name == "distance_to_reference":
            if reference is None:
                raise ConfigError(
                    "objective=distance_to_reference has no reference: give it with "
                    "reference=logged_run_1, a run directory, or a metrics.csv"
                )
            self._curves = read_reference(reference, folder)

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path | None = None) -> "Objective":
        """Return the objective of a config, the first of several; raises as `Objective` does."""
        return cls.all_of(config, folder)[0]

    @classmethod
    def all_of(cls, config: Mapping[str, Any], folder: Path | None = None) -> list["Objective"]:
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
        return [cls(name, config.get("reference"), folder) for name in names]

    def value(self, run: LoadedRun | BrokenRun) -> float | None:
        """Return the value of a run so far; None if it diverged, is broken or has no epoch."""
        if isinstance(run, BrokenRun) or run.record.state == "diverged":
            return None
        if self.name == "seconds":
            return run.record.seconds
        if self.name == "parameters":
            return run.record.parameters
        if self.name == "val_acc":
            return run.best_accuracy
        rows = run.metrics.rows
        if self.name == "val_loss":
            return min((row["val_loss"] for row in rows if "val_loss" in row), default=None)
        try:
            return distance(rows, self._curves)
        except ConfigError:
            return None

    def gain(self, difference: float) -> float:
        """Return a difference between values, positive if it is an improvement."""
        return difference if self.direction == "maximize" else -difference

    def format(self, value: float) -> str:
        """Return a value for people."""
        return number(value, self.digits, "%" if self.name == "val_acc" else "")

    def difference(self, value: float) -> str:
        """Return a difference between values for people."""
        return number(value, self.digits, sign="+")


def objective_value(
    directory: Path, config: Mapping[str, Any], folder: Path | None = None
) -> float | list[float]:
    """Return the value that a run returns to its sweeper.

    Args:
        directory: the run directory.
        config: the settings of the run, with `objective` and `reference`.
        folder: that a relative path of the reference starts from; None for the current folder.

    Returns:
        The value of the objective, or a list of the values of several; NaN if the run diverged or
        has no epoch.

    Raises:
        ConfigError: the reference can't be used.
    """
    run = load_run(directory, str(directory))
    found = [objective.value(run) for objective in Objective.all_of(config, folder)]
    values = [math.nan if value is None else value for value in found]
    return values[0] if isinstance(config.get("objective", ""), str) else values


def check_directions(
    objectives: Sequence[Objective], asked: str | Sequence[str]
) -> list[Literal["maximize", "minimize"]]:
    """Return the directions of a search, which are those of its objectives.

    Args:
        objectives: of the search.
        asked: `hydra.sweeper.direction`.

    Raises:
        ConfigError: `asked` has other directions.
    """
    listed = [asked] if isinstance(asked, str) else list(asked)
    wanted: list[str] = [objective.direction for objective in objectives]
    if listed != wanted:
        names = [objective.name for objective in objectives]
        given = asked if isinstance(asked, str) else f"[{','.join(listed)}]"
        raise ConfigError(
            f"hydra.sweeper.direction={given} contradicts objective={_override(names)}: write "
            f"hydra.sweeper.direction={_override(wanted)}"
        )
    return [objective.direction for objective in objectives]


def _override(values: Sequence[str]) -> str:
    """Return one value, or several as a list, as they are written in an override."""
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"
