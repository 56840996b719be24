"""The run that a process trains: its directory, its record and its lock.

The argument `record` of a function is the record of the run that a command asks for. The function
raises a ConfigError if that run can't use the directory: it contains a run with another signature,
it contains other files, another process uses it, or it can't be written to.

A change to a `Run` raises a LockLostError if another process took over the run.
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
from resnet_sweep.runs.annotations import ANNOTATIONS
from resnet_sweep.runs.files import digest_file, remove_unfinished, write_atomically
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
from resnet_sweep.runs.signature import (
    code_file,
    differences,
    format_setting,
    signed_settings,
)

log = logging.getLogger(__name__)

# The messages of the processes that train the run.
LOG = "train.log"
# The limit of the common file systems.
MAX_NAME_BYTES = 255
# The metrics files. A checkpoint contains the same metrics.
METRICS_FILES = ("layer_norms.csv", "metrics.csv")
_FOLDERS = ("checkpoints", "evaluation", "features", "plots", "tensorboard")
# The files and folders that `reset_run` removes.
RUN_RESULTS = (*METRICS_FILES, *_FOLDERS, "mlflow_run_id")
# Patterns of the files that `write_atomically` writes. A killed process may leave temporary copies.
_ATOMIC = (NAME, *METRICS_FILES, "mlflow_run_id", "checkpoints/*.pth", "plots/*.png")
# A process that is killed before it writes the record leaves these files.
_FIRST_FILES = frozenset({RUN_LOCK, LOG})
# Fields of the record that a resumed run keeps.
_KEPT_FIELDS = (
    *("started", "best", "final", "gap", "seconds", "usage", "parameters"),
    *("epoch_key", "shared_epochs"),
)
# Fields that a sweep plans, and that a resumed run keeps.
_SWEEP_FIELDS = ("start_from", "keep_epochs", "keep_stops")


class LockLostError(RuntimeError):
    """Another process took over the run, because its heartbeat was stale."""


class Run:
    """The run in a directory. This process has locked the directory, unless the run has ended.

    Attributes:
        directory: the run directory, as an absolute path.
        record: the content of `run.json`.
        progress: the position of training. The next heartbeat contains it.
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
        """Start or resume a run. The directory is validated before anything is written."""
        directory = Path(os.path.abspath(directory))
        with _usable(directory), contextlib.ExitStack() as lock:
            # The lock isn't acquired yet, because a run that has ended may be in a read-only
            # directory.
            earlier = find_record(directory, record)
            if earlier is None or not _is_done(directory, earlier):
                earlier = lock.enter_context(_locked(directory, record))
            if earlier is not None:
                if _is_done(directory, earlier):
                    return cls(directory, earlier, contextlib.ExitStack())
                if earlier.has_ended:
                    log.warning(
                        "warning: changed after the run wrote them: %s; the run %s to write them "
                        "again",
                        ", ".join(earlier.altered(directory)),
                        "is trained" if earlier.reused_from else "resumes from its last checkpoint",
                    )
                if earlier.reused_from:
                    # It has no checkpoint, so this directory trains it from the first epoch.
                    earlier = Record(earlier.signature)
                for name in (*_KEPT_FIELDS, *_SWEEP_FIELDS, "reused_from"):
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
            # A full disk may have space at the next heartbeat. If it stays full, or if the lock is
            # lost, the training thread raises the error.
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
            # The run wasn't taken over: the other process would have written a valid record.
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

    def write_metrics(self, rows: list[Row], epoch_key: str | None = None) -> None:
        """Write `metrics.csv`, and write the best and the last epoch to the record."""
        write_metrics(self.directory, rows)
        best, final = best_row(rows), rows[-1] if rows else None
        digests = {name: digest_file(self.directory / name) for name in METRICS_FILES}
        self.update(
            best=best and {name: best[name] for name in BestEpoch.__annotations__},
            final=final and {name: final[name] for name in FinalEpoch.__annotations__},
            gap=final and final["train_acc"] - final["val_acc"],
            seconds=sum(row["seconds"] for row in rows),
            epoch_key=epoch_key,
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

    If the directory contains a run with the same signature, its state and its results are kept. But
    a run in state `running` becomes `interrupted`, because its process has exited. A run that has
    ended isn't changed. The given record isn't changed either.
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
        # A new plan need not be durable: if a power cut loses it, the same command writes it again.
        plan.write(directory, durable=earlier is not None)


def reused_record(plan: Record, found: Record, directory: Path) -> Record:
    """Return the record of a job that reuses a complete run: its plan with the results of the run.

    Args:
        plan: the planned record of the job.
        found: the record of the complete run, which has the same signature.
        directory: the directory of the complete run. It may itself be a reused run.
    """
    return replace(
        found,
        config=plan.config,
        choices=plan.choices,
        overrides=plan.overrides,
        hydra_flags=plan.hydra_flags,
        start_from=None,
        keep_epochs=[],
        keep_stops=[],
        reused_from=found.reused_from or os.path.abspath(directory),
    )


def copy_results(source: Path, directory: Path, record: Record) -> None:
    """Copy the metrics of a complete run to a job that reuses the run, and write its record.

    The checkpoints aren't copied. The record is written last. If the process is killed before that,
    the job is still pending.

    Args:
        source: the directory of the complete run.
        directory: the directory of the job; it contains the plan that `write_plan` wrote.
        record: the record to write; see `reused_record`.
    """
    with _usable(directory), _locked(directory, record):
        if record.altered(source):
            raise ConfigError(
                f"the run in {source} was changed or removed while the jobs were composed: repeat "
                "the command"
            )
        events = (source / "tensorboard").glob("events.*")
        for path in (*(source / name for name in METRICS_FILES), *events):
            # A link in another person's directory may name any file.
            if path.is_file() and not path.is_symlink():
                copy = directory / path.relative_to(source)
                copy.parent.mkdir(exist_ok=True)
                write_atomically(copy, path.read_bytes(), durable=False)
        record.write(directory)


def weights_directory(directory: Path, record: Record) -> Path:
    """Return the directory with the checkpoints of a run; for a reused run, it is another one.

    Raises:
        ConfigError: the other directory no longer contains the run.
    """
    if record.reused_from is None:
        return directory
    source = Path(record.reused_from)
    found = None
    with contextlib.suppress(OSError, ConfigError):
        found = Record.read(source).signature
    if found != record.signature:
        raise ConfigError(
            f"{directory} has no weights: its run was reused from {source}, which no longer "
            "contains that run: restore it, name another run, or train the job of the sweep with "
            "reuse=false"
        )
    return source


def continue_pruned(directory: Path, record: Record, epochs: int) -> bool:
    """Mark a pruned run as interrupted, so that it is resumed when it is opened.

    Args:
        directory: directory of the run.
        record: record of the run that the command asks for.
        epochs: a run with more epochs isn't changed, because it was pruned again later.

    Returns:
        Whether the run was changed.
    """
    with _usable(directory), _locked(directory, record) as earlier:
        if earlier is None or earlier.state != "pruned" or not earlier.final:
            return False
        if earlier.final["epoch"] > epochs:
            return False
        replace(earlier, state="interrupted", ended=None, heartbeat=None).write(directory)
    return True


def mark_failed(directory: Path, reason: str, resuming: bool = False) -> None:
    """Mark a run as failed if it is pending, or if it is running and its process has exited.

    A run in another state isn't changed, and neither is a run that another process uses. Errors are
    ignored.

    Args:
        directory: directory of the run; nothing is done if it contains no record.
        reason: why the process exited.
        resuming: True marks an interrupted run, too. It is for a failed attempt to resume.
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
        directory: directory of the run; nothing is done if it contains no record.
        record: record of the run that the command asks for, without results.
    """
    if find_record(directory, record) is None:
        return
    with _usable(directory), _locked(directory, record):
        # The record is written first. Otherwise, a kill could leave a run that counts as ended, but
        # has no results.
        replace(record, state="interrupted", reason="reset to start again").write(directory)
        for name in RUN_RESULTS:
            _remove(directory / name)


def delete_run(directory: Path, record: Record) -> list[str]:
    """Delete the files of a run, and its directory if it contains nothing else.

    `run.json` is deleted last. If the process is killed before that, the run can be deleted again.

    Args:
        directory: directory of the run.
        record: record of the run, as it was when somebody decided to delete it.

    Returns:
        The names of other files and folders in the directory, which are kept.
    """
    with _usable(directory):
        with _locked(directory, record) as earlier:
            if earlier is None or earlier.state != record.state:
                state = "deleted" if earlier is None else earlier.state
                raise ConfigError(
                    f"{directory} was {record.state} and is {state} now, so it isn't deleted: "
                    "repeat the command"
                )
            if earlier.has_ended:
                # Otherwise, a kill could leave a run that counts as ended, but has no results. If
                # the disk is full, the mark can't be written, but the files can be deleted.
                with contextlib.suppress(OSError):
                    replace(earlier, state="interrupted", reason="being deleted").write(directory)
            for name in (*RUN_RESULTS, HYDRA_FOLDER, LOG, ANNOTATIONS):
                _remove(directory / name)
            remove_unfinished(directory, *_ATOMIC)
            _remove(directory / NAME)
        others = sorted(path.name for path in directory.iterdir())
        if not others:
            directory.rmdir()
        return others


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def find_record(directory: Path, record: Record) -> Record | None:
    """Return the record in a directory; None if there is none."""
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
        found = _describe_differences(earlier, record)
        raise ConfigError(f"{directory} belongs to a run with {found} of that run")
    return earlier


def unexpected_file(directory: Path) -> str | None:
    """Return the name of a file that a new run directory can't contain; None if there is none."""
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
    """Return whether a path is an empty `.hydra/`, the mark that `make_unique_directory` leaves.

    A `.hydra/` with files belongs to another program.
    """
    return path.name == HYDRA_FOLDER and path.is_dir() and not any(path.iterdir())


def make_directory(directory: Path) -> None:
    """Create a directory if it doesn't exist."""
    with _usable(directory):
        directory.mkdir(parents=True, exist_ok=True)


def make_unique_directory(directory: Path, marker: str = "") -> Path:
    """Create a directory that no other run uses. If it exists, add -2, -3, ... to the name.

    With `marker`, an existing directory can be used if it contains no folder with this name. The
    process creates this folder to reserve the directory.
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
    """Create a run directory, lock it within a `with` block, and yield the record in it."""
    earlier = find_record(directory, record)
    directory.mkdir(parents=True, exist_ok=True)
    lock = DirectoryLock(directory, None if earlier is None else earlier.heartbeat)
    try:
        # The record is read again, because another process may have changed it before this process
        # acquired the lock.
        earlier = find_record(directory, record)
        if earlier is not None and lock.contradicts(earlier.heartbeat):
            raise in_use_error(directory, earlier.heartbeat)
        yield earlier
    finally:
        lock.release()


def _is_done(directory: Path, record: Record) -> bool:
    """Return whether a run has ended and its metrics files are unchanged.

    If they were changed, the run has to resume from its last checkpoint to write them again.
    """
    return record.has_ended and (record.state == "pruned" or not record.altered(directory))


def _describe_differences(earlier: Record, record: Record) -> str:
    """Return the first differences between two runs, and what to do, as the end of a sentence."""
    theirs, ours = (
        signed_settings(run.config, run.precision, run.inputs) for run in (earlier, record)
    )
    changed = differences(theirs, ours)
    if any(name.startswith("data.") for name in changed):
        # The fingerprint of the data differs because of these settings.
        changed.pop("data", None)
    found = [
        f"{name}: {format_setting(one)} in that run, {format_setting(other)} in this command"
        if (file := code_file(name)) is None
        else f"{file} has changed"
        for name, (one, other) in changed.items()
    ] or ["made by another version of this program"]
    what, restored = "another configuration", "use the settings"
    if changed and all(code_file(name) is not None for name in changed):
        what, restored = "other code", "restore the code"
    listed = "; ".join([*found[:5], *([f"and {len(found) - 5} more"] if len(found) > 5 else [])])
    return f"{what} ({listed}): choose another hydra.run.dir, or {restored}"


@contextlib.contextmanager
def _usable(directory: Path) -> Iterator[None]:
    """Convert an error of the file system to a ConfigError."""
    if "\0" in str(directory):
        raise ConfigError(f"{directory} can't be the name of a directory: choose another one")
    # The system reports this only if the parent exists, which a planned sweep hasn't made yet.
    for name in directory.parts:
        if len(os.fsencode(name)) > MAX_NAME_BYTES:
            raise ConfigError(f"{name} is too long for the name of a directory: choose another one")
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"the directory {directory} can't be used ({error.strerror or error}): choose another "
            "with hydra.run.dir=DIRECTORY, or for a sweep with hydra.sweep.dir=DIRECTORY"
        ) from error
