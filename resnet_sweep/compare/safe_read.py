"""Safe reading of run directories from untrusted sources (docs/explanation/threats.md)."""

import csv
import errno
import io
import math
import os
import stat
from pathlib import Path

from resnet_sweep.errors import InvalidFileError
from resnet_sweep.runs.metrics import COLUMNS, Row
from resnet_sweep.runs.record import Record

# Bytes of a file that is read; sweep.json has a few hundred thousand jobs then.
LARGEST_RECORD = 16 * 2**20
LARGEST_METRICS = 64 * 2**20
LARGEST_SWEEP = 256 * 2**20


def read_record(directory: Path) -> Record:
    """Return the record of a run directory.

    Raises:
        InvalidFileError: there is none, or it isn't valid.
    """
    try:
        return Record.parse(read_limited(directory / "run.json", LARGEST_RECORD))
    except FileNotFoundError as error:
        raise InvalidFileError("there is no run.json") from error


def read_rows(directory: Path) -> tuple[list[Row], str | None]:
    """Return the rows of `metrics.csv` up to the first that can't be read.

    A value that is empty or not finite is left out of its row, and a column that `COLUMNS` doesn't
    have is left out.

    Returns:
        The rows, and why there are no more, a clause; None if these are all.

    Raises:
        FileNotFoundError: there is no `metrics.csv`.
    """
    rows: list[Row] = []
    try:
        text = read_limited(directory / "metrics.csv", LARGEST_METRICS).decode()
        whole, _, rest = text.rpartition("\n")
        lines = csv.reader(io.StringIO(whole, newline=""))
        header = next(lines, [])
        if "epoch" not in header:
            return rows, "metrics.csv has no column epoch"
        for number, line in enumerate(lines, start=1):
            which = f"row {number} of metrics.csv has"
            if len(line) != len(header):
                return rows, f"{which} {len(line)} values for {len(header)} columns"
            row = {
                name: int(value) if name == "epoch" else float(value)
                for name, value in zip(header, line, strict=True)
                if name in COLUMNS and value
            }
            if "epoch" not in row:
                return rows, f"{which} no epoch"
            rows.append({name: value for name, value in row.items() if math.isfinite(value)})
    except InvalidFileError as error:
        return rows, str(error)
    except (ValueError, OverflowError, csv.Error) as error:
        return rows, f"metrics.csv isn't a table of numbers ({error})"
    return rows, "the last row of metrics.csv is cut off" if rest else None


def read_limited(path: Path, limit: int) -> bytes:
    """Return the content of a file, which must not be a link, a pipe or a device.

    Args:
        path: the file.
        limit: the number of bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        InvalidFileError: it can't be read, or isn't such a file.
    """
    try:
        with open(path, "rb", opener=_open) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidFileError(f"{path.name} isn't a file")
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
