"""Signals that stop a run: Ctrl-C, signals of cluster schedulers, and SIGHUP."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

# Exit statuses of a process that a signal stopped after the state of its run was saved.
TERMINATED, INTERRUPTED = 75, 130

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(Exception):
    """A signal stopped a run, and its state is saved."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


class StopSignal:
    """Handles the signals that ask the process to stop, between `listen` and `release`.

    The first signal is only stored in `received`, which the trainer polls. A second Ctrl-C raises
    KeyboardInterrupt at once, for users who don't want to wait.

    submitit and similar tools send SIGUSR2 before a job ends, and their own signal handler requeues
    the job. So `release` raises the signal again for the handler that was installed before. At that
    time, the state of the run has been saved.

    In a job of submitit, SIGTERM doesn't stop the run. SLURM sends it before it preempts a job, and
    requeues the job only if it is still running when it is killed. So a checkpoint is requested,
    and training continues.

    Args:
        ignore_repeats: ignore a second Ctrl-C. This is for torchrun, because it forwards Ctrl-C to
            processes that have already received it from the terminal.

    Attributes:
        received: number of the first signal, or None.
        checkpoint_requested: whether a checkpoint has to be written soon, because the process may
            be killed without another signal; the trainer resets it after writing the checkpoint.
    """

    def __init__(self, ignore_repeats: bool = False) -> None:
        self.ignore_repeats = ignore_repeats
        self.received: int | None = None
        self.checkpoint_requested = False
        self._end_announced = False
        self._handlers: dict[int, _Handler] = {}

    def listen(self) -> Self:
        """Handle signals from now on."""
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
                # nohup starts a process that ignores SIGHUP, and SIGHUP has to stay ignored.
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def release(self) -> None:
        """Restore the earlier signal handlers. Calling it twice is harmless."""
        requeues = callable(self._handlers.get(signal.SIGUSR2))
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        if requeues and self._end_announced:
            signal.raise_signal(signal.SIGUSR2)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self.ignore_repeats:
            raise KeyboardInterrupt
        # submitit installs a handler for SIGTERM that does nothing.
        module = getattr(self._handlers.get(number), "__module__", None) or ""
        if number == signal.SIGTERM and module.split(".")[0] == "submitit":
            self.checkpoint_requested = True
            return
        self._end_announced |= number == signal.SIGUSR2
        if self.received is None:
            self.received = number
            if number == signal.SIGINT and not self.ignore_repeats:
                # The signal may have interrupted a print, which isn't reentrant, so os.write is
                # used. It fails if the terminal has been closed.
                with contextlib.suppress(OSError):
                    os.write(2, b"\nstopping after this step; press Ctrl-C again to stop at once\n")

    @property
    def exit_status(self) -> int:
        """The exit status of this process after the received signal."""
        assert self.received is not None
        return exit_status(self.received)

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)


def exit_status(number: int) -> int:
    """Return the exit status of a process that signal `number` stopped after saving its state."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED
