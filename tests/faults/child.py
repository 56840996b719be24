"""The command line in a child of this process, which has imported all of it already."""

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

# What is imported and read when it is first needed is so for all children, once. Nothing is
# trained, since threads of torch don't survive a fork.
torch.set_num_threads(1)
plan_run(composed(*SMALL))
png(Figure())

LIMIT_SECONDS = 90


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        status: its exit status; a negative one is the signal that killed it, None one that hung.
        output: all that it printed.
        seconds: how long it took.
    """

    status: int | None
    output: str
    seconds: float

    @property
    def refusal(self) -> str | None:
        """Its sentence, if it was refused with a single one."""
        lines = self.output.splitlines()
        if self.status == 2 and lines and lines[-1].startswith("error: "):
            # Others may be of the log, above it.
            errors = [line for line in lines if "error" in line.lower()]
            return lines[-1] if len(errors) == 1 and "Traceback" not in self.output else None
        return None


class Child:
    """A command that is under way.

    Args:
        folder: where it is started.
        words: of the command line.
        fault: called before it, to patch what is to fail.
        main: what is called.
        printed: name of a file in the folder, for what it prints.
    """

    def __init__(
        self,
        folder: Path,
        *words: str,
        fault: Callable[[], None] = lambda: None,
        main: Callable[[], None] = command_line.main,
        printed: str = "printed.txt",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.printed = folder / printed
        self.started = time.monotonic()
        sys.stdout.flush()
        self.process = os.fork()
        if self.process == 0:
            self._carry_out(folder, words, fault, main)

    def _carry_out(self, folder, words, fault, main) -> None:
        status: object = 70
        try:
            os.chdir(folder)
            descriptor = os.open(self.printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.close(descriptor)
            sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
            sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
            # A fork has none of its parent's threads.
            torch.set_num_threads(1)
            sys.argv = ["resnet_sweep", *words]
            fault()
            main()
            status = 0
        except SystemExit as leaving:
            status = leaving.code
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            os._exit(status if isinstance(status, int) else int(status is not None))

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process, number)

    def wait(self, limit: float = LIMIT_SECONDS) -> Outcome:
        """Wait for its end, and kill it if that doesn't come."""
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
        return Outcome(status, self.printed.read_text(errors="replace"), seconds)


def run(folder: Path, *words: str, **options) -> Outcome:
    """Carry out a command to its end."""
    return Child(folder, *words, **options).wait()
