"""What runs are judged by."""

import math
from collections.abc import Mapping
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
}


class Objective:
    """What runs are judged by.

    Args:
        name: `val_acc`, the best validation accuracy in percent; `val_loss`, the lowest validation
            loss of any epoch; or `distance_to_reference`, see `distance`, in points.
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
        self.title = {"val_acc": "best", "val_loss": "lowest loss"}.get(name, "distance")
        self.digits = 4 if name == "val_loss" else 2
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
        """That which a config asks for; raises as `Objective` does."""
        return cls(config.get("objective", "val_acc"), config.get("reference"), folder)

    def value(self, entry: Entry) -> float | None:
        """The value of a run so far; None if it has diverged or there is nothing to judge it by."""
        record = entry.record
        if record is None or record.state == "diverged":
            return None
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
) -> float:
    """What a run returns to its sweeper.

    Args:
        directory: of the run.
        config: its settings, with `objective` and `reference`.
        folder: that a relative path of the reference starts from; None is the current one.

    Returns:
        The value of the objective; NaN if the run diverged or has no epoch to judge it by.

    Raises:
        RequestError: the reference can't be used.
    """
    value = Objective.of(config, folder).value(Entry.read(directory, str(directory)))
    return math.nan if value is None else value
