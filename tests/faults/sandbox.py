"""A sandbox for this process, which restricts files, programs and connections."""

import os
import sys
import threading
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# The audit events that change paths, and the positions of these paths in their arguments.
_EVENTS = {
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.link": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.utime": (0,),
}
_FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "socket.connect",
    "socket.getaddrinfo",
    "pty.spawn",
)
# The package runs git to find the commit. MLflow imports Python's `platform`, which runs uname.
_PROGRAMS = ("git", "uname")


class Sandbox:
    """Blocks and records writes outside of some folders, other programs and connections.

    It can't be removed from the process, and has an effect only while it is `active`.

    Attributes:
        active: whether accesses are blocked.
        writable: the folders in which files may be written.
        violations: descriptions of the blocked accesses.
    """

    def __init__(self) -> None:
        self.active = False
        self.writable: list[str] = []
        self.violations: list[str] = []
        self._thread = threading.get_ident()
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple) -> None:
        if not self.active or threading.get_ident() != self._thread:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & _WRITING:
                self._check_write(event, path)
        elif event in _EVENTS:
            for index in _EVENTS[event]:
                self._check_write(event, arguments[index])
        elif event in _FORBIDDEN:
            self.violations.append(f"{event} {arguments}")
            raise OSError(1, f"{event} isn't allowed")
        elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) not in _PROGRAMS:
            self.violations.append(f"{event} {arguments[:2]}")
            raise OSError(1, "other programs aren't allowed")

    def _check_write(self, event: str, path: str | bytes | int) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        # The second file is no file on a disk: the package resets a counter of its own process.
        if real in (os.devnull, f"/proc/{os.getpid()}/clear_refs"):
            return
        if any(Path(real).is_relative_to(path) for path in self.writable):
            return
        self.violations.append(f"{event} {real}")
        raise PermissionError(13, "Permission denied", real)
