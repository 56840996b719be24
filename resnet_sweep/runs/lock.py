"""Locks that admit one process at a time to the directory of a run, a sweep or a trial."""

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record, is_fresh

# The lock files in the directories of runs and of sweeps.
RUN_LOCK, SWEEP_LOCK = "run.lock", "sweep.lock"
# Another process may hold the lock for a moment, while it checks whether the lock is free.
WAIT_SECONDS, POLL_SECONDS = 0.2, 0.01
# Errors of a file system that doesn't support locks, or has no free ones.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class DirectoryLock:
    """A lock on an existing directory, held until it is released or the process ends.

    Processes on one machine use a file lock, which the system releases when a process is killed.
    If the file system doesn't support locks, or doesn't share them between machines, the heartbeat
    in the record (`run.json`, `sweep.json`) shows whether the directory is in use.

    Raises:
        ConfigError: another process on this machine holds the lock; the heartbeat names it.
    """

    def __init__(
        self, directory: Path, heartbeat: Mapping[str, Any] | None = None, name: str = RUN_LOCK
    ) -> None:
        try:
            self._lock = _acquire(directory / name, WAIT_SECONDS)
        except Timeout as error:
            raise in_use_error(directory, heartbeat, name) from error

    def contradicts(self, heartbeat: Mapping[str, Any] | None) -> bool:
        """Return whether a heartbeat shows a live process that the file lock doesn't exclude."""
        uncovered = self._lock is None or (heartbeat or {}).get("host") != socket.gethostname()
        return uncovered and is_fresh(heartbeat)

    def release(self) -> None:
        """Release the lock and remove its file; a second call does nothing."""
        if self._lock is not None:
            _release(self._lock)
            self._lock = None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file within a `with` block; wait until no other process holds it.

    The file is removed at the end. On a file system without locks, this does nothing.
    """
    lock = _acquire(path, wait=-1)
    try:
        yield
    finally:
        if lock is not None:
            _release(lock)


def is_held(directory: Path, heartbeat: Mapping[str, Any] | None) -> bool:
    """Return whether a live process uses a run directory; `heartbeat` is the one in its record."""
    if heartbeat is None or not is_fresh(heartbeat):
        return False
    if heartbeat.get("host") != socket.gethostname():
        return True
    path = directory / RUN_LOCK
    if not path.exists():
        return False
    try:
        lock = _acquire(path, wait=0)
    except OSError:
        return True
    if lock is not None:
        _release(lock)
    return lock is None


def is_run_held(directory: Path) -> bool:
    """Return whether a live process uses a run directory; False if its record can't be read."""
    with contextlib.suppress(OSError, ConfigError):
        return is_held(directory, Record.read(directory).heartbeat)
    return False


def in_use_error(
    directory: Path, heartbeat: Mapping[str, Any] | None = None, name: str = RUN_LOCK
) -> ConfigError:
    """Return the error for a directory that another process uses."""
    holder = "another process"
    if heartbeat:
        holder = f"process {heartbeat.get('process')} on {heartbeat.get('host')}"
    setting = "hydra.run.dir" if name == RUN_LOCK else "hydra.sweep.dir"
    return ConfigError(
        f"{directory} is in use by {holder}: wait until it ends, or choose another {setting}"
    )


def _acquire(path: Path, wait: float) -> FileLock | None:
    """Return the lock on a file; None if the file system has no locks.

    Raises:
        Timeout: another process still holds it after `wait` seconds; -1 waits without limit.
    """
    lock = FileLock(
        path, timeout=wait, poll_interval=POLL_SECONDS, thread_local=False, fallback_to_soft=False
    )
    try:
        lock.acquire()
    except OSError as error:
        # Timeout is a subclass of OSError.
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return lock


def _release(lock: FileLock) -> None:
    # The file is removed while it is locked. A process that waits for the lock then locks a removed
    # file. It detects this from the number of links, and retries with a new file. Windows can't
    # remove an open file.
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()
