"""The run that a process trains: its directory, its record and its lock."""

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
from resnet_sweep.runs.signature import differences, relevant, typed

log = logging.getLogger(__name__)

# Files with metrics of the epochs. A checkpoint holds the same metrics.
METRICS_FILES = ("layer_norms.csv", "metrics.csv")
# What a run that starts anew removes.
RESULTS = (
    *METRICS_FILES,
    "checkpoints",
    "evaluation",
    "features",
    "mlflow_run_id",
    "plots",
    "tensorboard",
)
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
        progress: of the training; it is written with the next heartbeat.
    """

    def __init__(self, directory: Path, record: Record, lock: DirectoryLock | None) -> None:
        self.directory = directory
        self.record = record
        self.progress = Progress()
        self._lock = lock
        self._changing = threading.RLock()
        self._closed = threading.Event()

    @classmethod
    def open(cls, directory: Path, record: Record) -> Self:
        """Start a run, or resume it; nothing is written before everything is validated.

        Args:
            directory: made if it doesn't exist.
            record: of the run that is asked for.

        Raises:
            ConfigError: the directory belongs to another run or to something else, is in use,
                or can't be written to.
        """
        directory = Path(os.path.abspath(directory))
        with _usable(directory):
            # A run that has ended is returned even from a directory that is read-only.
            earlier = find_record(directory, record)
            if earlier is not None and _is_done(directory, earlier):
                return cls(directory, earlier, lock=None)
            make_directory(directory)
            lock, earlier = _lock(directory, record)
            try:
                if earlier is not None:
                    if _is_done(directory, earlier):
                        lock.release()
                        return cls(directory, earlier, lock=None)
                    if earlier.ended_for_good:
                        log.warning(
                            "warning: %s isn't what the run wrote; the run is resumed from its "
                            "last checkpoint, to write it again",
                            " and ".join(earlier.altered(directory)),
                        )
                    for name in _OUTCOME:
                        setattr(record, name, getattr(earlier, name))
                remove_unfinished(directory, *_ATOMIC)
                run = cls(directory, record, lock)
                run._start()
            except BaseException:
                lock.release()
                raise
        return run

    def _start(self) -> None:
        self.record.state, self.record.reason, self.record.ended = "running", "", None
        self.record.started = self.record.started or now()
        self.record.heartbeat = new_heartbeat()
        self.record.write(self.directory)
        threading.Thread(target=self._renew_heartbeat, daemon=True).start()

    def _renew_heartbeat(self) -> None:
        while not self._closed.wait(HEARTBEAT_SECONDS):
            # A disk that is full now may have space in 20 seconds. The thread that trains reports
            # a disk that stays full, and a lost lock.
            with self._changing, contextlib.suppress(OSError, LockLostError):
                if not self._closed.is_set():
                    self.update(heartbeat=new_heartbeat(self.progress))

    def update(self, **changes: Any) -> None:
        """Change attributes of the record, and write it.

        Raises:
            LockLostError: another process took over the run.
        """
        with self._changing:
            self.verify_ownership()
            for name, value in changes.items():
                setattr(self.record, name, value)
            self.record.write(self.directory)

    def verify_ownership(self) -> None:
        """Check that no other process took over the run.

        Raises:
            LockLostError: one did.
        """
        try:
            heartbeat = Record.read(self.directory).heartbeat
        except (FileNotFoundError, ConfigError):
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
        """Write `metrics.csv`, and the best and the last epoch into the record.

        Raises:
            LockLostError: another process took over the run.
        """
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
        """Write the state of the run and release its lock.

        Raises:
            LockLostError: another process took over the run.
        """
        try:
            with self._changing:
                self._closed.set()
                self.update(state=state, reason=reason, ended=now(), heartbeat=None)
        finally:
            if self._lock is not None:
                self._lock.release()


def write_plan(directory: Path, record: Record) -> None:
    """Write the record of a planned run into its directory, in state `pending`.

    Of an earlier run with the same signature, the state and the outcome are kept: one that was
    running when its process exited is `interrupted`, and one that has ended stays as it is.

    Args:
        directory: made if it doesn't exist.
        record: of the planned run; it isn't changed.

    Raises:
        ConfigError: the directory belongs to another run or to something else, is in use, or
            can't be written to.
    """
    with _usable(directory):
        make_directory(directory)
        lock, earlier = _lock(directory, record)
        try:
            plan = replace(record, state=PENDING, reason="", heartbeat=None)
            if earlier is not None:
                if earlier.ended_for_good:
                    return
                for name in (*_OUTCOME, "digests"):
                    setattr(plan, name, getattr(earlier, name))
                if earlier.state == "running":
                    plan.state, plan.reason = "interrupted", "its process exited"
                elif earlier.state != PENDING:
                    plan.state, plan.reason, plan.ended = (
                        earlier.state,
                        earlier.reason,
                        earlier.ended,
                    )
            # A new plan that a power cut takes is written again by the same command.
            plan.write(directory, durable=earlier is not None)
        finally:
            lock.release()


def mark_failed(directory: Path, reason: str, resuming: bool = False) -> None:
    """Mark a run as failed that is pending, or whose process exited while it was running.

    A run in another state, or that another process has taken over, stays as it is.

    Args:
        directory: of the run; nothing is done if it has no record.
        reason: why its process exited.
        resuming: whether it was an attempt to resume the run that failed, so that one that was
            interrupted before has failed, too.
    """
    failing = (PENDING, "running", "interrupted") if resuming else (PENDING, "running")
    with contextlib.suppress(OSError, ConfigError):
        record = Record.read(directory)
        lock, earlier = _lock(directory, record)
        try:
            if earlier is not None and earlier.state in failing:
                replace(earlier, state="failed", reason=reason, ended=now(), heartbeat=None).write(
                    directory
                )
        finally:
            lock.release()


def reset_run(directory: Path, record: Record) -> None:
    """Remove the results of a run, so that it starts anew when it is opened.

    Args:
        directory: of the run; nothing is done if it has no record.
        record: of the run that is asked for.

    Raises:
        ConfigError: the directory belongs to another run or to something else, is in use, or
            can't be written to; nothing in it was changed.
    """
    with _usable(directory):
        if find_record(directory, record) is None:
            return
        lock, earlier = _lock(directory, record)
        try:
            if earlier is None:
                return
            # First of all, so that without its results the run doesn't count as ended.
            replace(
                earlier,
                state="interrupted",
                reason="it was reset, to start anew",
                best=None,
                final=None,
                gap=None,
                seconds=0.0,
                started=None,
                ended=None,
                digests={},
                heartbeat=None,
            ).write(directory)
            for name in RESULTS:
                path = directory / name
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        finally:
            lock.release()


def find_record(directory: Path, record: Record) -> Record | None:
    """Return the record in a directory, which must be of the run that is asked for.

    Args:
        directory: of the run; it may not exist.
        record: of the run that is asked for.

    Raises:
        ConfigError: it is of another run, or the directory is something else's.
    """
    try:
        earlier = Record.read(directory)
    except (FileNotFoundError, NotADirectoryError):
        if (name := unexpected_file(directory)) is not None:
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
    try:
        # An empty `.hydra/` reserves a directory; with files it is another program's.
        names = sorted(
            path.name
            for path in directory.iterdir()
            if path.name != ".hydra" or any(path.iterdir())
        )
    except NotADirectoryError:
        return directory.name
    except FileNotFoundError:
        return None
    return next(
        (name for name in names if name not in _FIRST_FILES and not name.startswith(f".{NAME}-")),
        None,
    )


def make_directory(directory: Path) -> None:
    """Make a directory, unless it exists.

    Raises:
        ConfigError: it can't be made.
    """
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_unique_directory(directory: Path) -> Path:
    """Make a new directory that no other run has: this one, or one with -2, -3 behind its name.

    Raises:
        ConfigError: it can't be made.
    """
    with _usable(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            candidate = directory
            if number > 1:
                candidate = directory.with_name(f"{directory.name}-{number}")
            with contextlib.suppress(FileExistsError):
                candidate.mkdir()
                break
    return candidate


def now() -> str:
    """Return the time in ISO 8601, with its offset from UTC."""
    return datetime.now(UTC).astimezone().isoformat(timespec="seconds")


def _lock(directory: Path, record: Record) -> tuple[DirectoryLock, Record | None]:
    """Lock the directory of a run.

    Returns:
        The lock, and the record in the directory, if there is one.

    Raises:
        ConfigError: the directory is another run's or something else's, or is in use.
    """
    earlier = find_record(directory, record)
    lock = DirectoryLock(directory, None if earlier is None else earlier.heartbeat)
    try:
        # Read again, since another process may have changed it before it was locked.
        earlier = find_record(directory, record)
        if earlier is not None and lock.contradicts(earlier.heartbeat):
            raise in_use(directory, earlier.heartbeat)
    except BaseException:
        lock.release()
        raise
    return lock, earlier


def _is_done(directory: Path, record: Record) -> bool:
    """Return whether a run has ended and its files with metrics are intact.

    A run that was trained to its end is resumed if they aren't: from its last checkpoint, with
    nothing left to train, it writes them again.
    """
    resumable = record.state in ("finished", "stopped_early", "diverged")
    return record.ended_for_good and not (resumable and record.altered(directory))


def _describe_difference(earlier: Record, record: Record) -> str:
    """Return the first differences of two runs, such as `optim.lr: 0.1 there, 0.05 here`."""
    there, here = (
        relevant(run.config, run.precision or "", run.fingerprint or "")
        for run in (earlier, record)
    )
    apart = differences(there, here)
    if any(name.startswith("data.") for name in apart):
        # These settings choose other images, so the fingerprint differs too.
        apart.pop("data", None)
    found = [
        f"{name}: {typed(one)} there, {typed(other)} here" for name, (one, other) in apart.items()
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
