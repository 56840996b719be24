"""The files of a run directory, read as data from anybody: sizes are limited, nothing is trusted.

A run directory may come from another machine or another version, be half written, or be made to do
harm.
"""

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from resnet_sweep.runs.metrics import COLUMNS, Row
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.soundness import DamageError, check_record

LARGEST_RECORD = 16 * 2**20
LARGEST_METRICS = 64 * 2**20
# Of a few hundred thousand jobs.
LARGEST_SWEEP = 256 * 2**20
MOST_ROWS = 100_000
# No figure of a training comes near it, and nothing can be drawn of larger ones.
LARGEST_FIGURE = 1e12


def read_record(directory: Path) -> Record:
    """The record in a run directory, with every value of the kind that `Record` says.

    `best` and `final` have all their keys, with None for what isn't known.

    Raises:
        DamageError: there is none, or it isn't sound.
    """
    content = read_limited(directory / "run.json", LARGEST_RECORD)
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DamageError("run.json is nested too deep") from error
    except ValueError as error:
        raise DamageError(f"run.json isn't JSON ({error})") from error
    check_record(values)
    values = {name: value for name, value in values.items() if name in _KNOWN}
    # Of an older version that didn't measure it.
    values.setdefault("seconds", None)
    for name, figures in _FIGURES.items():
        if values.get(name) is not None:
            values[name] = dict.fromkeys(figures) | values[name]
    return Record(**values)


def read_rows(directory: Path) -> tuple[list[Row], str | None]:
    """The rows of `metrics.csv` up to the first that can't be read.

    A value that is empty, not finite or beyond LARGEST_FIGURE is left out of its row, and a column
    that `COLUMNS` doesn't have out of all.

    Returns:
        The rows, and why there aren't more; None if these are all.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
    """
    rows: list[Row] = []
    try:
        rows.extend(_rows(directory / "metrics.csv"))
    except DamageError as error:
        return rows, str(error)
    return rows, None


def _rows(path: Path) -> Iterator[Row]:
    try:
        text = read_limited(path, LARGEST_METRICS).decode()
        whole, _, rest = text.rpartition("\n")
        lines = csv.reader(io.StringIO(whole, newline=""))
        header = next(lines, [])
        if "epoch" not in header:
            raise DamageError("metrics.csv has no column epoch")
        for number, line in enumerate(lines, start=1):
            if number > MOST_ROWS:
                raise DamageError(f"metrics.csv has more than {MOST_ROWS} rows")
            if len(line) != len(header):
                raise DamageError(
                    f"row {number} of metrics.csv has {len(line)} values for {len(header)} columns"
                )
            row = {
                name: int(value) if name == "epoch" else float(value)
                for name, value in zip(header, line, strict=True)
                if name in COLUMNS and value
            }
            row = {name: value for name, value in row.items() if abs(value) < LARGEST_FIGURE}
            if "epoch" not in row:
                raise DamageError(f"row {number} of metrics.csv has no epoch")
            yield row
        if rest:
            raise DamageError("the last row of metrics.csv is cut off")
    except (ValueError, OverflowError, csv.Error) as error:
        if isinstance(error, DamageError):
            raise
        raise DamageError(f"metrics.csv isn't a table of numbers ({error})") from error


def read_limited(path: Path, limit: int) -> bytes:
    """All of a file that is no larger than `limit` bytes, and no link, pipe or device.

    Raises:
        FileNotFoundError: there is none, and it isn't `run.json`.
        DamageError: it isn't such a file.
    """
    try:
        # Opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DamageError(f"{path.name} isn't a file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        if path.name == "metrics.csv":
            raise
        raise DamageError(f"there is no {path.name}") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DamageError(f"{path.name} is a symbolic link, which isn't followed") from error
        raise DamageError(f"{path.name} can't be read ({error.strerror})") from error
    if len(content) > limit:
        raise DamageError(f"{path.name} is larger than {limit // 2**20} MB")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}")


_KNOWN = frozenset(entry.name for entry in fields(Record))
_FIGURES = {
    "best": ("epoch", "val_acc", "val_loss"),
    "final": ("epoch", "train_acc", "train_loss", "val_acc", "val_loss"),
}
