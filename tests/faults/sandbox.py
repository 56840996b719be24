"""Watching what this process writes, runs and connects to."""

import os
import sys
import threading
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Which arguments of an event of Python's are paths that it writes to.
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
# That ask for the commit, and (Python's `platform`, for MLflow) for the machine.
_PROGRAMS = ("git", "uname")


class Sandbox:
    """Refuses, and takes down, all that reaches out of a few folders: for the rest of the process,
    while it is `closed`.

    Attributes:
        inside: the folders that may be written to.
        escapes: what was tried, in words.
    """

    def __init__(self) -> None:
        self.closed = False
        self.inside: list[str] = []
        self.escapes: list[str] = []
        self._thread = threading.get_ident()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple) -> None:
        if not self.closed or threading.get_ident() != self._thread:
            return
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & _WRITING:
                self._write(event, path)
        elif event in _EVENTS:
            for place in _EVENTS[event]:
                self._write(event, arguments[place])
        elif event in _FORBIDDEN:
            self.escapes.append(f"{event} {arguments}")
            raise OSError(1, f"{event} is none of this program's business")
        elif event == "subprocess.Popen" and os.path.basename(str(arguments[0])) not in _PROGRAMS:
            self.escapes.append(f"{event} {arguments[:2]}")
            raise OSError(1, "no other program is started")

    def _write(self, event: str, path: str | bytes | int) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        if real == os.devnull or any(Path(real).is_relative_to(place) for place in self.inside):
            return
        self.escapes.append(f"{event} {real}")
        raise PermissionError(13, "Permission denied", real)
