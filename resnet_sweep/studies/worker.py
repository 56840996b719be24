"""A worker of a study. It trains trials, and reports their epochs to Optuna's pruner."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from optuna.trial import FrozenTrial, Trial, TrialState

from resnet_sweep.compare.format import pluralize
from resnet_sweep.compare.loaded_run import LoadedRun, Metrics, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.command import relative_path
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.jobs import train_planned
from resnet_sweep.runs.lock import is_run_held
from resnet_sweep.runs.metrics import LayerNorms, Row, read_metrics
from resnet_sweep.runs.record import ENDED, Record
from resnet_sweep.runs.run import continue_pruned
from resnet_sweep.studies.plan import StudyPlan, TrialRun
from resnet_sweep.studies.storage import STORAGE_ERRORS
from resnet_sweep.studies.trial_queue import (
    PAUSED_AT,
    REASON,
    STATE,
    TrialLock,
    TrialQueue,
    brief_parameters,
)
from resnet_sweep.sweeps.epoch_tree import ended_runs, find_start
from resnet_sweep.sweeps.run_cache import RunCache
from resnet_sweep.training.callbacks import Callback, Pruned
from resnet_sweep.training.signals import StopSignal

# Seconds that a worker without a trial waits before it looks for a trial again.
IDLE_SECONDS = 0.5


class TrialFailed(Exception):
    """A trial can't be completed."""


class TrialTakenOver(Exception):
    """Another worker has the trial."""


class TrialEnd(NamedTuple):
    """The end of a trial: Optuna's state, the run state, and the values if it is complete."""

    optuna_state: TrialState
    state: str
    reason: str = ""
    values: Sequence[float] | None = None


class PruningCallback(Callback):
    """Reports the objective of every epoch to a trial, and stops a run that Optuna prunes.

    Args:
        trial: receives the values.
        objective: the reported value.
        epochs: number of epochs of the run. After the last one, the run isn't pruned, because that
            would save no time.
        reported: the steps that the storage contains. The callback adds new ones.
        paused_at: for a promoted trial, the step at which it was pruned. Up to this step, the
            pruner gets the values again, but can't prune the trial.

    Attributes:
        storage_error: the error of the storage, if it couldn't be reached.
    """

    def __init__(
        self,
        trial: Trial,
        objective: Objective,
        epochs: int,
        reported: set[int],
        paused_at: int = 0,
    ) -> None:
        self.trial, self.objective, self.epochs = trial, objective, epochs
        self.reported, self.paused_at = reported, paused_at
        self.rows: list[Row] = []
        self.storage_error: Exception | None = None

    def on_train_start(self, directory: Path, step: int) -> None:
        # A killed worker may not have reported its last epochs, and another run may have trained
        # the first ones.
        rows = read_metrics(directory)
        self.report(rows[:-1])
        for row in rows[-1:]:
            self._report(row)
            self._prune(row)

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self._report(row)
        self._prune(row)

    def report(self, rows: Iterable[Row]) -> None:
        """Report the epochs of a run that the storage doesn't have; they don't prune the trial."""
        for row in rows:
            self._report(row, decided=True)

    def _report(self, row: Row, decided: bool = False) -> None:
        self.rows.append(row)
        # A killed worker may have reported an epoch that its run directory doesn't have.
        epoch = int(row["epoch"])
        if epoch in self.reported:
            return
        value = row.get(self.objective.name)
        if value is None:
            # The value is computed from rows in memory, because metrics.csv may lack the last ones.
            run = LoadedRun(Path(), "", Record(""))
            run.metrics = Metrics(self.rows, None)
            value = self.objective.value(run)
        if value is not None:
            with self._storage():
                self.trial.report(value, epoch)
                if decided or epoch <= self.paused_at:
                    # Pruners of successive halving store the value of each stage.
                    self.trial.should_prune()
            self.reported.add(epoch)

    def _prune(self, row: Row) -> None:
        if not self.paused_at < row["epoch"] < self.epochs:
            return
        with self._storage():
            prunes = self.trial.should_prune()
        if prunes:
            name = type(self.trial.study.pruner).__name__
            raise Pruned(f"by {name} after epoch {row['epoch']} of {self.epochs}")

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except STORAGE_ERRORS as error:
            self.storage_error = error
            raise


class StudyWorker:
    """Trains trials of a study, and calls `on_end` for every trial that it ends."""

    def __init__(
        self,
        plan: StudyPlan,
        queue: TrialQueue,
        stop: StopSignal,
        on_end: Callable[[FrozenTrial], None],
    ) -> None:
        self.plan, self.queue, self.stop, self.on_end = plan, queue, stop, on_end
        self.objectives = plan.objectives
        self.cache = RunCache.default(queue.directory) if plan.sweep_settings["reuse"] else None
        # The ended runs that a trial can continue, by the keys of their last epochs.
        self.ended: dict[str, Path] | None = None

    def work_on(self, lock: TrialLock) -> None:
        """Train a trial, store its result, and release its lock.

        Raises:
            StorageInternalError, SQLAlchemyError, OSError: the storage can't be reached.
            Interrupted: a signal stopped the process; the state of the trial is saved.
        """
        try:
            sampler, study = self.plan.sampler, self.queue.study
            trial = sampler.sample(study, lock.id, lock.number, lock.is_continuation)
            try:
                end = self._train_trial(trial, lock)
            except TrialFailed as failure:
                end = TrialEnd(TrialState.FAIL, "failed", str(failure))
            if end is not None:
                self._store(trial, end)
        except TrialTakenOver:
            # After a machine failed, the heartbeat of the trial may be stale while the heartbeat of
            # the run is still fresh. Then the run can't be trained yet.
            lock.revert()
            time.sleep(IDLE_SECONDS)
        except BaseException:
            lock.release(saved=True)
            raise
        else:
            lock.release()

    def _store(self, trial: Trial, end: TrialEnd) -> None:
        trial.set_user_attr(STATE, end.state)
        if end.reason:
            trial.set_user_attr(REASON, end.reason)
        self.queue.end(trial, end.optuna_state, end.values)
        self.on_end(self.queue.read(trial.number))

    def _train_trial(self, trial: Trial, lock: TrialLock) -> TrialEnd | None:
        """Train the runs of a trial; return None if the trial is a duplicate."""
        limit = self.plan.settings["max_worker_crashes"]
        if limit is not None and lock.crashes >= limit:
            raise TrialFailed(
                f"{pluralize(lock.crashes, 'worker')} crashed in a row without completing an "
                "epoch, possibly for lack of memory"
            )
        try:
            runs = self.plan.plan_trial(trial.params, lock.number)
        except ConfigError as error:
            raise TrialFailed(str(error)) from error
        paused_at: int = trial.user_attrs.get(PAUSED_AT, 0)
        if not paused_at and self.queue.mark_if_duplicate(trial, runs[0].planned.signature):
            return None
        reported = {*self.queue.read(trial.number).intermediate_values}
        verb = "resumed" if (runs[0].directory / "run.json").exists() else "started"
        if paused_at:
            self._continue_pruned(runs[0], paused_at)
            if not reported:
                verb = f"promoted after epoch {paused_at}"
        parameters = brief_parameters(trial.params)
        console.print(f"trial {lock.number} {verb}  {parameters}", markup=False)
        single = len(self.objectives) == 1
        values: list[list[float]] = []
        state = "finished"
        for run in runs:
            # The pruner compares the epochs of the first replicate only.
            epochs = run.record.epochs
            callback = None
            if single and not values:
                callback = PruningCallback(trial, self.objectives[0], epochs, reported, paused_at)
            trained = self._train_run(run, lock, callback)
            record = trained.record
            if record.state in ("diverged", "pruned"):
                # Optuna doesn't support pruned trials with several objectives.
                optuna_state = TrialState.PRUNED if single else TrialState.FAIL
                return TrialEnd(optuna_state, record.state, record.reason)
            found = [objective.value(trained) for objective in self.objectives]
            values.append([value for value in found if value is not None])
            if len(values[-1]) < len(found):
                raise TrialFailed("its run has no value for the objective")
            if len(runs) == 1:
                state = record.state
            elif single:
                step = len(values) * epochs
                if len(values) > 1 and step not in reported:
                    trial.report(fmean(value for (value,) in values), step)
                if step > paused_at and len(values) < len(runs) and trial.should_prune():
                    name = type(self.queue.study.pruner).__name__
                    reason = f"by {name} after {len(values)} of {len(runs)} replicates"
                    return TrialEnd(TrialState.PRUNED, "pruned", reason)
        means = [fmean(column) for column in zip(*values, strict=True)]
        return TrialEnd(TrialState.COMPLETE, state, values=means)

    def _continue_pruned(self, run: TrialRun, paused_at: int) -> None:
        """Prepare the run of a promoted trial to be resumed.

        Raises:
            TrialFailed: the run can't be resumed.
            TrialTakenOver: another worker is training the run.
        """
        try:
            continue_pruned(run.directory, run.record, paused_at)
        except (ConfigError, OSError) as error:
            if is_run_held(run.directory):
                raise TrialTakenOver from error
            raise TrialFailed(one_line(error)) from error

    def _train_run(
        self, run: TrialRun, lock: TrialLock, callback: PruningCallback | None
    ) -> LoadedRun:
        """Train a run of a trial, or reuse a finished one.

        Raises:
            TrialFailed: the run couldn't be started, or ended with an error.
            TrialTakenOver: another worker is training the run.
            Interrupted, StorageInternalError, SQLAlchemyError, OSError: as in `work_on`.
        """
        directory = run.directory
        reason = ""
        try:
            self._plan_start(run)
            run.write_or_reuse(self.cache)
            # A run that has ended, such as a reused one, isn't trained.
            train_planned(directory, self.stop, run.planned, [] if callback is None else [callback])
        except (ConfigError, OSError) as error:
            reason = one_line(error)
        trained = load_run(directory, relative_path(directory))
        if isinstance(trained, LoadedRun):
            if trained.record.state in ENDED and not reason:
                if callback is not None and not callback.rows:
                    callback.report(trained.metrics.rows)
                if self.ended is not None:
                    self.ended |= ended_runs([trained])
                return trained
            reason = reason or trained.record.reason or f"its run is {trained.record.state}"
        else:
            reason = reason or trained.error
        if callback is not None and callback.storage_error is not None:
            # The storage failed, not the trial.
            raise callback.storage_error
        if is_run_held(directory) or not lock.is_owned():
            raise TrialTakenOver
        raise TrialFailed(reason)

    def _plan_start(self, run: TrialRun) -> None:
        """Let a new run continue a run that has ended, if the first epochs of both are the same."""
        if self.cache is None or not self.plan.sweep_settings["share_epochs"]:
            return
        if self.ended is None:
            self.ended = ended_runs(self.cache.runs)
        keys = run.planned.epoch_keys()
        run.record.start_from = find_start(keys, self.ended, run.directory)
