"""Requests from outside to stop: Ctrl-C, schedulers' signals, and the hang-up of a terminal."""

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Self

TERMINATED, INTERRUPTED = 75, 130


class Interrupted(Exception):
    """A run was stopped from outside, with its state saved.

    Attributes:
        signal: the signal that asked for it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)


class StopRequest:
    """Whether the process has been asked to stop, since `listen` and until `release`.

    The first signal is remembered, for whoever asks. A second Ctrl-C raises KeyboardInterrupt at
    once, for a user who won't wait.

    SIGUSR2 is what submitit and other schedulers' helpers announce the end with. They requeue the
    job when it comes, so that whoever handled it before gets it after `release`, with the state of
    the run saved.

    SIGTERM is no request in a job that submitit started: by it SLURM announces that the job will be
    preempted, and queues it again only if it is still there to be killed. The run is saved then,
    and trained on.

    Args:
        patient: take a second Ctrl-C for the first: torchrun passes it on to processes that have
            it from the terminal already.

    Attributes:
        received: the number of the first signal, or None.
        endangered: whether the process may be killed without another word, so that the run is to
            be saved; whoever has done so sets it back.
    """

    def __init__(self, patient: bool = False) -> None:
        self.patient = patient
        self.received: int | None = None
        self.endangered = False
        self._announced = False
        self._handlers: dict[int, object] = {}

    def listen(self) -> Self:
        """Handle signals from now on."""
        # Elsewhere than in the main thread, Python lets nobody handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
                # Under nohup, a hang-up is to be ignored.
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue
                self._handlers[number] = signal.signal(number, self._receive)
        return self

    def release(self) -> None:
        """Leave signals to whoever handled them before. Doing so twice is harmless."""
        announced = self._announced and callable(self._handlers.get(signal.SIGUSR2))
        while self._handlers:
            signal.signal(*self._handlers.popitem())
        if announced:
            signal.raise_signal(signal.SIGUSR2)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT and not self.patient:
            raise KeyboardInterrupt
        if number == signal.SIGTERM and _is_submitits(self._handlers.get(number)):
            self.endangered = True
            return
        self._announced |= number == signal.SIGUSR2
        if self.received is None:
            self.received = number
            if number == signal.SIGINT and not self.patient:
                # Not by print, which the signal may have interrupted; a terminal may be gone.
                with contextlib.suppress(OSError):
                    os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")

    @property
    def status(self) -> int:
        """The exit status of a process that the signal stopped."""
        return exit_status(self.received)

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)


def _is_submitits(handler: object) -> bool:
    """Whether a signal was handled by submitit before; its handler of SIGTERM does nothing."""
    return str(getattr(handler, "__module__", "")).partition(".")[0] == "submitit"


def exit_status(number: int) -> int:
    """The exit status of a process that a signal stopped, with its state saved."""
    return INTERRUPTED if number == signal.SIGINT else TERMINATED
