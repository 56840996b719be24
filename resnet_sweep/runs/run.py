"""The run that a process trains: its directory, its record and its lock.

A function here raises a ConfigError if the directory belongs to another run or to something else,
is in use by another process, or can't be written to. It gets the record of the run that is asked
for, which must have the signature of the record in the directory. A change to a `Run` raises a
LockLostError if another process took over the run.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import digest_file, remove_unfinished
from resnet_sweep.runs.lock import RUN_LOCK, DirectoryLock, in_use
from resnet_sweep.runs.metrics import Row, best_row, write_metrics
from resnet_sweep.runs.provenance import HYDRA_FOLDER
from resnet_sweep.runs.record import (
    HEARTBEAT_SECONDS,
    NAME,
    PENDING,
    BestEpoch,
    FinalEpoch,
    Progress,
    Record,
    State,
    new_heartbeat,
)
from resnet_sweep.runs.signature import differences, format_setting, signed_settings

log = logging.getLogger(__name__)

# Files with metrics of the epochs. A checkpoint holds the same metrics.
METRICS_FILES = ("layer_norms.csv", "metrics.csv")
_FOLDERS = ("checkpoints", "evaluation", "features", "plots", "tensorboard")
# What a run that starts anew removes.
RESULTS = (*METRICS_FILES, *_FOLDERS, "mlflow_run_id")
# The files that are written under another name first, which a killed process leaves behind.
_ATOMIC = (NAME, *METRICS_FILES, "mlflow_run_id", "checkpoints/*.pth", "plots/*.png")
# What a process that was killed at its start leaves in the directory.
_FIRST_FILES = frozenset({RUN_LOCK, "train.log"})
# What a run keeps when another process resumes it.
_OUTCOME = ("started", "best", "final", "gap", "seconds", "parameters")


class LockLostError(RuntimeError):
    """Another process took over a run, because it had no heartbeat for too long."""


class Run:
    """A run directory that this process may write into, or one whose run has ended.

    Attributes:
        directory: absolute.
        record: the content of its `run.json`.
        progress: that of the training; it is written with the next heartbeat.
    """

    def __init__(self, directory: Path, record: Record, lock: contextlib.ExitStack) -> None:
        self.directory = directory
        self.record = record
        self.progress = Progress()
        self._lock = lock
        self._changing = threading.RLock()
        self._closed = threading.Event()

    @classmethod
    def open(cls, directory: Path, record: Record) -> Self:
        """Start a run, or resume it; nothing is written before everything is validated."""
        directory = Path(os.path.abspath(directory))
        with _usable(directory), contextlib.ExitStack() as lock:
            # A run that has ended is returned even from a directory that is read-only.
            earlier = find_record(directory, record)
            if earlier is None or not _is_done(directory, earlier):
                earlier = lock.enter_context(_locked(directory, record))
            if earlier is not None:
                if _is_done(directory, earlier):
                    return cls(directory, earlier, contextlib.ExitStack())
                if earlier.has_ended:
                    log.warning(
                        "warning: %s isn't what the run wrote; the run is resumed from its "
                        "last checkpoint, to write it again",
                        " and ".join(earlier.altered(directory)),
                    )
                for name in _OUTCOME:
                    setattr(record, name, getattr(earlier, name))
            remove_unfinished(directory, *_ATOMIC)
            record.state, record.reason, record.ended = "running", "", None
            record.started = record.started or now()
            record.heartbeat = new_heartbeat()
            record.write(directory)
            run = cls(directory, record, lock.pop_all())
        threading.Thread(target=run._renew_heartbeat, daemon=True).start()
        return run

    def _renew_heartbeat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            # A disk that is full now may have space in 20 seconds. The thread that trains reports
            # a disk that stays full, and a lost lock.
            with self._changing, contextlib.suppress(OSError, LockLostError):
                if not self._closed.is_set():
                    self.update(heartbeat=new_heartbeat(self.progress))

    def update(self, **changes: Any) -> None:
        """Change attributes of the record, and write it."""
        with self._changing:
            self.verify_ownership()
            for name, value in changes.items():
                setattr(self.record, name, value)
            self.record.write(self.directory)

    def verify_ownership(self) -> None:
        """Raise a LockLostError if another process took over the run."""
        try:
            heartbeat = Record.read(self.directory).heartbeat
        except (OSError, ConfigError):
            # No process that took it over would leave it like that.
            return
        if heartbeat is None:
            if self.record.heartbeat is None:
                return
            raise LockLostError("another process took over the run, and has ended it")
        own = new_heartbeat()
        if (heartbeat["host"], heartbeat["process"]) != (own["host"], own["process"]):
            raise LockLostError(
                f"process {heartbeat['process']} on {heartbeat['host']} took over the run"
            )

    def write_metrics(self, rows: list[Row]) -> None:
        """Write `metrics.csv`, and the best and the last epoch into the record."""
        write_metrics(self.directory, rows)
        best, final = best_row(rows), rows[-1] if rows else None
        digests = {name: digest_file(self.directory / name) for name in METRICS_FILES}
        self.update(
            best=best and {name: best[name] for name in BestEpoch.__annotations__},
            final=final and {name: final[name] for name in FinalEpoch.__annotations__},
            gap=final and final["train_acc"] - final["val_acc"],
            seconds=sum(row["seconds"] for row in rows),
            digests={name: digest for name, digest in digests.items() if digest is not None},
            heartbeat=new_heartbeat(self.progress),
        )

    def close(self, state: State, reason: str = "") -> None:
        """Write the state of the run and release its lock."""
        with self._lock, self._changing:
            self._closed.set()
            self.update(state=state, reason=reason, ended=now(), heartbeat=None)


def write_plan(directory: Path, record: Record) -> None:
    """Write the record of a planned run into its directory, in state `pending`.

    Of an earlier run with the same signature, the state and the outcome are kept: one that was
    running when its process exited is `interrupted`, and one that has ended stays as it is. The
    given record isn't changed.
    """
    with _usable(directory), _locked(directory, record) as earlier:
        plan = replace(record, state=PENDING, reason="", heartbeat=None)
        if earlier is not None:
            if earlier.has_ended:
                return
            for name in (*_OUTCOME, "digests", "state", "reason", "ended"):
                setattr(plan, name, getattr(earlier, name))
            if earlier.state == "running":
                plan.state, plan.reason = "interrupted", "its process exited"
        # A new plan that a power cut takes is written again by the same command.
        plan.write(directory, durable=earlier is not None)


def mark_failed(directory: Path, reason: str, resuming: bool = False) -> None:
    """Mark a run as failed that is pending, or whose process exited while it was running.

    A run in another state, or that another process has taken over, stays as it is.

    Args:
        directory: nothing is done if it has no record.
        reason: why its process exited.
        resuming: mark one that was interrupted, too, because an attempt to resume it failed.
    """
    failing = (PENDING, "running", "interrupted") if resuming else (PENDING, "running")
    with (
        contextlib.suppress(OSError, ConfigError),
        _locked(directory, Record.read(directory)) as record,
    ):
        if record is not None and record.state in failing:
            failed = replace(record, state="failed", reason=reason, ended=now(), heartbeat=None)
            failed.write(directory)


def reset_run(directory: Path, record: Record) -> None:
    """Remove the results of a run, if there is one, so that it starts anew when it is opened.

    Args:
        directory: the run directory.
        record: without results.
    """
    if find_record(directory, record) is None:
        return
    with _usable(directory), _locked(directory, record):
        # First of all, so that without its results the run doesn't count as ended.
        replace(record, state="interrupted", reason="it was reset, to start anew").write(directory)
        for name in RESULTS:
            path = directory / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def find_record(directory: Path, record: Record) -> Record | None:
    """Return the record in a directory; None if there is none, or no directory."""
    try:
        earlier = Record.read(directory)
    except (FileNotFoundError, NotADirectoryError):
        name = unexpected_file(directory)
        if name is not None:
            raise ConfigError(
                f"{directory} isn't a run directory and isn't empty (it holds {name}): choose "
                "another hydra.run.dir"
            ) from None
        return None
    if earlier.signature != record.signature:
        raise ConfigError(
            f"{directory} belongs to a run with another configuration "
            f"({_describe_difference(earlier, record)}): choose another hydra.run.dir, or repeat "
            "the settings of that run"
        )
    return earlier


def unexpected_file(directory: Path) -> str | None:
    """Return the name of a file that keeps a directory without a record from being a run's."""
    with _usable(directory):
        try:
            paths = sorted(directory.iterdir())
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return directory.name
        for path in paths:
            first = path.name in _FIRST_FILES or path.name.startswith(f".{NAME}-")
            if not (first or _reserves(path)):
                return path.name
    return None


def _reserves(path: Path) -> bool:
    """Return whether a path is an empty `.hydra/`; with files it is another program's."""
    return path.name == HYDRA_FOLDER and path.is_dir() and not any(path.iterdir())


def make_directory(directory: Path) -> None:
    """Make a directory, unless it exists."""
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_unique_directory(directory: Path, mark: str = "") -> Path:
    """Make a new directory that no other run has: this one, or one with -2, -3 behind its name.

    If `mark` is given, a directory that exists is new, too, as long as it has no folder of that
    name; the process that makes this folder has the directory.
    """
    with _usable(directory):
        for number in count(1):
            candidate = directory
            if number > 1:
                candidate = directory.with_name(f"{directory.name}-{number}")
            with contextlib.suppress(FileExistsError):
                (candidate / mark).mkdir(parents=True)
                break
    return candidate


def now() -> str:
    """Return the time in ISO 8601, with its offset from UTC."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(directory: Path, record: Record) -> Iterator[Record | None]:
    """Make and lock a run directory within a `with` block, whose value is the record in it."""
    earlier = find_record(directory, record)
    directory.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(directory, None if earlier is None else earlier.heartbeat)
    try:
        # Read again, since another process may have changed it before it was locked.
        earlier = find_record(directory, record)
        if earlier is not None and lock.contradicts(earlier.heartbeat):
            raise in_use(directory, earlier.heartbeat)
        yield earlier
    finally:
        lock.release()


def _is_done(directory: Path, record: Record) -> bool:
    """Return whether a run has ended, and nothing is left to write.

    A run that was trained to its end is resumed if its files with metrics were altered: from its
    last checkpoint, with nothing left to train, it writes them again.
    """
    return record.has_ended and (record.state == "pruned" or not record.altered(directory))


def _describe_difference(earlier: Record, record: Record) -> str:
    """Return the first differences of two runs, such as `optim.lr: 0.1 there, 0.05 here`."""
    there, here = (
        signed_settings(run.config, run.precision or "", run.fingerprint or "")
        for run in (earlier, record)
    )
    apart = differences(there, here)
    if any(name.startswith("data.") for name in apart):
        # These settings choose other images, so the fingerprint differs too.
        apart.pop("data", None)
    found = [
        f"{name}: {format_setting(one)} there, {format_setting(other)} here"
        for name, (one, other) in apart.items()
    ]
    if not found:
        return "made by another version of this program"
    return ", ".join(found[:5]) + (f", and {len(found) - 5} more" if len(found) > 5 else "")


@contextlib.contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Raise a ConfigError in place of an error of the file system."""
    if "\0" in str(directory):
        raise ConfigError(f"{directory} can't be the name of a directory: choose another one")
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the directory {directory} can't be used ({error.strerror or error}): choose another "
            "with hydra.run.dir=DIRECTORY, or hydra.sweep.dir=DIRECTORY for a sweep"
        ) from error
