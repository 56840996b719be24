"""What differs between runs: in their configs, in their outcomes and in their environments."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

from resnet_sweep.compare.diff_columns import MISSING, differing
from resnet_sweep.compare.format import number, percent, span
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import ORDER

# Counts as a setting, and is shown with the environment that it follows from.
PRECISION = "precision"


class Format(Protocol):
    """Writes a value, or a difference of values with the sign "+"."""

    def __call__(self, value: float | None, /, sign: str = "") -> str: ...


@dataclass(frozen=True)
class Outcome:
    """A value of a run's outcome.

    Attributes:
        name: for people.
        of: returns it from a record; None if it isn't known.
        show: writes it.
        counts: whether runs with other values have different outcomes.
    """

    name: str
    of: Callable[[Record], float | None]
    show: Format
    counts: bool = True


def _value(epoch: Mapping[str, Any] | None, name: str) -> float | None:
    value: float | None = (epoch or {}).get(name)
    return value


def _best(name: str) -> Callable[[Record], float | None]:
    return lambda record: _value(record.best, name)


def _final(name: str) -> Callable[[Record], float | None]:
    return lambda record: _value(record.final, name)


def _loss(value: float | None, sign: str = "") -> str:
    return number(value, 4, sign=sign)


def _points(value: float | None, sign: str = "") -> str:
    return number(value, 2, sign=sign) if sign else percent(value)


def _count(value: float | None, sign: str = "") -> str:
    return number(value, 0, sign=sign)


OUTCOMES = (
    Outcome("best accuracy", _best("val_acc"), _points),
    Outcome("best epoch", _best("epoch"), _count),
    Outcome("best validation loss", _best("val_loss"), _loss),
    Outcome("final accuracy", _final("val_acc"), _points),
    Outcome("final training accuracy", _final("train_acc"), _points),
    Outcome("final validation loss", _final("val_loss"), _loss),
    Outcome("final training loss", _final("train_loss"), _loss),
    Outcome("gap", lambda record: record.gap, _points),
    Outcome("epochs", _final("epoch"), _count),
    Outcome("parameters", lambda record: record.parameters, _count),
    Outcome("time", lambda record: record.seconds, span, counts=False),
)


@dataclass(frozen=True)
class Comparison:
    """Two runs or more that are compared.

    Attributes:
        runs: in the order of their columns.
    """

    runs: Sequence[LoadedRun]

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """The choices that differ, with that of each run."""
        return differing([run.choices for run in self.runs])

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """The settings that decide what is trained and differ, with the value in each run.

        The value is MISSING for a setting that a run doesn't have.
        """
        found = differing([run.settings for run in self.runs])
        for name in (PRECISION, "fingerprint"):
            # The training log doesn't state them, and what isn't known can't differ.
            if MISSING in found.get(name, ()):
                del found[name]
        if any(name.startswith("augmentation.") for name in found if name != ORDER):
            # Other operations have another order anyway.
            found.pop(ORDER, None)
        return found

    @cached_property
    def environment(self) -> dict[str, list[Any]]:
        """What differs in where and how the runs were trained."""
        return differing([dict(_environment(run)) for run in self.runs])

    @cached_property
    def states(self) -> dict[str, list[Any]]:
        """The states of the runs, if they differ."""
        return differing([{"state": run.state} for run in self.runs])

    def values(self, outcome: Outcome) -> list[float | None]:
        """Return a value of the outcome of each run."""
        return [outcome.of(run.record) for run in self.runs]

    @property
    def replicates(self) -> bool:
        """Whether the runs differ in their seeds, and in no other setting."""
        return set(self.settings) == {"seed"}

    @property
    def same(self) -> bool:
        """Whether all settings, states and outcomes are the same; times don't count."""
        return not (self.settings or self.states) and all(
            len(set(self.values(outcome))) == 1 for outcome in OUTCOMES if outcome.counts
        )

    def json(self) -> str:
        """Return the comparison for programs; a setting that a run doesn't have is left out."""

        def of_run(at: int, differences: dict[str, list[Any]]) -> dict[str, Any]:
            values = {name: found[at] for name, found in differences.items()}
            return {name: value for name, value in values.items() if value is not MISSING}

        outcome = ("best", "final", "gap", "parameters", "seconds", "notes")
        content = {
            "same": self.same,
            "replicates": self.replicates,
            "runs": [
                {
                    "name": run.name,
                    "state": run.state,
                    "choices": of_run(at, self.choices),
                    "settings": of_run(at, self.settings),
                    **{name: asdict(run.record)[name] for name in outcome},
                    "environment": of_run(at, self.environment),
                }
                for at, run in enumerate(self.runs)
            ],
        }
        return json.dumps(content, indent=2)


def _environment(run: LoadedRun) -> Iterator[tuple[str, Any]]:
    record = run.record
    for name in ("device", "threads", PRECISION, "host", "git_commit"):
        if getattr(record, name) is not None:
            yield name, getattr(record, name)
    for package, version in record.versions.items():
        yield f"versions.{package}", version
    for name, value in run.config.items():
        if name not in run.settings:
            yield name, value
