"""Signals that stop a run: Ctrl-C, those of schedulers, and the hang-up of a terminal."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

TERMINATED, INTERRUPTED = 75, 130

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Interrupted(Exception):
    """A run was stopped by a signal, with its state saved."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        super().__init__(f"stopped by {self.signal.name}")


class StopSignal:
    """Stores that the process was asked to stop, between `listen` and `release`.

    The first signal is only stored, for the trainer to poll. A second Ctrl-C raises
    KeyboardInterrupt at once, for a user who doesn't want to wait.

    submitit and the tools of other schedulers announce the end of a job by SIGUSR2. Their own
    handler queues the job again, so `release`, when the state of the run is saved, passes the
    signal on to the handler that was there before.

    In a job that submitit started, SIGTERM doesn't stop the run: SLURM announces by it that the job
    will be preempted, and queues the job again only if it is still running when it is killed. A
    checkpoint is requested instead, and training continues.

    Args:
        ignore_repeats: treat a second Ctrl-C like the first one, since torchrun passes it on to
            processes that have received it from the terminal already.

    Attributes:
        received: number of the first signal, or None.
        checkpoint_requested: the process may be killed without another signal, so a checkpoint has
            to be written; the trainer resets this once it is.
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
                # nohup starts a process with this signal ignored, which has to stay so.
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def release(self) -> None:
        """Restore the earlier signal handlers. Calling it twice is harmless."""
        queues_again = callable(self._handlers.get(signal.SIGUSR2))
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        if queues_again and self._end_announced:
            signal.raise_signal(signal.SIGUSR2)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self.ignore_repeats:
            raise KeyboardInterrupt
        # submitit's own handler of SIGTERM does nothing.
        module = getattr(self._handlers.get(number), "__module__", None) or ""
        if number == signal.SIGTERM and module.split(".")[0] == "submitit":
            self.checkpoint_requested = True
            return
        self._end_announced |= number == signal.SIGUSR2
        if self.received is None:
            self.received = number
            if number == signal.SIGINT and not self.ignore_repeats:
                # The signal may have interrupted a print, which isn't reentrant, and the terminal
                # may be gone.
                with contextlib.suppress(OSError):
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    @property
    def exit_status(self) -> int:
        """The exit status of a process that the received signal stopped."""
        assert self.received is not None
        return exit_status(self.received)

    def raise_if_stopped(self) -> None:
        """Raise Interrupted if a signal was received."""
        if self.received is not None:
            raise Interrupted(self.received)


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal stopped, with its state saved."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED
