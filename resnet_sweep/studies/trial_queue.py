"""The queue of a study's trials, and the locks with which workers take trials."""

import contextlib
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from resnet_sweep.studies.promotion import PausedTrials
from resnet_sweep.studies.storage import STORAGE_ERRORS, exclusive

# The constants up to PAUSED_AT are names of user attributes of a trial.
# The signature of the trial's first run.
SIGNATURE = "signature"
# The number of another trial with the same signature, whose result this trial gets.
SAME_AS = "same_as"
# The run state at the end of the trial, and its reason.
STATE, REASON = "state", "reason"
# The heartbeat of the worker.
HEARTBEAT = "heartbeat"
# A promoted trial continues as another trial of Optuna, because a pruned trial can't be changed.
# CONTINUES is the number of the first trial, which has the run directory. PAUSED_AT is the last
# step that was reported before the promotion.
CONTINUES, PAUSED_AT = "continues", "paused_at"

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
        number: number of the trial, or of the first trial that it continues.
        is_continuation: whether the trial continues another one.
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
        self.is_continuation = CONTINUES in trial.user_attrs
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
    """The trials of a study. Workers take the first `total` trials, and promote pruned ones.

    A trial is added in state WAITING before a worker takes it, because only the change from WAITING
    to RUNNING is atomic in every storage of Optuna.

    A promoted trial continues as a new trial of Optuna with the same parameters. The two count as
    one trial, with the number of the first one.

    Args:
        paused: the rule of promotion; None for no promotion.
        promote_all: promote all pruned trials after the last new trial, the most promising ones
            first.

    Attributes:
        closed: whether no further trial is started.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: BaseStorage,
        directory: Path,
        total: int,
        paused: PausedTrials | None = None,
        promote_all: bool = False,
    ) -> None:
        self.study, self.storage, self.directory, self.total = study, storage, directory, total
        self.paused, self.promote_all, self.closed = paused, promote_all, False
        self._study_id = storage.get_study_id_from_name(study.study_name)
        # All trials with lower numbers have ended. `take` doesn't search them again, so it costs
        # the same in a long study as in a short one.
        self._first_open = 0
        # The numbers of the other trials that have ended.
        self._ended: set[int] = set()
        self._size = 0
        # Numbers of the trials that continue others, and the last of them for each first trial.
        self._continuations: list[int] = []
        self._latest: dict[int, int] = {}
        # The number of the trial with each signature, among the trials that have ended.
        self._trained: dict[str, int] = {}

    def trials(self) -> list[FrozenTrial]:
        """Return the trials in the order of their numbers; of a promoted trial, the last state.

        A waiting trial after the first `total` ones is left out. Such trials exist if the study was
        started with a larger `n_trials`.
        """
        trials = [
            trial
            for trial in self._read()
            if self._latest.get(run_number(trial), trial.number) == trial.number
            and (self._is_included(trial) or trial.state is not TrialState.WAITING)
        ]
        return sorted(trials, key=run_number) if self._latest else trials

    def _is_included(self, trial: FrozenTrial) -> bool:
        """Return whether a trial, or the one that it continues, is one of the first `total`."""
        number = run_number(trial)
        return number - bisect_left(self._continuations, number) < self.total

    def _read(self) -> list[FrozenTrial]:
        """Return all trials of Optuna, and update the attributes of this queue."""
        trials = self.study.get_trials(deepcopy=False)
        for trial in trials[self._first_open :]:
            if trial.number >= self._size:
                self._size = trial.number + 1
                if CONTINUES in trial.user_attrs:
                    self._add_continuation(trial)
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended.add(trial.number)
                self._add_ended(trial)
        while self._first_open in self._ended:
            self._ended.remove(self._first_open)
            self._first_open += 1
        return trials

    def _open_trials(self) -> list[FrozenTrial]:
        """Return the trials of Optuna from the first one that hasn't ended."""
        trials = self._read()
        return trials[self._first_open :]

    def _add_continuation(self, trial: FrozenTrial) -> None:
        number = run_number(trial)
        self._continuations.append(trial.number)
        self._latest[number] = trial.number
        if self.paused is not None:
            self.paused.remove(number)

    def _add_ended(self, trial: FrozenTrial) -> None:
        number, attributes = run_number(trial), trial.user_attrs
        if attributes.get(SAME_AS) is not None:
            return
        signature = attributes.get(SIGNATURE, "")
        if trial.state is not TrialState.FAIL:
            self._trained.setdefault(signature, number)
        elif self._trained.get(signature) == number:
            del self._trained[signature]
        if self.paused is not None and trial.state is not TrialState.FAIL:
            state = attributes.get(STATE, STATES[trial.state])
            self.paused.add(trial, number, attributes.get(PAUSED_AT, 0), state)

    def read(self, number: int) -> FrozenTrial:
        """Read a trial from the storage."""
        return self.storage.get_trial(self._id(number))

    def ended(self) -> list[FrozenTrial]:
        """Return the trials that have ended."""
        return [trial for trial in self.trials() if trial.state.is_finished()]

    def is_done(self) -> bool:
        """Return whether all trials have ended, and none is left to promote."""
        trials = self.trials()
        if self.closed:
            return all(trial.state is not TrialState.RUNNING for trial in trials)
        ended = sum(trial.state.is_finished() for trial in trials)
        return ended >= self.total and self._next_promotion() is None

    def since_best(self, gain: Callable[[float], float]) -> int:
        """Return the number of ended trials that were added after the best one.

        Args:
            gain: returns a value with its sign changed if lower values are better.
        """
        ended = self.ended()
        complete = [trial for trial in ended if trial.state is TrialState.COMPLETE and trial.values]
        if not complete:
            return 0
        best = max(complete, key=lambda trial: (gain(trial.values[0]), -trial.number))
        return sum(trial.number > best.number for trial in ended)

    def _next_promotion(self) -> int | None:
        """Return the number of the trial to promote next; None if there is none."""
        if self.paused is None:
            return None
        number = self.paused.promotable()
        if number is None and self.promote_all and self._is_full():
            number = self.paused.most_promising()
        return number

    def _is_full(self) -> bool:
        return self._size - len(self._continuations) >= self.total

    def take(self) -> TrialLock | None:
        """Lock a trial whose worker crashed, or else a waiting, a promoted, or a new one.

        Returns:
            The lock; None if there is no trial to take.
        """
        trials = self._open_trials()
        for state in (TrialState.RUNNING, TrialState.WAITING)[: 1 if self.closed else 2]:
            for trial in trials:
                if (
                    trial.state is not state
                    or not self._is_included(trial)
                    or self._copy_if_duplicate(trial)
                ):
                    continue
                with contextlib.suppress(ConfigError, UpdateFinishedTrialError):
                    trial_id = self._id(trial.number)
                    return TrialLock(self.storage, trial_id, run_number(trial), self.directory)
        if self.closed:
            return None
        with exclusive(self.directory):
            self._read()
            number = self._next_promotion()
            if number is not None:
                self._promote(number)
            elif self._is_full():
                return None
            else:
                self.study.add_trial(create_trial(state=TrialState.WAITING))
        return self.take()

    def _promote(self, number: int) -> None:
        """Add a trial that continues a pruned one."""
        trial = self.read(self._latest.get(number, number))
        attributes = {
            CONTINUES: number,
            PAUSED_AT: trial.last_step,
            SIGNATURE: trial.user_attrs[SIGNATURE],
        }
        self.study.add_trial(
            create_trial(
                state=TrialState.WAITING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs=attributes,
            )
        )

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
                trial.set_user_attr(SAME_AS, run_number(other))
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
        other = self.read(self._latest.get(number, number))
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


def run_number(trial: FrozenTrial | Trial) -> int:
    """Return the number of a trial, or of the first trial that it continues.

    It is the name of the trial's directory.
    """
    number: int = trial.user_attrs.get(CONTINUES, trial.number)
    return number


def latest_states(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials of a study without those that others continue."""
    latest = {run_number(trial): trial.number for trial in trials}
    return [trial for trial in trials if latest[run_number(trial)] == trial.number]


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
