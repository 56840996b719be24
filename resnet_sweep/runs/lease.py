"""The right of one process to write into the directory of a run or a sweep."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_sweep.errors import RequestError

RENEWAL_SECONDS = 20
# Another machine's lease counts as given up after this long without a renewal.
STALE_SECONDS = 120


# Of the directory of a run, and of a sweep.
RUN_LOCK, SWEEP_LOCK = "run.lock", "sweep.lock"


class Lease:
    """A lock on a directory, held until it is released or the process ends.

    On one machine the system's lock on a file there decides, which even a killed process gives up.
    Where a file system has no such locks, or doesn't share them between machines, the entry in
    the record does (`run.json`, `sweep.json`): it is renewed every 20 seconds and given up after
    two minutes of silence.

    Args:
        directory: an existing directory.
        holder: the entry in its record, to name who holds it.
        lock: the name of the file.

    Raises:
        RequestError: a process of this machine holds it.
    """

    def __init__(
        self, directory: Path, holder: Mapping[str, Any] | None = None, lock: str = RUN_LOCK
    ) -> None:
        self.path = directory / lock
        self._descriptor: int | None = None
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise in_use(directory, holder, lock) from error
                if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                    raise
                return
            if self._is_current(descriptor):
                self._descriptor = descriptor
            else:
                # Whoever held it removed the file between our opening and our locking it.
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    def contradicts(self, entry: Mapping[str, Any] | None) -> bool:
        """Whether an entry in the record says that a process at work is beyond the lock's reach."""
        return (
            entry is not None
            and (self._descriptor is None or entry.get("host") != socket.gethostname())
            and is_fresh(entry)
        )

    def release(self) -> None:
        """Let others in. Doing so twice is harmless."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def lease_entry() -> dict[str, Any]:
    """What a process writes into `run.json` as its lease: who it is, and when."""
    return {"host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}


def is_fresh(entry: Mapping[str, Any]) -> bool:
    """Whether a lease was renewed so lately that its holder may be at work."""
    renewed = entry.get("renewed")
    return isinstance(renewed, (int, float)) and abs(time.time() - renewed) < STALE_SECONDS


def is_held(directory: Path, entry: Mapping[str, Any] | None) -> bool:
    """Whether a process is at work in a run directory.

    Args:
        directory: of the run.
        entry: the lease in its record.
    """
    if entry is None or not is_fresh(entry):
        return False
    if entry.get("host") != socket.gethostname():
        return True
    try:
        descriptor = os.open(directory / RUN_LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def in_use(
    directory: Path, entry: Mapping[str, Any] | None = None, lock: str = RUN_LOCK
) -> RequestError:
    """The refusal of a directory in which another process is at work."""
    who = "another process"
    if entry:
        who = f"process {entry.get('process')} on {entry.get('host')}"
    setting = "hydra.run.dir" if lock == RUN_LOCK else "hydra.sweep.dir"
    return RequestError(
        f"{directory} is in use by {who}: wait for it to end, or choose another {setting}"
    )
