"""The differences between runs: in their settings, their outcomes and their environments."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resnet_sweep.compare.diff_columns import differing_settings, find_differences, row_at
from resnet_sweep.compare.format import format_duration, format_number
from resnet_sweep.compare.loaded_run import LoadedRun, metrics_of
from resnet_sweep.runs.metrics import is_further_column
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import INCIDENTAL_OF_SWEEP, ORDER, is_incidental

# The precision decides what is trained, so it counts as a setting. It is shown with the
# environment, which determines it.
PRECISION = "precision"
# Keys of run.json.
ENVIRONMENT = ("device", "threads", "host", "git_commit", "code_commit")


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

    def get(self, run: LoadedRun) -> float | None:
        """Return the value of a run; None if it is unknown."""
        if is_further_column(self.key):
            return run.best_metrics.get(self.key)
        record = run.record
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


def summary_metrics(runs: Iterable[LoadedRun]) -> list[SummaryMetric]:
    """Return `SUMMARY_METRICS` and the further metrics of the runs."""
    further = (
        SummaryMetric(
            f"best {metric.column}",
            metric.column,
            2 if metric.percent else 4,
            "%" if metric.percent else "",
        )
        for metric in metrics_of(runs)
    )
    return [*SUMMARY_METRICS, *further]


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
        found = differing_settings(self.runs)
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
    def summary_metrics(self) -> list[SummaryMetric]:
        """The metrics that summarize the outcomes of the runs."""
        return summary_metrics(self.runs)

    def values(self, metric: SummaryMetric) -> list[float | None]:
        """Return the value of a metric for each run."""
        return [metric.get(run) for run in self.runs]

    @property
    def outcomes(self) -> dict[str, list[float | None]]:
        """The value of each summary metric for each run, by the name of the metric."""
        return {metric.name: self.values(metric) for metric in self.summary_metrics}

    @property
    def replicates(self) -> bool:
        """Whether the seed is the only setting that differs."""
        return set(self.settings) == {"seed"}

    @property
    def same(self) -> bool:
        """Whether all settings, states and metrics that count are the same."""
        return not (self.settings or self.states) and all(
            len(set(self.values(metric))) == 1 for metric in self.summary_metrics if metric.counts
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
    known = {name: getattr(record, name) for name in ENVIRONMENT}
    versions = {f"versions.{name}": version for name, version in record.versions.items()}
    return {name: value for name, value in known.items() if value is not None} | versions


def _environment(run: LoadedRun) -> Iterator[tuple[str, Any]]:
    yield from environment_of(run.record).items()
    if run.record.precision is not None:
        yield PRECISION, run.record.precision
    for name, value in run.config.items():
        if is_incidental(name) and name not in INCIDENTAL_OF_SWEEP:
            yield name, value
