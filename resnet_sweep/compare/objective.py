"""What runs are judged by."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from resnet_sweep.compare.distance import distance, read_reference
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import number
from resnet_sweep.errors import RequestError

DIRECTIONS: Mapping[str, Literal["maximize", "minimize"]] = {
    "val_acc": "maximize",
    "val_loss": "minimize",
    "distance_to_reference": "minimize",
    "seconds": "minimize",
    "parameters": "minimize",
}
# Objectives that say nothing of how well a run does, and so count only beside others.
COSTS = ("seconds", "parameters")


class Objective:
    """What runs are judged by.

    Args:
        name: `val_acc`, the best validation accuracy in percent; `val_loss`, the lowest validation
            loss of any epoch; `distance_to_reference`, see `distance`, in points; `seconds` of
            training and evaluating; or `parameters`, the number of trained weights.
        reference: of the distance, see `read_reference`; not read for anything else.
        folder: that a relative path of the reference starts from; None is the current one.

    Attributes:
        name: as above.
        title: of a column of its values.
        digits: behind the point, for people.
        direction: "maximize" or "minimize".

    Raises:
        RequestError: there is no such objective, or its reference is missing or can't be used.
    """

    def __init__(
        self, name: str = "val_acc", reference: str | None = None, folder: Path | None = None
    ) -> None:
        if name not in DIRECTIONS:
            raise RequestError(f"objective={name} must be one of {', '.join(DIRECTIONS)}")
        self.name = name
        self.direction = DIRECTIONS[name]
        self.title = {
            "val_acc": "best",
            "val_loss": "lowest loss",
            "distance_to_reference": "distance",
        }.get(name, name)
        self.digits = {"val_loss": 4, "seconds": 1, "parameters": 0}.get(name, 2)
        self._curves = []
        if name == "distance_to_reference":
            if reference is None:
                raise RequestError(
                    "objective=distance_to_reference has no reference: give it with "
                    "reference=logged_run_1, a run directory, or a metrics.csv"
                )
            self._curves = read_reference(reference, folder)

    @classmethod
    def of(cls, config: Mapping[str, Any], folder: Path | None = None) -> "Objective":
        """That which a config asks for, the first if it is several; raises as `Objective` does."""
        return cls.all_of(config, folder)[0]

    @classmethod
    def all_of(cls, config: Mapping[str, Any], folder: Path | None = None) -> list["Objective"]:
        """Those which a config asks for; raises as `Objective` does."""
        asked = config.get("objective", "val_acc")
        names = [asked] if isinstance(asked, str) else list(asked)
        if names and all(name in COSTS for name in names):
            raise RequestError(
                f"objective={asked} says nothing of how well a run does: put val_acc before it, as "
                f"in objective=[val_acc,{names[0]}]"
            )
        if not names or len({*names}) < len(names):
            raise RequestError(f"objective={asked} must name each objective once, and one at least")
        return [cls(name, config.get("reference"), folder) for name in names]

    def value(self, entry: Entry) -> float | None:
        """The value of a run so far; None if it has diverged or there is nothing to judge it by."""
        record = entry.record
        if record is None or record.state == "diverged":
            return None
        if self.name in COSTS:
            return getattr(record, self.name)
        if self.name == "val_acc":
            return record.best and record.best["val_acc"]
        rows = entry.metrics.rows
        if self.name == "val_loss":
            return min((row["val_loss"] for row in rows if "val_loss" in row), default=None)
        try:
            return distance(rows, self._curves)
        except RequestError:
            return None

    def gain(self, difference: float) -> float:
        """A difference between values, positive where it is for the better."""
        return difference if self.direction == "maximize" else -difference

    def told(self, value: float) -> str:
        """A value, for people."""
        return number(value, self.digits, "%" if self.name == "val_acc" else "")

    def difference(self, value: float) -> str:
        """A difference between values, for people."""
        return number(value, self.digits, sign="+")


def objective_value(
    directory: Path, config: Mapping[str, Any], folder: Path | None = None
) -> float | list[float]:
    """What a run returns to its sweeper.

    Args:
        directory: of the run.
        config: its settings, with `objective` and `reference`.
        folder: that a relative path of the reference starts from; None is the current one.

    Returns:
        The value of the objective, or a list of several; NaN if the run diverged or has no epoch
        to judge it by.

    Raises:
        RequestError: the reference can't be used.
    """
    entry = Entry.read(directory, str(directory))
    found = [each.value(entry) for each in Objective.all_of(config, folder)]
    values = [math.nan if value is None else value for value in found]
    return values[0] if isinstance(config.get("objective", ""), str) else values


def check_directions(objectives: Sequence[Objective], asked: str | Sequence[str]) -> list[str]:
    """The directions of a search, which are those of its objectives.

    Args:
        objectives: what runs are judged by.
        asked: `hydra.sweeper.direction`.

    Raises:
        RequestError: others are asked for.
    """
    listed = [asked] if isinstance(asked, str) else list(asked)
    wanted = [each.direction for each in objectives]
    if listed != wanted:
        names = [each.name for each in objectives]
        judged = names[0] if len(names) == 1 else f"[{','.join(names)}]"
        right = wanted[0] if len(wanted) == 1 else f"[{','.join(wanted)}]"
        told = listed[0] if isinstance(asked, str) else f"[{','.join(listed)}]"
        raise RequestError(
            f"hydra.sweeper.direction={told} is contrary to objective={judged}: say "
            f"hydra.sweeper.direction={right}"
        )
    return wanted
