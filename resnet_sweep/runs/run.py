"""The run that a process trains: its directory, its record and its lock.

The functions take the record of the requested run. They raise a ConfigError if the directory has a
record with another signature, contains other files, is in use by another process, or can't be
written to. A change to a `Run` raises a LockLostError if another process took over the run.
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
from resnet_sweep.runs.lock import RUN_LOCK, DirectoryLock, in_use_error
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

# The metrics files. A checkpoint contains the same metrics.
METRICS_FILES = ("layer_norms.csv", "metrics.csv")
_FOLDERS = ("checkpoints", "evaluation", "features", "plots", "tensorboard")
# The files and folders that `reset_run` removes.
RUN_RESULTS = (*METRICS_FILES, *_FOLDERS, "mlflow_run_id")
# Files that are written under a temporary name, which a killed process may leave.
_ATOMIC = (NAME, *METRICS_FILES, "mlflow_run_id", "checkpoints/*.pth", "plots/*.png")
# Files that a process leaves if it is killed before it writes the record.
_FIRST_FILES = frozenset({RUN_LOCK, "train.log"})
# Fields of the record that a resumed run keeps.
_KEPT_FIELDS = ("started", "best", "final", "gap", "seconds", "parameters")


class LockLostError(RuntimeError):
    """Another process took over the run, because its heartbeat was stale."""


class Run:
    """A run directory that this process has locked, or whose run has ended.

    Attributes:
        directory: absolute.
        record: the content of `run.json`.
        progress: the position of training, which the next heartbeat writes.
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
        """Start or resume a run; nothing is written before the directory is validated."""
        directory = Path(os.path.abspath(directory))
        with _usable(directory), contextlib.ExitStack() as lock:
            # Without a lock, an ended run can be opened in a read-only directory.
            earlier = find_record(directory, record)
            if earlier is None or not _is_done(directory, earlier):
                earlier = lock.enter_context(_locked(directory, record))
            if earlier is not None:
                if _is_done(directory, earlier):
                    return cls(directory, earlier, contextlib.ExitStack())
                if earlier.has_ended:
                    log.warning(
                        "warning: changed after the run wrote them: %s; the run resumes from its "
                        "last checkpoint to write them again",
                        ", ".join(earlier.altered(directory)),
                    )
                for name in _KEPT_FIELDS:
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
            # A full disk may have space again in 20 seconds. The training thread reports a disk
            # that stays full, and a lost lock.
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
            # A process that took over the run would have written a valid record.
            return
        if heartbeat is None:
            if self.record.heartbeat is None:
                return
            raise LockLostError("another process took over the run and ended it")
        own = new_heartbeat()
        if (heartbeat["host"], heartbeat["process"]) != (own["host"], own["process"]):
            raise LockLostError(
                f"process {heartbeat['process']} on {heartbeat['host']} took over the run"
            )

    def write_metrics(self, rows: list[Row]) -> None:
        """Write `metrics.csv`, and the best and the last epoch to the record."""
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
        """Write the last state of the run, and release its lock."""
        with self._lock, self._changing:
            self._closed.set()
            self.update(state=state, reason=reason, ended=now(), heartbeat=None)


def write_plan(directory: Path, record: Record) -> None:
    """Write the record of a planned run to its directory, in state `pending`.

    If the directory has a run with the same signature, its state and its results are kept. A run
    whose process exited while it was running becomes `interrupted`. A run that has ended isn't
    changed. The given record isn't changed either.
    """
    with _usable(directory), _locked(directory, record) as earlier:
        plan = replace(record, state=PENDING, reason="", heartbeat=None)
        if earlier is not None:
            if earlier.has_ended:
                return
            for name in (*_KEPT_FIELDS, "digests", "state", "reason", "ended"):
                setattr(plan, name, getattr(earlier, name))
            if earlier.state == "running":
                plan.state, plan.reason = "interrupted", "its process exited"
        # After a power cut, the same command writes a lost new plan again.
        plan.write(directory, durable=earlier is not None)


def mark_failed(directory: Path, reason: str, resuming: bool = False) -> None:
    """Mark a pending run, or a running one whose process exited, as failed.

    A run in another state, and one that another process has taken over, isn't changed.

    Args:
        directory: of the run; nothing is done if it has no record.
        reason: why the process exited.
        resuming: also mark an interrupted run, because an attempt to resume it failed.
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
    """Remove the results of a run, so that it starts from the first epoch when it is opened.

    Args:
        directory: nothing is done if it has no record.
        record: of the requested run, without results.
    """
    if find_record(directory, record) is None:
        return
    with _usable(directory), _locked(directory, record):
        # Written first, so that a run without its results never counts as ended.
        replace(record, state="interrupted", reason="reset to start again").write(directory)
        for name in RUN_RESULTS:
            path = directory / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def find_record(directory: Path, record: Record) -> Record | None:
    """Return the record in a directory; None if the directory is missing or has no record."""
    try:
        earlier = Record.read(directory)
    except (FileNotFoundError, NotADirectoryError):
        name = unexpected_file(directory)
        if name is not None:
            raise ConfigError(
                f"{directory} isn't a run directory and isn't empty (it contains {name}): choose "
                "another hydra.run.dir, or for a sweep another hydra.sweep.dir"
            ) from None
        return None
    if earlier.signature != record.signature:
        raise ConfigError(
            f"{directory} belongs to a run with another configuration "
            f"({_describe_difference(earlier, record)}): choose another hydra.run.dir, or use the "
            "settings of that run"
        )
    return earlier


def unexpected_file(directory: Path) -> str | None:
    """Return the name of a file because of which a directory can't become a run directory."""
    with _usable(directory):
        try:
            paths = sorted(directory.iterdir())
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return directory.name
        for path in paths:
            first = path.name in _FIRST_FILES or path.name.startswith(f".{NAME}-")
            if not (first or _is_reservation(path)):
                return path.name
    return None


def _is_reservation(path: Path) -> bool:
    """Return whether a path is an empty `.hydra/`; one with files belongs to another program."""
    return path.name == HYDRA_FOLDER and path.is_dir() and not any(path.iterdir())


def make_directory(directory: Path) -> None:
    """Create a directory if it doesn't exist."""
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_unique_directory(directory: Path, marker: str = "") -> Path:
    """Create a directory that no other run uses, with -2, -3, ... appended if it exists.

    With `marker`, an existing directory is free if it contains no folder of that name. The process
    that creates this folder reserves the directory.
    """
    with _usable(directory):
        for number in count(1):
            candidate = directory
            if number > 1:
                candidate = directory.with_name(f"{directory.name}-{number}")
            with contextlib.suppress(FileExistsError):
                (candidate / marker).mkdir(parents=True)
                break
    return candidate


def now() -> str:
    """Return the current time in ISO 8601, with its offset from UTC."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


@contextlib.contextmanager
def _locked(directory: Path, record: Record) -> Iterator[Record | None]:
    """Create and lock a run directory within a `with` block; yield the record in it."""
    earlier = find_record(directory, record)
    directory.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(directory, None if earlier is None else earlier.heartbeat)
    try:
        # Read again, because another process may have changed it before the lock was acquired.
        earlier = find_record(directory, record)
        if earlier is not None and lock.contradicts(earlier.heartbeat):
            raise in_use_error(directory, earlier.heartbeat)
        yield earlier
    finally:
        lock.release()


def _is_done(directory: Path, record: Record) -> bool:
    """Return whether a run has ended and its metrics files are unchanged.

    A run whose metrics files were changed is resumed from its last checkpoint, to write them again.
    """
    return record.has_ended and (record.state == "pruned" or not record.altered(directory))


def _describe_difference(earlier: Record, record: Record) -> str:
    """Return the first differences between two runs."""
    theirs, ours = (
        signed_settings(run.config, run.precision or "", run.fingerprint or "")
        for run in (earlier, record)
    )
    changed = differences(theirs, ours)
    if any(name.startswith("data.") for name in changed):
        # The fingerprint of the data differs because of these settings.
        changed.pop("data", None)
    found = [
        f"{name}: {format_setting(one)} in that run, {format_setting(other)} in this command"
        for name, (one, other) in changed.items()
    ]
    if not found:
        return "made by another version of this program"
    return "; ".join([*found[:5], *([f"and {len(found) - 5} more"] if len(found) > 5 else [])])


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
            "with hydra.run.dir=DIRECTORY, or for a sweep with hydra.sweep.dir=DIRECTORY"
        ) from error
