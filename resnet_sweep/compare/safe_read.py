"""Safe reading of run directories from untrusted sources (docs/explanation/threats.md)."""

import csv
import errno
import io
import math
import os
import stat
from pathlib import Path

from resnet_sweep.errors import InvalidFileError
from resnet_sweep.runs.annotations import ANNOTATIONS, Annotations
from resnet_sweep.runs.metrics import COLUMNS, Row, is_further_column
from resnet_sweep.runs.record import Record

# Largest sizes of files that are read, in bytes. A sweep.json of this size has a few hundred
# thousand jobs.
MAX_RECORD_BYTES = 16 * 2**20
MAX_METRICS_BYTES = 64 * 2**20
MAX_SWEEP_BYTES = 256 * 2**20
MAX_ANNOTATIONS_BYTES = 2**20


def read_record(directory: Path) -> Record:
    """Return the record of a run directory.

    Raises:
        InvalidFileError: there is no `run.json`, or it isn't valid.
    """
    try:
        return Record.parse(read_limited(directory / "run.json", MAX_RECORD_BYTES))
    except FileNotFoundError as error:
        raise InvalidFileError("there is no run.json") from error


def read_annotations(directory: Path) -> Annotations:
    """Return the annotations of a run; if they can't be read, the note gives the reason."""
    try:
        return Annotations.parse(read_limited(directory / ANNOTATIONS, MAX_ANNOTATIONS_BYTES))
    except FileNotFoundError:
        return Annotations()
    except InvalidFileError as error:
        return Annotations(note=str(error))


def read_rows(directory: Path) -> tuple[list[Row], str | None]:
    """Return the rows of `metrics.csv` up to the first that can't be read.

    Values that are empty or not finite are left out, and so are columns that aren't in `COLUMNS`
    and aren't further metrics.

    Returns:
        The rows, and the reason why the rest can't be read, a clause; None if these are all rows.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
    """
    rows: list[Row] = []
    try:
        text = read_limited(directory / "metrics.csv", MAX_METRICS_BYTES).decode()
        whole, _, rest = text.rpartition("\n")
        lines = csv.reader(io.StringIO(whole, newline=""))
        header = next(lines, [])
        if "epoch" not in header:
            return rows, "metrics.csv has no column epoch"
        for number, line in enumerate(lines, start=1):
            if len(line) != len(header):
                counts = f"{len(line)} values for {len(header)} columns"
                return rows, f"row {number} of metrics.csv has {counts}"
            row = {
                name: int(value) if name == "epoch" else float(value)
                for name, value in zip(header, line, strict=True)
                if (name in COLUMNS or is_further_column(name)) and value
            }
            if "epoch" not in row:
                return rows, f"row {number} of metrics.csv has no epoch"
            rows.append({name: value for name, value in row.items() if math.isfinite(value)})
    except InvalidFileError as error:
        return rows, str(error)
    except (ValueError, OverflowError, csv.Error) as error:
        return rows, f"metrics.csv isn't a table of numbers ({error})"
    return rows, "the last row of metrics.csv is truncated" if rest else None


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a regular file; links, pipes and devices are refused.

    Args:
        path: the file.
        limit: largest size in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidFileError: it can't be read, is too large, or isn't a regular file.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidFileError(f"{path.name} isn't a regular file")
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = f"can't be read ({error.strerror})"
        if error.errno == errno.ELOOP:
            reason = "is a symbolic link, which isn't followed"
        raise InvalidFileError(f"{path.name} {reason}") from error
    if len(content) > limit:
        raise InvalidFileError(f"{path.name} is larger than {limit // 2**20} MB")
    return content


def _open(path: str, flags: int) -> int:
    # Opening a pipe without O_NONBLOCK would wait for its other end. Windows lacks both.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.open(path, flags)
