"""A run directory that was found, as data from anybody."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from resnet_sweep.compare.reading import DamageError, read_record, read_rows
from resnet_sweep.runs.lease import is_fresh
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import ORDER, augmentation_order, relevant


class Metrics(NamedTuple):
    """The metrics of a run, a row an epoch.

    Attributes:
        rows: as many as can be read; an unknown value is missing from its row.
        damage: why there aren't more, a sentence; None if these are all.
    """

    rows: list[Row]
    damage: str | None


@dataclass(eq=False)
class Entry:
    """A run directory that was found.

    Attributes:
        directory: where it is.
        name: the directory as a user would type it, or the name of a logged run; not yet fit to
            be printed, see `shown`.
        record: None if it can't be read.
        damage: why, a sentence; None if the record is sound.
    """

    directory: Path
    name: str
    record: Record | None = None
    damage: str | None = None

    @classmethod
    def read(cls, directory: Path, name: str) -> "Entry":
        """The entry of a directory, whatever is in it."""
        try:
            return cls(directory, name, record=read_record(directory))
        except DamageError as error:
            return cls(directory, name, damage=str(error))

    def asked(self, choices: Mapping[str, str]) -> "Entry":
        """This run as a sweep asks for it that has it from elsewhere.

        Other choices may have composed the same config, and a sweep knows its jobs by its own.

        Args:
            choices: made by the sweep in each config group; without any, those of the run stay.
        """
        if self.record is None or not choices:
            return self
        return replace(self, record=replace(self.record, choices=dict(choices)))

    @cached_property
    def metrics(self) -> Metrics:
        """What `metrics.csv` says, read when it is first asked for."""
        try:
            rows, damage = read_rows(self.directory)
            # Of a run at work, metrics.csv may be newer than what run.json knows.
            known = self.record is not None and self.record.state != "running"
            if known and not damage and "metrics.csv" in self.record.altered(self.directory):
                return Metrics([], "metrics.csv isn't what the run wrote")
            return Metrics(rows, damage)
        except FileNotFoundError:
            expected = self.record is not None and self.record.final is not None
            return Metrics([], "there is no metrics.csv" if expected else None)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides what is trained, flat; without settings at their neutral default.

        The precision is called `precision`, the fingerprint of the data `fingerprint`, where they
        are known.
        """
        if self.record is None:
            return {}
        known = {"precision": self.record.precision, "fingerprint": self.record.fingerprint}
        settings = relevant(self.record.config, "", "")
        for name in ("precision", "data", "numerics"):
            del settings[name]
        if len(order := augmentation_order(self.record.config)) > 1:
            settings[ORDER] = order
        return settings | {name: value for name, value in known.items() if value is not None}

    @cached_property
    def replicate_key(self) -> str:
        """The same for two runs that differ only in their seeds."""
        return json.dumps(self.settings | {"seed": None}, sort_keys=True)

    @property
    def choices(self) -> dict[str, str]:
        """The choice made in each config group."""
        return {} if self.record is None else self.record.choices

    @cached_property
    def started(self) -> float | None:
        """When the run began, seconds since 1970; None if that isn't known."""
        if self.record is None or self.record.started is None:
            return None
        return datetime.fromisoformat(self.record.started).timestamp()

    @cached_property
    def state(self) -> str:
        """The record's state, `running (stale)` if no process can be at work, or `damaged`."""
        if self.record is None:
            return "damaged"
        if self.record.state != "running":
            return self.record.state
        return "running" if is_fresh(self.record.lease or {}) else "running (stale)"
