"""What differs between runs: in their configs, in their outcomes and in their environments."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resnet_sweep.compare.diff_columns import MISSING, differing, row
from resnet_sweep.compare.format import number, span
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import ORDER

# Counts as a setting, and is shown with the environment that it follows from.
PRECISION = "precision"


@dataclass(frozen=True)
class Outcome:
    """A value of a run's outcome.

    Attributes:
        name: its name for people.
        key: its name in `run.json`.
        digits: the number of decimals; None for a time.
        unit: the unit of values; differences of percentages are points, without a unit.
        counts: whether runs with other values have different outcomes.
    """

    name: str
    key: str
    digits: int | None = 0
    unit: str = ""
    counts: bool = True

    def of(self, record: Record) -> float | None:
        """Return the value in a record; None if it isn't known."""
        part, _, key = self.key.rpartition(".")
        values = (getattr(record, part) or {}) if part else vars(record)
        value: float | None = values.get(key)
        return value

    def text(self, value: float | None) -> str:
        """Return a value for people."""
        return span(value) if self.digits is None else number(value, self.digits, self.unit)

    def change(self, difference: float) -> str:
        """Return a difference between values for people."""
        if self.digits is None:
            return span(difference, sign="+")
        return number(difference, self.digits, sign="+")


OUTCOMES = (
    Outcome("best accuracy", "best.val_acc", 2, "%"),
    Outcome("best epoch", "best.epoch"),
    Outcome("best validation loss", "best.val_loss", 4),
    Outcome("final accuracy", "final.val_acc", 2, "%"),
    Outcome("final training accuracy", "final.train_acc", 2, "%"),
    Outcome("final validation loss", "final.val_loss", 4),
    Outcome("final training loss", "final.train_loss", 4),
    Outcome("gap", "gap", 2, "%"),
    Outcome("epochs", "final.epoch"),
    Outcome("parameters", "parameters"),
    Outcome("time", "seconds", None, counts=False),
)


@dataclass(frozen=True)
class Comparison:
    """Two runs or more that are compared, in the order of their columns."""

    runs: Sequence[LoadedRun]

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """The choices that differ, with that of each run."""
        return differing([run.choices for run in self.runs])

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """The settings that decide what is trained and differ, with each run's value or MISSING."""
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

    @property
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
        outcome = ("best", "final", "gap", "parameters", "seconds", "notes")
        content = {
            "same": self.same,
            "replicates": self.replicates,
            "runs": [
                {
                    "name": run.name,
                    "state": run.state,
                    "choices": row(self.choices, at),
                    "settings": row(self.settings, at),
                    **{name: asdict(run.record)[name] for name in outcome},
                    "environment": row(self.environment, at),
                }
                for at, run in enumerate(self.runs)
            ],
        }
        return json.dumps(content, indent=2)


def environment_of(record: Record) -> dict[str, Any]:
    """Return what is known of where a run was trained, and by which versions."""
    known = {name: getattr(record, name) for name in ("device", "threads", "host", "git_commit")}
    versions = {f"versions.{name}": version for name, version in record.versions.items()}
    return {name: value for name, value in known.items() if value is not None} | versions


def _environment(run: LoadedRun) -> Iterator[tuple[str, Any]]:
    yield from environment_of(run.record).items()
    if run.record.precision is not None:
        yield PRECISION, run.record.precision
    for name, value in run.config.items():
        if name not in run.settings:
            yield name, value
