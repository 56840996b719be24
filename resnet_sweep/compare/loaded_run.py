"""A run directory that was found: a loaded run, or one that can't be read."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from resnet_sweep.compare.safe_read import read_record, read_rows
from resnet_sweep.errors import InvalidFileError
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record, is_fresh
from resnet_sweep.runs.signature import (
    ORDER,
    augmentation_order,
    flatten,
    is_incidental,
    normalize_number,
)


class Metrics(NamedTuple):
    """The metrics of the epochs that can be read, and why there are no more, a clause or None.

    An unknown value is missing from its row.
    """

    rows: list[Row]
    error: str | None


@dataclass(eq=False)
class LoadedRun:
    """A run whose record can be read.

    Attributes:
        directory: the run directory.
        name: the directory as a user would type it, or the name of a logged run. It has to be
            escaped before it is printed, see `shown`.
        record: the content of its `run.json`.
    """

    directory: Path
    name: str
    record: Record

    def with_choices(self, choices: Mapping[str, str]) -> "LoadedRun":
        """Return this run with the choices of a sweep that reuses it, if it made any.

        Other choices may have composed the same config, and a sweep names its jobs by its own.
        """
        if not choices:
            return self
        return replace(self, record=replace(self.record, choices=dict(choices)))

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
            return Metrics([], "metrics.csv isn't what the run wrote")
        return Metrics(rows, error)

    @cached_property
    def config(self) -> dict[str, Any]:
        """All settings of the run by their dotted names."""
        return dict(flatten(self.record.config))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that decide what is trained, by their dotted names.

        With `augmentation.order` if several operations are applied, and with the `precision` and
        the `fingerprint` of the data where they are known.
        """
        settings = {
            name: normalize_number(value)
            for name, value in self.config.items()
            if not is_incidental(name)
        }
        if len(order := augmentation_order(self.record.config)) > 1:
            settings[ORDER] = order
        known = {"precision": self.record.precision, "fingerprint": self.record.fingerprint}
        return settings | {name: value for name, value in known.items() if value is not None}

    @property
    def seed(self) -> Any:
        """The seed in the config; None if it has none."""
        return self.settings.get("seed")

    @cached_property
    def replicate_key(self) -> str:
        """A text that is the same for two runs that differ only in their seeds."""
        return json.dumps(self.settings | {"seed": None}, sort_keys=True)

    @property
    def choices(self) -> dict[str, str]:
        """The choice made in each config group."""
        return self.record.choices

    @cached_property
    def started(self) -> float | None:
        """When the run was started, seconds since 1970; None if that isn't known."""
        if self.record.started is None:
            return None
        return datetime.fromisoformat(self.record.started).timestamp()

    @cached_property
    def state(self) -> str:
        """The state of the record, or `running (stale)` if no process can be running it."""
        if self.record.state != "running":
            return self.record.state
        return "running" if is_fresh(self.record.heartbeat) else "running (stale)"

    @property
    def best_accuracy(self) -> float | None:
        """The best validation accuracy, percent; None if there is none yet."""
        return None if self.record.best is None else self.record.best["val_acc"]

    @property
    def final_accuracy(self) -> float | None:
        """The validation accuracy of the last epoch, percent; None if there is none yet."""
        return None if self.record.final is None else self.record.final["val_acc"]


@dataclass(frozen=True, eq=False)
class BrokenRun:
    """A run directory that can't be read, with its name as in `LoadedRun`, and why, a clause."""

    directory: Path
    name: str
    error: str
    state: ClassVar[str] = "damaged"


def load_run(directory: Path, name: str) -> LoadedRun | BrokenRun:
    """Read the record of a run directory, whatever is in it."""
    try:
        return LoadedRun(directory, name, read_record(directory))
    except InvalidFileError as error:
        return BrokenRun(directory, name, str(error))
