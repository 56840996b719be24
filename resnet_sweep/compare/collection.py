"""The runs below some folders."""

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from resnet_sweep.compare.reading import DamageError, read_record, read_rows
from resnet_sweep.compare.text import shown
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.lease import STALE_SECONDS
from resnet_sweep.runs.metrics import Row
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import ORDER, augmentation_order, relevant

# The runs of the training log, a run directory each.
LOGGED_RUNS = Path(__file__).parent / "logged_runs"


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

    @cached_property
    def metrics(self) -> Metrics:
        """What `metrics.csv` says, read when it is first asked for."""
        try:
            return Metrics(*read_rows(self.directory))
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
        renewed = (self.record.lease or {}).get("renewed")
        held = isinstance(renewed, (int, float)) and abs(time.time() - renewed) < STALE_SECONDS
        return "running" if held else "running (stale)"


def find_runs(paths: Iterable[str | Path]) -> list[Entry]:
    """All runs in some directories or below, newest first and damaged ones last.

    Links and hidden folders are left out, and what is below a run directory. A run that is in
    several of the directories is there once.

    Args:
        paths: directories, runs themselves, or names of logged runs.

    Raises:
        RequestError: one of them doesn't exist.
    """
    seen: set[tuple[int, int]] = set()
    found = [entry for path in paths for entry in _search(_existing(path), str(path), seen)]
    return sorted(found, key=_order)


def resolve_run(path: str | Path) -> Path:
    """The directory of a run that a command line names.

    Args:
        path: a run directory; or else the name of a logged run that comes with this package.

    Raises:
        RequestError: it is neither.
    """
    directory = _existing(path)
    if not os.path.lexists(directory / "run.json"):
        raise RequestError(
            f"{shown(str(path))} isn't a run directory (it has no run.json): name one, such as "
            f"outputs/DATE/TIME, or {' or '.join(logged_runs())}"
        )
    return directory


def read_run(path: str | Path) -> Entry:
    """The run that a command line names, as `resolve_run` does.

    Raises:
        RequestError: there is none, or its record is damaged.
    """
    entry = Entry.read(resolve_run(path), str(path))
    if entry.damage:
        raise RequestError(
            f"{shown(entry.name)} can't be read, since {shown(entry.damage)}: put a sound copy "
            "there, or name another run"
        )
    return entry


def logged_runs() -> list[str]:
    """The names of the logged runs that come with this package."""
    return sorted(path.name for path in LOGGED_RUNS.iterdir() if path.is_dir())


def _existing(path: str | Path) -> Path:
    if os.path.isdir(path):
        return Path(path)
    if str(path) in logged_runs():
        return LOGGED_RUNS / path
    raise RequestError(
        f"{shown(str(path))} isn't a directory: name one with runs, or {' or '.join(logged_runs())}"
    )


def _search(top: Path, name: str, seen: set[tuple[int, int]]) -> Iterator[Entry]:
    """The runs in a directory or below, each with its path from there behind `name`."""
    waiting = [(str(top), os.path.normpath(name))]
    while waiting:
        path, name = waiting.pop()
        try:
            status = os.stat(path)
            identity = (status.st_dev, status.st_ino)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as listing:
                inside = list(listing)
            folders = [
                each.name
                for each in inside
                if not each.name.startswith(".") and each.is_dir(follow_symlinks=False)
            ]
        except OSError as error:
            yield Entry(Path(path), name, damage=f"it can't be read ({error.strerror})")
            continue
        if any(each.name == "run.json" for each in inside):
            yield Entry.read(Path(path), name)
        else:
            waiting += [
                (os.path.join(path, folder), folder if name == "." else os.path.join(name, folder))
                for folder in folders
            ]


def _order(entry: Entry) -> tuple[bool, float, list[str | int]]:
    # Jobs of a sweep that began in the same second stay in the order of their numbers.
    parts = [int(each) if each.isdecimal() else each for each in re.split(r"(\d+)", entry.name)]
    return entry.record is None, -(entry.started or 0.0), parts
