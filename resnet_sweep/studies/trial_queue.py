"""The trials of a study: which is next, which worker trains it, and what it reached."""

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from resnet_sweep.compare.format import FEW_DIGITS, shown
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import DirectoryLock
from resnet_sweep.runs.record import (
    HEARTBEAT_SECONDS,
    PENDING,
    STALE_SECONDS,
    Record,
    new_heartbeat,
)
from resnet_sweep.studies.storage import STORAGE_ERRORS, exclusive

# User attributes of a trial: the signature of its first run, the number of the trial that trains
# the same, the state and the reason in this program's words, the directories of its runs that were
# found finished elsewhere, and the heartbeat of its worker.
SIGNATURE, SAME_AS, STATE, REASON = "signature", "same_as", "state", "reason"
FOUND, HEARTBEAT = "found", "heartbeat"
# Optuna's states in this program's words, where the run itself doesn't say.
STATES = {
    TrialState.WAITING: PENDING,
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
# How long a worker waits to see whether one on another machine took the same trial over.
DOUBT_SECONDS = 1.0


class TrialLock:
    """A worker's right to a trial, until it is released or the worker's process is gone.

    Workers on one machine are kept apart by the system's lock on a file in the sweep's directory,
    which even a killed process releases. Between machines the heartbeat in the storage decides: it
    is renewed every 20 seconds, and stale after two minutes.

    Attributes:
        crashes: how many workers in a row were lost at this trial without completing an epoch.

    Raises:
        ConfigError: another worker has the trial, or it has ended.
    """

    def __init__(self, storage: BaseStorage, trial_id: int, number: int, directory: Path) -> None:
        self.storage, self.id, self.number = storage, trial_id, number
        self._lock = DirectoryLock(directory, name=f".trial-{number}.lock")
        self._released = threading.Event()
        try:
            self._take(directory / str(number))
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def is_owned(self) -> bool:
        """Return whether the storage still has the trial as this process's."""
        entry = self.storage.get_trial(self.id).user_attrs.get(HEARTBEAT) or {}
        return all(entry.get(name) == new_heartbeat()[name] for name in ("host", "process"))

    def release(self, saved: bool = False) -> None:
        """Let other workers in; if the state of the trial is `saved`, any of them can resume it."""
        self._released.set()
        self._thread.join()
        if saved:
            # Without it, workers on other machines wait until the heartbeat is stale.
            with contextlib.suppress(*STORAGE_ERRORS):
                self._write(renewed=0.0, epochs=None, crashes=0)
        self._lock.release()

    def revert(self) -> None:
        """Let other workers in to a trial that is another one's, as if it hadn't been taken."""
        self._released.set()
        self._thread.join()
        if self.is_owned():
            self.storage.set_trial_user_attr(self.id, HEARTBEAT, self._found)
        self._lock.release()

    def _take(self, directory: Path) -> None:
        trial = self.storage.get_trial(self.id)
        found: Mapping[str, Any] | None = trial.user_attrs.get(HEARTBEAT)
        taken = ConfigError(f"trial {self.number} is another worker's, or has ended")
        if trial.state.is_finished() or self._lock.contradicts(found):
            raise taken
        if trial.state is TrialState.WAITING:
            if not self.storage.set_trial_state_values(self.id, TrialState.RUNNING):
                raise taken
        # One that was taken a moment ago, on another machine, may have no heartbeat yet.
        elif found is None and _is_new(trial):
            raise taken
        epochs = _trained_epochs(directory)
        crashed = found is not None and found.get("epochs") == epochs
        self.crashes = found["crashes"] + 1 if found is not None and crashed else 0
        self._found = found
        self._entry: dict[str, Any] = {"epochs": epochs, "crashes": self.crashes}
        self._write()
        if found is not None and found.get("host") != new_heartbeat()["host"]:
            # Locks don't reach other machines, so two may have found it free at once.
            time.sleep(DOUBT_SECONDS)
            if not self.is_owned():
                raise taken

    def _write(self, **changes: Any) -> None:
        self.storage.set_trial_user_attr(
            self.id, HEARTBEAT, new_heartbeat() | self._entry | changes
        )

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            # A database that can't be reached now may be back in 20 seconds.
            with contextlib.suppress(Exception):
                if self.is_owned():
                    self._write()


class TrialQueue:
    """The trials of a study, numbered from 0, of which there are to be `total`.

    Each is added as a waiting trial before a worker takes it: of all that storages do, only taking
    a waiting trial is granted to one worker alone by every one of them.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, directory: Path, total: int
    ) -> None:
        self.study, self.storage, self.directory, self.total = study, storage, directory, total
        self._study_id = storage.get_study_id_from_name(study.study_name)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials but those that no worker will take, by number."""
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < self.total or trial.state is not TrialState.WAITING
        ]

    def read(self, number: int) -> FrozenTrial:
        """Return a trial as the storage has it now."""
        return self.storage.get_trial(self._id(number))

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def is_done(self) -> bool:
        """Return whether all trials have ended."""
        return len(self.ended()) >= self.total

    def take(self) -> TrialLock | None:
        """Take a trial that has lost its worker, or that waits; None if there is none now."""
        trials = self.trials()
        for state in (TrialState.RUNNING, TrialState.WAITING):
            for trial in trials:
                if trial.state is not state or trial.number >= self.total or self._settle(trial):
                    continue
                with contextlib.suppress(ConfigError, UpdateFinishedTrialError):
                    trial_id = self._id(trial.number)
                    return TrialLock(self.storage, trial_id, trial.number, self.directory)
        with exclusive(self.directory):
            if len(self.study.get_trials(deepcopy=False)) >= self.total:
                return None
            self.study.add_trial(create_trial(state=TrialState.WAITING))
        return self.take()

    def is_duplicate(self, trial: Trial, signature: str) -> bool:
        """Return whether another trial trains the very same; this one then has its outcome."""
        with exclusive(self.directory):
            attributes = trial.user_attrs
            for other in self.trials():
                theirs = other.user_attrs
                if (
                    other.number == trial.number
                    or other.state is TrialState.FAIL
                    or theirs.get(SIGNATURE) != signature
                    or theirs.get(SAME_AS) is not None
                    # Where there are no locks, two may start at once: the first one trains.
                    or (SIGNATURE in attributes and trial.number < other.number)
                ):
                    continue
                trial.set_user_attr(SAME_AS, other.number)
                return True
            trial.set_user_attr(SIGNATURE, signature)
            if SAME_AS in attributes:
                # The trial that was to train it has failed.
                trial.set_user_attr(SAME_AS, None)
        return False

    def end(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Store how a trial ended; an end that another worker has stored stays."""
        try:
            self.study.tell(trial, values, state)
        except (UpdateFinishedTrialError, ValueError):
            if not self.read(trial.number).state.is_finished():
                raise

    def _settle(self, trial: FrozenTrial) -> bool:
        """Return whether another trial trains the same; if that one has ended, end this one."""
        number = trial.user_attrs.get(SAME_AS)
        if number is None:
            return False
        other = self.read(number)
        if other.state is TrialState.FAIL:
            return False
        if other.state.is_finished():
            trial_id = self._id(trial.number)
            with contextlib.suppress(UpdateFinishedTrialError):
                for name in {STATE, REASON, FOUND} & other.user_attrs.keys():
                    self.storage.set_trial_user_attr(trial_id, name, other.user_attrs[name])
                for step, value in other.intermediate_values.items():
                    if step not in trial.intermediate_values:
                        self.storage.set_trial_intermediate_value(trial_id, step, value)
                self.storage.set_trial_state_values(trial_id, other.state, other.values)
        return True

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def count_states(states: Iterable[str]) -> str:
    """Return how many trials there are, and how many in each state."""
    listed = list(states)
    counts = [f"{listed.count(state)} {state}" for state in dict.fromkeys(listed)]
    return f"{len(listed)} trials: {', '.join(counts)}"


def brief_parameters(parameters: Mapping[str, Any]) -> str:
    """Return the parameters of a trial for people."""
    return " ".join(f"{key}={shown(value, FEW_DIGITS)}" for key, value in parameters.items())


def _trained_epochs(directory: Path) -> int:
    """Return how many epochs a trial's runs have, of which each seed has a directory of its own."""
    epochs = 0
    for run in (directory, *directory.glob("*/")):
        with contextlib.suppress(OSError, ConfigError):
            final = Record.read(run).final
            epochs += int(final["epoch"]) if final else 0
    return epochs


def _is_new(trial: FrozenTrial) -> bool:
    """Return whether a trial was taken so lately that its worker may not have a heartbeat yet."""
    started = trial.datetime_start
    return started is not None and (datetime.now() - started).total_seconds() < STALE_SECONDS
