"""The right of one worker to a trial, held until it is released or the worker is gone."""

import contextlib
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.lease import RENEWAL_SECONDS, STALE_SECONDS, Lease, lease_entry
from resnet_sweep.runs.record import Record

# Of a trial in its storage.
LEASE = "lease"
# How long a worker waits to see whether another one of elsewhere took the same trial over.
DOUBT_SECONDS = 1.0


class Claim:
    """The right to a trial.

    Workers on one machine have it by the system's lock on a file in the sweep's directory, which
    even a killed process gives up. Between machines the entry in the storage decides: it is renewed
    every 20 seconds and given up after two minutes of silence.

    Args:
        storage: of the study.
        trial: that is waiting, or whose worker may be gone.
        directory: of the sweep.

    Attributes:
        attempts: how many workers in a row were lost at this trial without an epoch to show.

    Raises:
        RequestError: another worker has it, or it has ended.
    """

    def __init__(self, storage: BaseStorage, trial: FrozenTrial, directory: Path) -> None:
        self.storage, self.id, self.number = storage, trial._trial_id, trial.number
        self._directory = directory
        self._lease = Lease(directory, lock=f".trial-{trial.number}.lock")
        self._over = threading.Event()
        try:
            self._take()
        except BaseException:
            self._lease.release()
            raise
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def _take(self) -> None:
        now = self.storage.get_trial(self.id)
        held: Mapping[str, Any] | None = now.user_attrs.get(LEASE)
        # One that was taken this moment, elsewhere, may have no entry yet.
        fresh = held is None and now.state is TrialState.RUNNING and _is_new(now)
        if now.state.is_finished() or self._lease.contradicts(held) or fresh:
            raise RequestError(f"trial {self.number} is another worker's, or has ended")
        if now.state is TrialState.WAITING and not self.storage.set_trial_state_values(
            self.id, TrialState.RUNNING
        ):
            raise RequestError(f"trial {self.number} was taken by another worker")
        epochs = _epochs_trained(self._directory / str(self.number))
        lost = held is not None and held.get("epochs") == epochs
        self.attempts = held["attempts"] + 1 if lost else 0
        self._found = held
        self._entry = {"epochs": epochs, "attempts": self.attempts}
        self._write()
        if held is not None and held.get("host") != lease_entry()["host"]:
            # Locks don't reach other machines, so two may have found it free at once.
            time.sleep(DOUBT_SECONDS)
            if not self.holds():
                raise RequestError(f"trial {self.number} was taken by another worker")

    def holds(self) -> bool:
        """Whether the storage still says that the trial is this process's."""
        entry = self.storage.get_trial(self.id).user_attrs.get(LEASE) or {}
        return all(entry.get(name) == lease_entry()[name] for name in ("host", "process"))

    def release(self, saved: bool = False) -> None:
        """Let others in. Doing so twice is harmless.

        Args:
            saved: the trial isn't at its end, but its state is saved, for anybody to go on.
        """
        self._stop_renewing()
        if saved:
            self._entry |= {"epochs": None, "attempts": 0}
            self._write(renewed=0.0)
        self._lease.release()

    def give_back(self) -> None:
        """Let others in to a trial that is still another worker's, as if it hadn't been claimed."""
        self._stop_renewing()
        if self.holds():
            self.storage.set_trial_user_attr(self.id, LEASE, self._found)
        self._lease.release()

    def _write(self, **changes: Any) -> None:
        self.storage.set_trial_user_attr(self.id, LEASE, lease_entry() | self._entry | changes)

    def _stop_renewing(self) -> None:
        self._over.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL_SECONDS):
            # A database that is away now may be back in 20 seconds.
            with contextlib.suppress(Exception):
                if self.holds():
                    self._write()


def _epochs_trained(directory: Path) -> int:
    """How many epochs the runs of a trial have behind them, which each have a seed's directory
    where there are several."""
    epochs = 0
    for run in (directory, *directory.glob("*/")):
        with contextlib.suppress(OSError, RequestError):
            epochs += (Record.read(run).final or {}).get("epoch", 0)
    return epochs


def _is_new(trial: FrozenTrial) -> bool:
    """Whether a trial was taken so lately that its worker may be about to say so."""
    begun = trial.datetime_start
    return begun is not None and (datetime.now() - begun).total_seconds() < STALE_SECONDS
