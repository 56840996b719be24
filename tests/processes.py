"""Commands of the program as processes, most of which are forked from one that has torch."""

import contextlib
import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

SERVER = Path(__file__).with_name("fork_server.py")
# Variables that an interpreter, or a library that the server has loaded, reads only at its start.
READ_AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LC_", "LANG", "LD_", "TZ", "TMPDIR", "MPL")


def clean_environment() -> dict[str, str]:
    """Return the environment without what a developer may have set for this program."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RESNET_SWEEP_", "HYDRA_"))
    }


class ForkServer:
    """A process that has imported the program's libraries and forks a child for each command.

    It ends with this process.
    """

    def __init__(self) -> None:
        self.environment = clean_environment()
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, SERVER, str(theirs.fileno())],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # Ctrl-C is for the tests, which end what they have started.
                start_new_session=True,
            )

    def fork(self, request: Mapping[str, object], streams: list[int]) -> int:
        """Start a child; returns the descriptor of a pipe with its number and exit status."""
        reader, writer = os.pipe()
        packet = json.dumps(request).encode()
        socket.send_fds(self.requests, [packet], [*streams, writer])
        os.close(writer)
        return reader


@functools.cache
def start_server() -> ForkServer:
    """Return the server of this process, which is started by the first call."""
    return ForkServer()


class ForkedProcess:
    """A command in a forked process, with the methods of `subprocess.Popen` that tests use.

    Attributes:
        pid: the number of the process.
        returncode: its exit status, negative for a signal; None while it hasn't been waited for.
        stdout: a file to read its output from, if that is a pipe.
        stderr: likewise.
    """

    def __init__(
        self,
        module: str,
        arguments: list[str],
        folder: Path,
        environment: Mapping[str, str],
        stdin: int | None = None,
        stdout: int | IO | None = None,
        stderr: int | IO | None = None,
        start_new_session: bool = False,
    ) -> None:
        self.args = [module, *arguments]
        self.returncode: int | None = None
        self.stdin = None
        opened: list[int] = []
        self.stdout, output = self._stream(stdout, 1, opened)
        self.stderr, error = (
            (None, output) if stderr == subprocess.STDOUT else self._stream(stderr, 2, opened)
        )
        if stdin is None:
            stdin = os.open(os.devnull, os.O_RDONLY)
            opened.append(stdin)
        request = {
            "module": module,
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(environment),
            "new_session": start_new_session,
        }
        self._status = os.fdopen(
            start_server().fork(request, [stdin, output, error]), "rb", buffering=0
        )
        for descriptor in opened:
            os.close(descriptor)
        self._received = b""
        while b"\n" not in self._received:
            part = self._status.read(64)
            if not part:
                raise RuntimeError(f"the fork server is gone, and can't run {self.args}")
            self._received += part
        number, _, self._received = self._received.partition(b"\n")
        self.pid = int(number)

    @staticmethod
    def _stream(target: int | IO | None, default: int, opened: list[int]) -> tuple[IO | None, int]:
        """The file to read a stream from, if any, and the descriptor that the child writes to."""
        if target is None:
            return None, default
        if target == subprocess.PIPE:
            reader, writer = os.pipe()
            opened.append(writer)
            return open(reader, encoding="utf-8", errors="replace"), writer
        if target == subprocess.DEVNULL:
            writer = os.open(os.devnull, os.O_WRONLY)
            opened.append(writer)
            return None, writer
        return None, target if isinstance(target, int) else target.fileno()

    def poll(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit status."""
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def _wait(self, timeout: float | None) -> int | None:
        while self.returncode is None:
            ready, _, _ = select.select([self._status], [], [], timeout)
            if not ready:
                return None
            part = self._status.read(64)
            self._received += part
            if self._received.endswith(b"\n"):
                self.returncode = int(self._received)
            elif not part:
                raise RuntimeError(f"the fork server is gone, and so is the status of {self.args}")
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Read all that the process prints until it ends, as `subprocess.Popen` does."""
        files = [file for file in (self.stdout, self.stderr) if file]
        texts: dict[IO, str] = {}

        def read(file: IO) -> None:
            texts[file] = file.read()

        readers = [threading.Thread(target=read, args=(file,), daemon=True) for file in files]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except BaseException:
            self.kill()
            raise
        for reader in readers:
            reader.join(timeout)
        return texts.get(self.stdout), texts.get(self.stderr)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            # The server may have noticed the end a moment ago.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen | ForkedProcess


def start(
    folder: Path,
    *arguments: object,
    module: str = "resnet_sweep",
    cold: bool = False,
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> Process:
    """Start `python -m MODULE ARGUMENTS` in a folder, as a user does.

    Args:
        folder: the working directory.
        arguments: of the command line.
        module: what is run.
        cold: start a new interpreter instead of forking one. It is started anyway if the
            environment has variables that only a new one reads.
        environment: further variables, or other values of this process's.
        options: of `subprocess.Popen`: `stdin`, `stdout`, `stderr` and `start_new_session`.
    """
    variables = clean_environment() | dict(environment or {})
    words = [*map(str, arguments)]
    if cold or differ_at_start(variables, start_server().environment):
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=folder,
            env=variables,
            text=True,
            errors="replace",
            **options,
        )
    return ForkedProcess(module, words, folder, variables, **options)


def differ_at_start(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether two environments differ in what only a new interpreter reads."""
    return any(
        one.get(name) != other.get(name)
        for name in {*one, *other}
        if name.startswith(READ_AT_START) and name != "PYTHONPATH"
    )


def run(
    folder: Path, *arguments: object, timeout: float = 600, **options: Any
) -> subprocess.CompletedProcess:
    """Run a command to its end; see `start`. Its output and errors are captured."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(folder, *arguments, **streams | options)
    output, error = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, output, error)


def assert_refused(done: subprocess.CompletedProcess, *facts: str) -> None:
    """Assert that a command was refused with one sentence that names all facts.

    Args:
        done: how the command ended.
        facts: what the sentence has to name, such as a setting and its value.
    """
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    for fact in facts:
        assert mentions(done.stderr, fact), f"{fact} isn't named: {done.stderr}"


def mentions(text: str, fact: str) -> bool:
    """Return whether a text has a fact, and not only within a longer name or number."""
    before = r"(?<![\w.-])" if re.match(r"[\w-]", fact) else ""
    after = r"(?!\w|\.\w)" if re.search(r"\w$", fact) else ""
    return bool(re.search(before + re.escape(fact) + after, text))
