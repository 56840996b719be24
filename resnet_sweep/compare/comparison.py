"""The differences between runs: in their settings, their outcomes and their environments."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resnet_sweep.compare.diff_columns import MISSING, find_differences, row_at, weight_names
from resnet_sweep.compare.format import format_duration, format_number
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.runs.metrics import further_metrics, is_further_column
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import INIT_FROM, ORDER, is_incidental

# The precision decides what is trained, so it counts as a setting. It is shown with the
# environment, which determines it.
PRECISION = "precision"


@dataclass(frozen=True)
class SummaryMetric:
    """A metric that summarizes a run's outcome.

    Attributes:
        name: name in tables.
        key: name in `run.json`, with a dot for nested values, or the column of a further metric.
        digits: number of decimals; None for a duration.
        unit: unit of the values; differences have no unit, because those of percentages are points.
        counts: whether `diff` regards runs with different values as different.
    """

    name: str
    key: str
    digits: int | None = 0
    unit: str = ""
    counts: bool = True

    def get(self, record: Record) -> float | None:
        """Return the value in a record; None if it is unknown."""
        part, _, key = self.key.rpartition(".")
        values = (getattr(record, part) or {}) if part else vars(record)
        value: float | None = values.get(key)
        return value

    def format(self, value: float | None) -> str:
        """Format a value for a table."""
        return (
            format_duration(value)
            if self.digits is None
            else format_number(value, self.digits, self.unit)
        )

    def format_difference(self, difference: float) -> str:
        """Format a difference between two values for a table."""
        if self.digits is None:
            return format_duration(difference, sign="+")
        return format_number(difference, self.digits, sign="+")


SUMMARY_METRICS = (
    SummaryMetric("best accuracy", "best.val_acc", 2, "%"),
    SummaryMetric("best epoch", "best.epoch"),
    SummaryMetric("best validation loss", "best.val_loss", 4),
    SummaryMetric("final accuracy", "final.val_acc", 2, "%"),
    SummaryMetric("final training accuracy", "final.train_acc", 2, "%"),
    SummaryMetric("final validation loss", "final.val_loss", 4),
    SummaryMetric("final training loss", "final.train_loss", 4),
    SummaryMetric("gap", "gap", 2, "%"),
    SummaryMetric("epochs", "final.epoch"),
    SummaryMetric("parameters", "parameters"),
    SummaryMetric("time", "seconds", None, counts=False),
)


@dataclass(frozen=True)
class Comparison:
    """The comparison of two or more runs, in the order of their columns."""

    runs: Sequence[LoadedRun]

    @cached_property
    def choices(self) -> dict[str, list[Any]]:
        """The choices that differ, with the choice of each run."""
        return find_differences([run.choices for run in self.runs])

    @cached_property
    def settings(self) -> dict[str, list[Any]]:
        """The differing settings that decide what is trained, with each run's value or MISSING."""
        found = find_differences([run.settings for run in self.runs])
        for name in (PRECISION, "fingerprint"):
            # The logged runs don't have these settings, and an unknown value isn't a difference.
            if MISSING in found.get(name, ()):
                del found[name]
        if INIT_FROM in found:
            found[INIT_FROM] = weight_names(self.runs)
        if any(name.startswith("augmentation.") for name in found if name != ORDER):
            # If the operations differ, a different order is no extra information.
            found.pop(ORDER, None)
        return found

    @cached_property
    def environment(self) -> dict[str, list[Any]]:
        """The differences in where and how the runs were trained, with each run's value."""
        return find_differences([dict(_environment(run)) for run in self.runs])

    @property
    def states(self) -> dict[str, list[Any]]:
        """The states of the runs, if they differ."""
        return find_differences([{"state": run.state} for run in self.runs])

    @cached_property
    def outcomes(self) -> list[SummaryMetric]:
        """The metrics that summarize the outcomes of the runs."""
        further = {m.column: m for run in self.runs for m in further_metrics(run.record.config)}
        return [
            *SUMMARY_METRICS,
            *(
                SummaryMetric(f"best {m.column}", m.column, 2 if m.percent else 4, "%" * m.percent)
                for m in further.values()
            ),
        ]

    def values(self, outcome: SummaryMetric) -> list[float | None]:
        """Return the value of a metric for each run."""
        if is_further_column(outcome.key):
            return [run.best_metrics.get(outcome.key) for run in self.runs]
        return [outcome.get(run.record) for run in self.runs]

    @property
    def replicates(self) -> bool:
        """Whether the seed is the only setting that differs."""
        return set(self.settings) == {"seed"}

    @property
    def same(self) -> bool:
        """Whether all settings, states and metrics that count are the same."""
        return not (self.settings or self.states) and all(
            len(set(self.values(outcome))) == 1 for outcome in self.outcomes if outcome.counts
        )

    def json(self) -> str:
        """Return the comparison as JSON; a setting that a run doesn't have is left out."""
        outcome = ("best", "final", "gap", "parameters", "seconds", "notes")
        content = {
            "same": self.same,
            "replicates": self.replicates,
            "runs": [
                {
                    "name": run.name,
                    "state": run.state,
                    "choices": row_at(self.choices, at),
                    "settings": row_at(self.settings, at),
                    **{name: asdict(run.record)[name] for name in outcome},
                    "environment": row_at(self.environment, at),
                }
                for at, run in enumerate(self.runs)
            ],
        }
        return json.dumps(content, indent=2)


def environment_of(record: Record) -> dict[str, Any]:
    """Return the known values of a run's device, threads, host, commit and package versions."""
    known = {name: getattr(record, name) for name in ("device", "threads", "host", "git_commit")}
    versions = {f"versions.{name}": version for name, version in record.versions.items()}
    return {name: value for name, value in known.items() if value is not None} | versions


def _environment(run: LoadedRun) -> Iterator[tuple[str, Any]]:
    yield from environment_of(run.record).items()
    if run.record.precision is not None:
        yield PRECISION, run.record.precision
    for name, value in run.config.items():
        if is_incidental(name):
            yield name, value
