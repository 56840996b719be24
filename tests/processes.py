"""Run commands as processes. Most are forked from a server that has imported torch."""

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
# Prefixes of the variables that the interpreter, or a library that the fork server has imported,
# reads only when it starts.
READ_AT_START = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LC_", "LANG", "LD_", "TZ", "TMPDIR", "MPL")


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables of this program and of Hydra."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RESNET_SWEEP_", "HYDRA_"))
    }


class ForkServer:
    """A process that has imported the program's libraries and forks a child for each command.

    The server ends when this process ends.
    """

    def __init__(self) -> None:
        self.environment = clean_environment()
        self.requests, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with server_end:
            self.process = subprocess.Popen(
                [sys.executable, SERVER, str(server_end.fileno())],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[server_end.fileno()],
                # Ctrl-C must reach only the test process, which ends the processes that it started.
                start_new_session=True,
            )

    def fork(self, request: Mapping[str, object], streams: list[int]) -> int:
        """Start a child. Return a pipe from which its process ID and exit status can be read."""
        reader, writer = os.pipe()
        packet = json.dumps(request).encode()
        socket.send_fds(self.requests, [packet], [*streams, writer])
        os.close(writer)
        return reader


@functools.cache
def start_server() -> ForkServer:
    """Start the fork server of this process on the first call, and return it."""
    return ForkServer()


class ForkedProcess:
    """A command in a forked process, with the methods of `subprocess.Popen` that tests use.

    Attributes:
        pid: the process ID.
        returncode: the exit status, negative for a signal; None until `poll` or `wait` has seen it.
        stdout: the file to read standard output from, if it is a pipe.
        stderr: the same for standard error.
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
            data = self._status.read(64)
            if not data:
                raise RuntimeError(f"the fork server has ended before it started {self.args}")
            self._received += data
        number, _, self._received = self._received.partition(b"\n")
        self.pid = int(number)

    @staticmethod
    def _stream(target: int | IO | None, default: int, opened: list[int]) -> tuple[IO | None, int]:
        """Return the file to read a stream from, or None, and the descriptor for the child."""
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
        """Return the exit status, or None while the process runs."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process ends, and return the exit status."""
        status = self._wait(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def _wait(self, timeout: float | None) -> int | None:
        while self.returncode is None:
            ready, _, _ = select.select([self._status], [], [], timeout)
            if not ready:
                return None
            data = self._status.read(64)
            self._received += data
            if self._received.endswith(b"\n"):
                self.returncode = int(self._received)
            elif not data:
                raise RuntimeError(
                    f"the fork server has ended; the exit status of {self.args} is unknown"
                )
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        """Read all that the process prints until it ends, as `subprocess.Popen` does."""
        files = [file for file in (self.stdout, self.stderr) if file]
        outputs: dict[IO, str] = {}

        def read(file: IO) -> None:
            outputs[file] = file.read()

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
        return outputs.get(self.stdout), outputs.get(self.stderr)

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            # The process may have ended, and been reaped by the server, since the poll.
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
        arguments: the arguments on the command line.
        module: the module to run.
        cold: start a new interpreter instead of forking the server. This also happens if the
            environment differs in variables that an interpreter reads only when it starts.
        environment: variables to add to this process's environment, or to change in it.
        options: `stdin`, `stdout`, `stderr` and `start_new_session` of `subprocess.Popen`.
    """
    variables = clean_environment() | dict(environment or {})
    command_line = [*map(str, arguments)]
    if cold or differ_at_start(variables, start_server().environment):
        return subprocess.Popen(
            [sys.executable, "-m", module, *command_line],
            cwd=folder,
            env=variables,
            text=True,
            errors="replace",
            **options,
        )
    return ForkedProcess(module, command_line, folder, variables, **options)


def differ_at_start(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Return whether two environments differ in a variable that is read only at the start."""
    return any(
        first.get(name) != second.get(name)
        for name in {*first, *second}
        if name.startswith(READ_AT_START) and name != "PYTHONPATH"
    )


def run(
    folder: Path, *arguments: object, timeout: float = 600, **options: Any
) -> subprocess.CompletedProcess:
    """Run a command until it ends, and capture its output; the arguments are those of `start`."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = start(folder, *arguments, **streams | options)
    output, error = process.communicate(timeout)
    return subprocess.CompletedProcess(arguments, process.returncode, output, error)


def run_and_list_imports(
    folder: Path, *arguments: str
) -> tuple[subprocess.CompletedProcess, set[str]]:
    """Run a command in a new interpreter; return the result and the modules that were imported."""
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep", *arguments],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    return result, imported


def assert_refused(result: subprocess.CompletedProcess, *facts: str) -> None:
    """Assert that a command was refused with one sentence that contains all facts.

    Args:
        result: the completed command.
        facts: the parts that the sentence must contain, for example a setting and its value.
    """
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert "Traceback" not in result.stderr
    for fact in facts:
        assert mentions(result.stderr, fact), f"no {fact!r} in: {result.stderr}"


def mentions(text: str, fact: str) -> bool:
    """Return whether a text contains a fact that isn't part of a longer name or number."""
    before = r"(?<![\w.-])" if re.match(r"[\w-]", fact) else ""
    after = r"(?!\w|\.\w)" if re.search(r"\w$", fact) else ""
    return bool(re.search(before + re.escape(fact) + after, text))
