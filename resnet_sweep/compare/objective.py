"""Objectives: what runs are ranked by."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from resnet_sweep.compare.format import number
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.compare.nearest import distance, read_reference
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.metrics import Row

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
            f"hydra.sweeper.direction={_override(given)} contradicts "
            f"objective={_override(names)}: write hydra.sweeper.direction={_override(wanted)}"
        )
    return wanted


def _override(values: Sequence[str]) -> str:
    """Return one value, or several as a list, as they are written in an override."""
    return values[0] if len(values) == 1 else f"[{','.join(values)}]"
