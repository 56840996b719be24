"""The content of a run directory: a loaded run, or a broken run, which can't be read."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from resnet_sweep.compare.safe_read import read_annotations, read_record, read_rows
from resnet_sweep.errors import InvalidFileError
from resnet_sweep.runs.annotations import Annotations
from resnet_sweep.runs.metrics import FurtherMetric, Row, further_metrics
from resnet_sweep.runs.record import Record, is_fresh
from resnet_sweep.runs.signature import INIT_FROM, effective_settings, flatten


class Metrics(NamedTuple):
    """The content of `metrics.csv`.

    Attributes:
        rows: rows up to the first that can't be read; unknown values are missing in a row.
        error: why the rest can't be read, a clause; None if `rows` is complete.
    """

    rows: list[Row]
    error: str | None


@dataclass(eq=False)
class LoadedRun:
    """A run whose record can be read.

    Attributes:
        directory: the run directory.
        name: the directory as a user would type it, or the name of a logged run. It isn't escaped;
            see `safe_text`.
        record: content of `run.json`.
    """

    directory: Path
    name: str
    record: Record

    @cached_property
    def metrics(self) -> Metrics:
        """The content of `metrics.csv`, read at the first access."""
        try:
            rows, error = read_rows(self.directory)
        except FileNotFoundError:
            return Metrics([], None if self.record.final is None else "there is no metrics.csv")
        # While a run is running, metrics.csv may be newer than run.json.
        complete = self.record.state != "running" and error is None
        if complete and "metrics.csv" in self.record.altered(self.directory):
            return Metrics([], "metrics.csv was changed after the run wrote it")
        return Metrics(rows, error)

    @cached_property
    def annotations(self) -> Annotations:
        """The tags and the note of the run, read at the first access."""
        return read_annotations(self.directory)

    @property
    def tags(self) -> list[str]:
        """The tags that users have added to the run."""
        return self.annotations.tags

    @property
    def note(self) -> str:
        """The note that users have added to the run; empty if there is none."""
        return self.annotations.note

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings of the run by their dotted names."""
        return dict(flatten(self.record.config))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that decide what is trained, by their dotted names.

        They include `augmentation.order` if there are several operations, the `precision` if it is
        known, and the inputs. `init_from` is the digest of the starting weights.
        """
        known: dict[str, Any] = {}
        if self.record.precision is not None:
            known["precision"] = self.record.precision
        if INIT_FROM in self.record.inputs:
            known[INIT_FROM] = self.record.inputs[INIT_FROM]
        return effective_settings(self.record.config) | known | self.inputs

    @property
    def inputs(self) -> dict[str, str]:
        """The inputs in the record, with `fingerprint` as the name of the input `data`.

        The starting weights are left out, because the setting `init_from` has the same name.
        """
        return {
            "fingerprint" if name == "data" else name: digest
            for name, digest in self.record.inputs.items()
            if name != INIT_FROM
        }

    @cached_property
    def best_metrics(self) -> dict[str, float]:
        """The best value of each further metric by its column in `metrics.csv`."""
        values = {m.column: m.best(self.metrics.rows) for m in further_metrics(self.record.config)}
        return {column: value for column, value in values.items() if value is not None}

    @property
    def seed(self) -> Any:
        """The seed in the config; None if it has none."""
        return self.settings.get("seed")

    @cached_property
    def replicate_key(self) -> str:
        """A text that is equal for runs that differ only in their seeds."""
        return self._key("seed")

    @cached_property
    def key_without_weights(self) -> str:
        """A text that is equal for runs that differ only in their seeds and starting weights."""
        return self._key("seed", INIT_FROM)

    def _key(self, *ignored: str) -> str:
        return json.dumps(self.settings | dict.fromkeys(ignored), sort_keys=True)

    @property
    def choices(self) -> dict[str, str]:
        """The choice made in each config group."""
        return self.record.choices

    @cached_property
    def started(self) -> float | None:
        """Start of the run, in seconds since 1970; None if it is unknown."""
        if self.record.started is None:
            return None
        return datetime.fromisoformat(self.record.started).timestamp()

    @cached_property
    def state(self) -> str:
        """The state in the record, but `running (stale)` if a running run has an old heartbeat."""
        if self.record.state != "running":
            return self.record.state
        return "running" if is_fresh(self.record.heartbeat) else "running (stale)"

    @property
    def best_accuracy(self) -> float | None:
        """The best validation accuracy in percent; None if there is none yet."""
        return None if self.record.best is None else self.record.best["val_acc"]

    @property
    def final_accuracy(self) -> float | None:
        """The validation accuracy of the last epoch in percent; None if there is none yet."""
        return None if self.record.final is None else self.record.final["val_acc"]


@dataclass(frozen=True, eq=False)
class BrokenRun:
    """A run directory whose `run.json` can't be read.

    Attributes:
        directory, name: as in `LoadedRun`.
        error: why it can't be read, a clause.
    """

    directory: Path
    name: str
    error: str
    state: ClassVar[str] = "damaged"


def load_run(directory: Path, name: str) -> LoadedRun | BrokenRun:
    """Read the record of a run directory; return a BrokenRun if it isn't valid."""
    try:
        return LoadedRun(directory, name, read_record(directory))
    except InvalidFileError as error:
        return BrokenRun(directory, name, str(error))


def metrics_of(runs: Iterable[LoadedRun | BrokenRun]) -> list[FurtherMetric]:
    """Return the further metrics of several runs, one for each column."""
    metrics = {
        metric.column: metric
        for run in runs
        if isinstance(run, LoadedRun)
        for metric in further_metrics(run.record.config)
    }
    return [*metrics.values()]
