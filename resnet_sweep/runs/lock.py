"""Locks: one process at a time in the directory of a run, a sweep or a trial."""

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import is_fresh

# The lock files in the directory of a run and of a sweep.
RUN_LOCK, SWEEP_LOCK = "run.lock", "sweep.lock"
# Another process may hold a lock for a moment, to see whether it is free.
WAIT_SECONDS, POLL_SECONDS = 0.2, 0.01
# The errors of a file system that has no locks, or has run out of them.
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


class DirectoryLock:
    """A lock on an existing directory, held until it is released or the process ends.

    Between processes of one machine a file lock decides, which the system takes back when a process
    is killed. Where a file system has no locks, or doesn't share them between machines, the
    heartbeat in the record (`run.json`, `sweep.json`) decides. It also names the holder in the
    ConfigError that is raised if another process of this machine holds the lock.
    """

    def __init__(
        self, directory: Path, heartbeat: Mapping[str, Any] | None = None, name: str = RUN_LOCK
    ) -> None:
        try:
            self._lock = _acquire(directory / name, WAIT_SECONDS)
        except Timeout as error:
            raise in_use(directory, heartbeat, name) from error

    def contradicts(self, heartbeat: Mapping[str, Any] | None) -> bool:
        """Return whether a heartbeat is that of a live process which the lock can't keep out."""
        elsewhere = self._lock is None or (heartbeat or {}).get("host") != socket.gethostname()
        return elsewhere and is_fresh(heartbeat)

    def release(self) -> None:
        """Release the lock and remove its file. Calling it again is harmless."""
        if self._lock is not None:
            _release(self._lock)
            self._lock = None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is inside of this context with the same lock file.

    The file is removed at the end. On a file system without locks, nothing is waited for.
    """
    lock = _acquire(path, wait=-1)
    try:
        yield
    finally:
        if lock is not None:
            _release(lock)


def is_held(directory: Path, heartbeat: Mapping[str, Any] | None) -> bool:
    """Return whether a live process has a run directory, whose record has this heartbeat."""
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


def in_use(
    directory: Path, heartbeat: Mapping[str, Any] | None = None, name: str = RUN_LOCK
) -> ConfigError:
    """Return the error of a directory that another process has."""
    holder = "another process"
    if heartbeat:
        holder = f"process {heartbeat.get('process')} on {heartbeat.get('host')}"
    setting = "hydra.run.dir" if name == RUN_LOCK else "hydra.sweep.dir"
    return ConfigError(
        f"{directory} is in use by {holder}: wait for it to end, or choose another {setting}"
    )


def _acquire(path: Path, wait: float) -> FileLock | None:
    """Return the lock on a file; None if the file system has no locks.

    Raises:
        Timeout: another process holds it after `wait` seconds; -1 waits without a limit.
    """
    lock = FileLock(
        path, timeout=wait, poll_interval=POLL_SECONDS, thread_local=False, fallback_to_soft=False
    )
    try:
        lock.acquire()
    except OSError as error:
        # A timeout is an OSError, too.
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return lock


def _release(lock: FileLock) -> None:
    # The file is removed while it is locked: a process that waits for it finds by its number of
    # links that it has locked a removed file, and starts again with a new one. Windows can't
    # remove a file that is open.
    with contextlib.suppress(OSError):
        Path(lock.lock_file).unlink()
    lock.release()
