"""Commands that run in forked children of this process, which has imported the package already."""

import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from small_run import composed

from faults.recipes import SMALL
from resnet_sweep import __main__ as command_line
from resnet_sweep import single_run  # noqa: F401
from resnet_sweep.config.plan import plan_run
from resnet_sweep.figures import png

# Planning a run and drawing a figure import modules that the children then need not import. This
# process trains nothing, since the threads of torch don't survive a fork.
torch.set_num_threads(1)
plan_run(composed(*SMALL))
png(Figure())

LIMIT_SECONDS = 90


@dataclass(frozen=True)
class CommandResult:
    """The result of a command.

    Attributes:
        status: the exit status; negative for a signal that killed it, None if it hung.
        output: the standard output and the standard error.
        seconds: the time that it took.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def refusal(self) -> str | None:
        """The error message, if the command was refused with exactly one."""
        lines = self.output.splitlines()
        if self.status == 2 and lines and lines[-1].startswith("error: "):
            # Lines of the log may come before the message.
            errors = [line for line in lines if "error" in line.lower()]
            return lines[-1] if len(errors) == 1 and "Traceback" not in self.output else None
        return None


class Child:
    """A running command.

    Args:
        folder: the working directory.
        arguments: the arguments of the command.
        fault: a function that injects a fault; the child calls it before the command.
        main: the function of the command.
        output: the name of a file in the folder for the output of the command.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        fault: Callable[[], None] = lambda: None,
        main: Callable[[], None] = command_line.main,
        output: str = "output.txt",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.output = folder / output
        self.started = time.monotonic()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._run(folder, arguments, fault, main)

    def _run(self, folder, arguments, fault, main) -> None:
        status: object = 70
        try:
            os.chdir(folder)
            descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
            # The child has none of its parent's threads.
            torch.set_num_threads(1)
            sys.argv = ["resnet_sweep", *arguments]
            fault()
            main()
            status = 0
        except SystemExit as error:
            status = error.code
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(status if isinstance(status, int) else int(status is not None))

    def send(self, number: int) -> None:
        """Send a signal to the child, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self, limit: float = LIMIT_SECONDS) -> CommandResult:
        """Wait until the command ends, and kill it after `limit` seconds."""
        status: int | None = None
        while True:
            ended, code = os.waitpid(self.process, os.WNOHANG)
            if ended:
                status = os.waitstatus_to_exitcode(code)
                break
            if time.monotonic() - self.started > limit:
                self.send(signal.SIGKILL)
                os.waitpid(self.process, 0)
                break
            time.sleep(0.002)
        seconds = time.monotonic() - self.started
        return CommandResult(status, self.output.read_text(errors="replace"), seconds)


def run(folder: Path, *arguments: str, **options) -> CommandResult:
    """Run a command and wait until it ends."""
    return Child(folder, *arguments, **options).wait()
