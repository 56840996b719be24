"""The files of a run directory, read as data from anybody: sizes are limited, nothing is trusted.

A run directory may come from another machine or another version, be half written, or be made to do
harm. What `Record.read` takes on trust, since a run goes on with it, is held against its kind here.
"""

import csv
import errno
import io
import json
import math
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

from resnet_sweep.runs.metrics import COLUMNS, Row
from resnet_sweep.runs.record import Record

LARGEST_RECORD = 16 * 2**20
LARGEST_METRICS = 64 * 2**20
MOST_ROWS = 100_000
# No figure of a training comes near it, and nothing can be drawn of larger ones.
LARGEST_FIGURE = 1e12
# Configs are nested four deep.
DEEPEST = 32


class DamageError(ValueError):
    """A file of a run directory can't be read; its message says why, as a clause."""


def read_record(directory: Path) -> Record:
    """The record in a run directory, with every value of the kind that `Record` says.

    `best` and `final` have all their keys, with None for what isn't known.

    Raises:
        DamageError: there is none, or it isn't sound.
    """
    content = _read_limited(directory / "run.json", LARGEST_RECORD)
    try:
        values = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DamageError("run.json is nested too deep") from error
    except ValueError as error:
        raise DamageError(f"run.json isn't JSON ({error})") from error
    if not isinstance(values, dict):
        raise DamageError(f"run.json holds {_kind(values)} instead of a mapping")
    _check_values(values)
    values = {name: value for name, value in values.items() if name in _KNOWN}
    for name, (wanted, suits) in _FIELDS.items():
        if name in values and not suits(values[name]):
            raise DamageError(f"{name} in run.json isn't {wanted}, but {_kind(values[name])}")
    # Of an older version that didn't measure it.
    values.setdefault("seconds", None)
    if "signature" not in values:
        raise DamageError("run.json has no signature")
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
        text = _read_limited(path, LARGEST_METRICS).decode()
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


def _read_limited(path: Path, limit: int) -> bytes:
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


def _check_values(value: Any, depth: int = 0) -> None:
    """Refuse what JSON can say, but nothing could be done with.

    Raises:
        DamageError: it is nested too deep, or has an infinite number.
    """
    if depth > DEEPEST:
        raise DamageError("run.json is nested too deep")
    if isinstance(value, dict):
        for entry in value.values():
            _check_values(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check_values(entry, depth + 1)
    elif isinstance(value, (int, float)) and not -1e300 < value < 1e300:
        raise DamageError("run.json has a number that is too large")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_time(value: Any) -> bool:
    try:
        return value is None or math.isfinite(datetime.fromisoformat(value).timestamp())
    except (ValueError, TypeError, OverflowError, OSError):
        return False


def _are_figures(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(map(_is_number, value.values()))
        and _is_whole(value.get("epoch"))
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text_mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _kind(value: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else kinds.get(type(value), "a number")


def _or_null(suits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or suits(value)


_KNOWN = frozenset(entry.name for entry in fields(Record))
_FIGURES = {
    "best": ("epoch", "val_acc", "val_loss"),
    "final": ("epoch", "train_acc", "train_loss", "val_acc", "val_loss"),
}
_FIELDS = {
    **dict.fromkeys(("signature", "state", "reason"), ("text", _is_text)),
    **dict.fromkeys(
        ("host", "device", "precision", "git_commit", "fingerprint"), ("text", _or_null(_is_text))
    ),
    **dict.fromkeys(("parameters", "threads", "seed"), ("a whole number", _is_whole)),
    **dict.fromkeys(("gap", "seconds"), ("a number", _is_number)),
    **dict.fromkeys(("started", "ended"), ("a time", _is_time)),
    **dict.fromkeys(("best", "final"), ("a mapping to numbers", _are_figures)),
    **dict.fromkeys(("overrides", "flags", "notes"), ("a list of texts", _are_texts)),
    **dict.fromkeys(("choices", "versions"), ("a mapping to texts", _is_text_mapping)),
    "config": ("a mapping", _is_mapping),
    "lease": ("a mapping", _or_null(_is_mapping)),
}
