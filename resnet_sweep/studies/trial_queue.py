"""The queue of a study's trials, and the locks with which workers take trials."""

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

from resnet_sweep.compare.format import FEW_DIGITS, pluralize, safe_text
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

# The constants up to HEARTBEAT are names of user attributes of a trial.
# The signature of the trial's first run.
SIGNATURE = "signature"
# The number of another trial with the same signature, whose result this trial gets.
SAME_AS = "same_as"
# The run state at the end of the trial, and its reason.
STATE, REASON = "state", "reason"
# The heartbeat of the worker.
HEARTBEAT = "heartbeat"

# Maps Optuna's states to run states, for trials without the attribute STATE.
STATES = {
    TrialState.WAITING: PENDING,
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}
# Seconds that a worker waits before it checks whether another machine has taken the same trial.
TAKEOVER_SECONDS = 1.0


class TrialLock:
    """A worker's lock on a trial, held until it is released or the process exits.

    Workers on one machine use a file lock in the sweep directory. The system releases it if a
    process is killed. Workers on other machines check the heartbeat in the storage. It is renewed
    every `HEARTBEAT_SECONDS`, and stale after `STALE_SECONDS`.

    Attributes:
        crashes: number of workers in a row that crashed in this trial without completing an epoch.

    Raises:
        ConfigError: another worker has the trial, or the trial has ended.
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
        """Return whether this process wrote the heartbeat in the storage."""
        heartbeat = self.storage.get_trial(self.id).user_attrs.get(HEARTBEAT) or {}
        return all(heartbeat.get(name) == new_heartbeat()[name] for name in ("host", "process"))

    def release(self, saved: bool = False) -> None:
        """Release the lock. With `saved`, workers on other machines can resume at once."""
        self._released.set()
        self._thread.join()
        if saved:
            # Without this, workers on other machines would wait until the heartbeat is stale.
            with contextlib.suppress(*STORAGE_ERRORS):
                self._write(renewed=0.0, epochs=None, crashes=0)
        self._lock.release()

    def revert(self) -> None:
        """Write back the heartbeat from before this lock, and release the lock.

        This is for a trial that another worker is training.
        """
        self._released.set()
        self._thread.join()
        if self.is_owned():
            self.storage.set_trial_user_attr(self.id, HEARTBEAT, self._previous_heartbeat)
        self._lock.release()

    def _take(self, directory: Path) -> None:
        trial = self.storage.get_trial(self.id)
        found: Mapping[str, Any] | None = trial.user_attrs.get(HEARTBEAT)
        taken = ConfigError(f"another worker has trial {self.number}, or it has ended")
        if trial.state.is_finished() or self._lock.contradicts(found):
            raise taken
        if trial.state is TrialState.WAITING:
            if not self.storage.set_trial_state_values(self.id, TrialState.RUNNING):
                raise taken
        # Another machine may have taken the trial, and not written its heartbeat yet.
        elif found is None and _is_new(trial):
            raise taken
        epochs = _trained_epochs(directory)
        crashed = found is not None and found.get("epochs") == epochs
        self.crashes = found["crashes"] + 1 if found is not None and crashed else 0
        self._previous_heartbeat = found
        self._fields: dict[str, Any] = {"epochs": epochs, "crashes": self.crashes}
        self._write()
        if found is not None and found.get("host") != new_heartbeat()["host"]:
            # File locks work on one machine only, so workers on two machines may have taken the
            # trial. The one that wrote the heartbeat last keeps it.
            time.sleep(TAKEOVER_SECONDS)
            if not self.is_owned():
                raise taken

    def _write(self, **changes: Any) -> None:
        self.storage.set_trial_user_attr(
            self.id, HEARTBEAT, new_heartbeat() | self._fields | changes
        )

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            # A database that can't be reached may be available at the next heartbeat.
            with contextlib.suppress(Exception):
                if self.is_owned():
                    self._write()


class TrialQueue:
    """The trials of a study. Workers take those with the numbers 0 to `total` - 1.

    A trial is added in state WAITING before a worker takes it. The reason is that only the change
    from WAITING to RUNNING is atomic in every storage of Optuna.
    """

    def __init__(
        self, study: optuna.Study, storage: BaseStorage, directory: Path, total: int
    ) -> None:
        self.study, self.storage, self.directory, self.total = study, storage, directory, total
        self._study_id = storage.get_study_id_from_name(study.study_name)
        # All trials with lower numbers have ended. A worker doesn't look at them again, so a trial
        # costs the same in a long study as in a short one.
        self._first_open = 0
        # The number of the trial with each signature, among the trials that have ended.
        self._trained: dict[str, int] = {}

    def trials(self) -> list[FrozenTrial]:
        """Return the trials in the order of their numbers.

        A waiting trial with a number of `total` or more is left out. Such trials exist if the study
        was started with a larger `n_trials`.
        """
        return [
            trial
            for trial in self.study.get_trials(deepcopy=False)
            if trial.number < self.total or trial.state is not TrialState.WAITING
        ]

    def _open_trials(self) -> list[FrozenTrial]:
        """Return the trials from the first one that hasn't ended."""
        trials = self.study.get_trials(deepcopy=False)[self._first_open :]
        for trial in trials:
            if not trial.state.is_finished():
                break
            self._first_open += 1
            if trial.state is not TrialState.FAIL and trial.user_attrs.get(SAME_AS) is None:
                self._trained.setdefault(trial.user_attrs.get(SIGNATURE, ""), trial.number)
        return [trial for trial in trials if trial.number >= self._first_open]

    def read(self, number: int) -> FrozenTrial:
        """Read a trial from the storage."""
        return self.storage.get_trial(self._id(number))

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def is_done(self) -> bool:
        """Return whether all trials have ended."""
        return len(self.ended()) >= self.total

    def take(self) -> TrialLock | None:
        """Lock a trial whose worker crashed, or else a waiting one, or else a new one.

        Returns:
            The lock; None if there is no trial to take.
        """
        trials = self._open_trials()
        for state in (TrialState.RUNNING, TrialState.WAITING):
            for trial in trials:
                if (
                    trial.state is not state
                    or trial.number >= self.total
                    or self._copy_if_duplicate(trial)
                ):
                    continue
                with contextlib.suppress(ConfigError, UpdateFinishedTrialError):
                    trial_id = self._id(trial.number)
                    return TrialLock(self.storage, trial_id, trial.number, self.directory)
        with exclusive(self.directory):
            if len(self.study.get_trials(deepcopy=False)) >= self.total:
                return None
            self.study.add_trial(create_trial(state=TrialState.WAITING))
        return self.take()

    def mark_if_duplicate(self, trial: Trial, signature: str) -> bool:
        """Mark a trial as a duplicate if another trial has the same signature.

        A duplicate isn't trained: `take` copies the result of the other trial to it. A trial that
        isn't a duplicate gets the signature as a user attribute.

        Returns:
            Whether the trial is a duplicate.
        """
        with exclusive(self.directory):
            attributes = trial.user_attrs
            others = self._open_trials()
            if signature in self._trained:
                trial.set_user_attr(SAME_AS, self._trained[signature])
                return True
            for other in others:
                theirs = other.user_attrs
                if (
                    other.number == trial.number
                    or other.state is TrialState.FAIL
                    or theirs.get(SIGNATURE) != signature
                    or theirs.get(SAME_AS) is not None
                    # Without file locks, two trials with one signature may start together. The one
                    # with the lower number trains.
                    or (SIGNATURE in attributes and trial.number < other.number)
                ):
                    continue
                trial.set_user_attr(SAME_AS, other.number)
                return True
            trial.set_user_attr(SIGNATURE, signature)
            if SAME_AS in attributes:
                # The other trial has failed, so this trial has to train.
                trial.set_user_attr(SAME_AS, None)
        return False

    def end(self, trial: Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Store the final state of a trial, unless another worker has stored it."""
        try:
            self.study.tell(trial, values, state)
        except (UpdateFinishedTrialError, ValueError):
            if not self.read(trial.number).state.is_finished():
                raise

    def _copy_if_duplicate(self, trial: FrozenTrial) -> bool:
        """Copy the result of the other trial to a duplicate, if the other trial has ended.

        Returns:
            Whether the trial is a duplicate. If the other trial failed, it isn't.
        """
        number = trial.user_attrs.get(SAME_AS)
        if number is None:
            return False
        other = self.read(number)
        if other.state is TrialState.FAIL:
            return False
        if other.state.is_finished():
            trial_id = self._id(trial.number)
            with contextlib.suppress(UpdateFinishedTrialError):
                for name in {STATE, REASON} & other.user_attrs.keys():
                    self.storage.set_trial_user_attr(trial_id, name, other.user_attrs[name])
                for step, value in other.intermediate_values.items():
                    if step not in trial.intermediate_values:
                        self.storage.set_trial_intermediate_value(trial_id, step, value)
                self.storage.set_trial_state_values(trial_id, other.state, other.values)
        return True

    def _id(self, number: int) -> int:
        return self.storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def count_states(states: Iterable[str]) -> str:
    """Return the number of trials, in total and in each state, as text."""
    listed = list(states)
    counts = [f"{listed.count(state)} {state}" for state in dict.fromkeys(listed)]
    return f"{pluralize(len(listed), 'trial')}: {', '.join(counts)}"


def brief_parameters(parameters: Mapping[str, Any]) -> str:
    """Return the parameters of a trial as short text."""
    return " ".join(f"{key}={safe_text(value, FEW_DIGITS)}" for key, value in parameters.items())


def _trained_epochs(directory: Path) -> int:
    """Return the number of epochs that were trained in a trial, in all its replicates.

    With several replicates, each run has a subdirectory.
    """
    epochs = 0
    for run in (directory, *directory.glob("*/")):
        with contextlib.suppress(OSError, ConfigError):
            final = Record.read(run).final
            epochs += int(final["epoch"]) if final else 0
    return epochs


def _is_new(trial: FrozenTrial) -> bool:
    """Return whether a trial started so recently that it may not have a heartbeat yet."""
    started = trial.datetime_start
    return started is not None and (datetime.now() - started).total_seconds() < STALE_SECONDS
