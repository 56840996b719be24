"""One worker's sitting at a study: trial after trial, until none is left."""

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.utils import JobStatus, run_job
from hydra.types import HydraContext
from omegaconf import OmegaConf
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.text import shown
from resnet_sweep.composition.command import command, relative
from resnet_sweep.composition.gate import flags_of, words_of
from resnet_sweep.composition.task import task
from resnet_sweep.console import console
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.lease import is_held
from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.sitting import terminable
from resnet_sweep.sweeps.study import results
from resnet_sweep.sweeps.study.claim import Claim
from resnet_sweep.sweeps.study.composer import Composer, Replicate, epochs_of
from resnet_sweep.sweeps.study.pruning import Pruning
from resnet_sweep.sweeps.study.results import Outcome
from resnet_sweep.sweeps.study.storage import exclusive
from resnet_sweep.sweeps.study.summary import Summary
from resnet_sweep.sweeps.study.trials import FOUND, PLACE, REASON, STATE, Trials
from resnet_sweep.sweeps.study.worker import LOG, WORKERS
from resnet_sweep.sweeps.sweep import MULTIRUN
from resnet_sweep.training.interruption import INTERRUPTED

# How often a worker without a trial looks whether another one has lost its own.
IDLE_SECONDS = 0.5
# How often to see which trials of workers elsewhere have ended.
WATCH_SECONDS = 2


class NotOurs(Exception):
    """A trial turned out to be another worker's."""


class Failed(Exception):
    """A trial came to nothing."""


class Sitting:
    """Works on a study together with any number of others.

    Args:
        trials: of the study.
        composer: of their runs.
        context: of Hydra's, to carry runs out in.
        history: runs that are finished elsewhere, whose outcomes are taken; None takes none.
        max_failures: after how many failed trials the study ends; None for any number.
        max_losses: workers that a trial may lose in a row, with no epoch to show for it, before it
            has failed; None for any number.
        definition: what `sweep.json` says of the study as a whole.
    """

    def __init__(
        self,
        trials: Trials,
        composer: Composer,
        context: HydraContext,
        history: History | None,
        max_failures: int | None,
        max_losses: int | None,
        definition: dict[str, Any],
    ) -> None:
        self.trials, self.composer, self.context = trials, composer, context
        self.history, self.max_failures = history, max_failures
        self.max_losses = max_losses
        self.study, self.directory = trials.study, trials.directory
        self.objectives = composer.objectives
        hydra = composer.master.hydra
        self.words = [
            *flags_of(hydra),
            "--multirun",
            *words_of(hydra),
            *(word for word in words_of(hydra, "hydra") if not word.startswith(("hydra.mode=",
                                                                       "hydra.sweep.dir="))),
        ]  # fmt: skip
        self.definition = {"command": self.command(), "settings": {}, **definition}

    def command(self) -> str:
        """The command that goes on with the study, or joins it."""
        return command(self.words, "hydra.sweep.dir", self.directory)

    def carry_out(self) -> int:
        """Work on trials until none is left.

        Returns:
            The exit status.

        Raises:
            SystemExit: it was stopped from outside, or lost its storage; what ran is saved.
        """
        with self._seated():
            while not self._enough():
                claim = self.trials.take()
                if claim is None:
                    if self.trials.over:
                        break
                    time.sleep(IDLE_SECONDS)
                    continue
                self._work(claim)
            self._save()
        return self._tell_end()

    def attend(self, launch: Callable[[Path], Sequence[str]]) -> int:
        """Have others work on trials until none is left, and tell of those that end.

        Args:
            launch: has workers carried out, given the sweep's directory; what became of those that
                were lost comes back.

        Returns:
            The exit status.

        Raises:
            SystemExit: as for `carry_out`.
        """
        with self._seated():
            with self._watching():
                try:
                    lost = launch(self.directory)
                # Launchers of all sorts break off in all sorts of ways.
                except Exception as error:
                    told = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    lost = [f"the launcher broke off: {told}; what it began may go on"]
            self._save()
        for each in lost:
            console.print(each, markup=False)
        if not self.trials.over and not self._enough():
            console.print(
                f"no worker is left here; {relative(self.directory)}/{WORKERS}/*/{LOG} may say "
                f"why. To go on:\n  {self.command()}",
                markup=False,
            )
        return self._tell_end()

    @contextlib.contextmanager
    def _seated(self) -> Iterator[None]:
        """A context for the work on trials; it tells why that ends before its time."""
        console.print(f"Sweep directory: {relative(self.directory)}", markup=False)
        with terminable():
            try:
                if not (self.directory / MULTIRUN).exists():
                    text = OmegaConf.to_yaml(self.composer.master)
                    write_atomically(self.directory / MULTIRUN, text.encode())
                yield
            except (KeyboardInterrupt, SystemExit) as stop:
                status = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else stop.code
                self._tell_stopped()
                raise SystemExit(status) from None
            except (StorageInternalError, SQLAlchemyError) as error:
                self._tell_lost(error)
                raise SystemExit(1) from None

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """A context in which another thread tells of each trial that ends."""
        done = threading.Event()
        told = {each.number for each in self.trials.listed() if each.state.is_finished()}

        def look() -> None:
            for trial in self.trials.listed():
                if trial.state.is_finished() and trial.number not in told:
                    told.add(trial.number)
                    self._tell_trial(trial, len(told))

        def watch() -> None:
            while not done.wait(WATCH_SECONDS):
                # Workers say themselves what is wrong with the storage.
                with contextlib.suppress(StorageInternalError, SQLAlchemyError):
                    look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
        look()

    def _enough(self) -> bool:
        return self.max_failures is not None and self.trials.failures >= self.max_failures

    def _work(self, claim: Claim) -> None:
        """Carry a trial out, and say what came of it."""
        try:
            trial = self.trials.sample(claim)
            try:
                self._carry_out(trial, claim)
            except Failed as failure:
                self._end(trial, TrialState.FAIL, "failed", str(failure))
        except NotOurs:
            # Where a machine died, its run's lease may outlive the one of its trial a little.
            claim.give_back()
            time.sleep(IDLE_SECONDS)
        except BaseException:
            claim.release(saved=True)
            raise
        else:
            claim.release()
        self._save()

    def _carry_out(self, trial: Trial, claim: Claim) -> None:
        words = " ".join(f"{key}={value}" for key, value in trial.params.items())
        if self.max_losses is not None and claim.attempts >= self.max_losses:
            raise Failed(
                f"it lost {claim.attempts} workers in a row without an epoch to show, as when "
                "memory runs out"
            )
        try:
            replicates = self.composer.compose(trial.params, trial.number)
        except RequestError as error:
            raise Failed(str(error)) from error
        if self.trials.is_same(trial, replicates[0].planned.signature):
            return
        going_on = (self.directory / replicates[0].place / "run.json").exists()
        console.print(
            f"trial {trial.number} {'goes on' if going_on else 'begins'}  {words}", markup=False
        )
        values: list[list[float]] = []
        for replicate in replicates:
            # Epochs of one replicate are compared with those of another trial's first.
            watched = len(self.objectives) == 1 and replicate is replicates[0]
            entry = self._train(trial, replicate, claim, watched)
            state, reason = entry.state, entry.record.reason
            if state == "diverged":
                # Of several objectives, Optuna knows no trial that was given up.
                single = len(self.objectives) == 1
                kind = TrialState.PRUNED if single else TrialState.FAIL
                return self._end(trial, kind, state, reason)
            if state == "pruned":
                return self._end(trial, TrialState.PRUNED, state, reason)
            found = [each.value(entry) for each in self.objectives]
            if None in found:
                raise Failed("there is nothing to judge it by")
            values.append(found)
            if len(values) > 1:
                self._report(trial, fmean(each[0] for each in values), len(values), replicate)
            last = replicate is replicates[-1]
            if not last and len(self.objectives) == 1 and trial.should_prune():
                name = type(self.study.pruner).__name__
                reason = f"by {name} after {len(values)} of {len(replicates)} replicates"
                return self._end(trial, TrialState.PRUNED, "pruned", reason)
        means = [fmean(each) for each in zip(*values, strict=True)]
        return self._end(trial, TrialState.COMPLETE, state if len(values) == 1 else "finished",
                         "", means)  # fmt: skip

    def _train(self, trial: Trial, replicate: Replicate, claim: Claim, watched: bool) -> Entry:
        """The run of a replicate, trained here or found."""
        directory = self.directory / replicate.place
        found = None
        if self.history is not None and not (directory / "run.json").exists():
            found = self.history.complete(replicate.planned.signature)
        pruning = Pruning(trial, self.objectives[0], epochs_of(replicate.planned.config))
        if found is not None:
            if watched:
                pruning.tell(found.directory)
            place = str(found.directory.absolute())
            if self.composer.replicates == 1:
                trial.set_user_attr(PLACE, place)
            else:
                # The others may have been trained here, or be yet.
                places = trial.user_attrs.get(FOUND, [])
                trial.set_user_attr(FOUND, [*places, *({place} - {*places})])
            return found
        replicate.config.hydra.sweep.dir = str(self.directory)
        self._run(replicate, [pruning] if watched else [], claim)
        entry = Entry.read(directory, relative(directory))
        if entry.record is None:
            raise Failed(entry.damage)
        if entry.state not in ("finished", "stopped_early", "pruned", "diverged"):
            raise Failed(entry.record.reason or f"its run is {entry.state}")
        return entry

    def _run(self, replicate: Replicate, monitors: Sequence[Any], claim: Claim) -> None:
        """Have a run trained in this process.

        Raises:
            Failed: it couldn't begin, or broke down.
            NotOurs: another worker is at it.
            StorageInternalError: the storage couldn't be reached when an epoch was reported.
            SystemExit: it was stopped from outside, and is saved.
        """
        directory = self.directory / replicate.place
        context = HydraContext(
            config_loader=None,
            callbacks=self.context.callbacks,
            execution_whitelist=self.context.execution_whitelist,
        )
        returned = run_job(
            hydra_context=context,
            task_function=functools.partial(task, others=monitors),
            config=replicate.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if returned.status is JobStatus.FAILED:
            error = returned._return_value
            if (lost := _storage_error(error)) is not None:
                # Back again by now or not, it says nothing of the trial.
                raise lost
            with contextlib.suppress(OSError, RequestError):
                if is_held(directory, Record.read(directory).lease):
                    raise NotOurs
            if not claim.holds():
                raise NotOurs
            raise Failed(" ".join(str(error).split()) or type(error).__name__) from error

    def _report(self, trial: Trial, value: float, count: int, replicate: Replicate) -> None:
        """Tell of the mean of some replicates, at the epochs that they have together."""
        if len(self.objectives) > 1:
            return
        step = count * epochs_of(replicate.planned.config)
        if step not in trial.storage.get_trial(trial._trial_id).intermediate_values:
            trial.report(value, step)

    def _end(
        self,
        trial: Trial,
        kind: TrialState,
        state: str,
        reason: str,
        values: Sequence[float] | None = None,
    ) -> None:
        trial.set_user_attr(STATE, state)
        if reason:
            trial.set_user_attr(REASON, reason)
        self.trials.tell(trial, kind, values)
        ended = sum(each.state.is_finished() for each in self.trials.listed())
        self._tell_trial(self.study._storage.get_trial(trial._trial_id), ended)

    def _tell_trial(self, trial: FrozenTrial, ended: int) -> None:
        outcome = Outcome(trial, self.directory)
        words = " ".join(f"{key}={value}" for key, value in trial.params.items())
        console.print(
            f"[{ended}/{self.trials.total}] {shown(outcome.describe(self.objectives))}  {words}",
            markup=False,
        )

    def _save(self) -> None:
        # Whoever writes last has read last.
        with exclusive(self.directory):
            results.write(
                self.directory,
                self._outcomes(),
                self.objectives,
                list(self.composer.space.distributions),
                self.definition,
            )

    def _outcomes(self) -> list[Outcome]:
        return [Outcome(trial, self.directory) for trial in self.trials.listed()]

    def _tell_stopped(self) -> None:
        self._save()
        done = sum(trial.state.is_finished() for trial in self.trials.listed())
        console.print(
            f"stopped; {done} of {self.trials.total} trials are done. To go on:\n"
            f"  {self.command()}",
            markup=False,
        )

    def _tell_lost(self, error: Exception) -> None:
        # SQLAlchemy's own error is behind the one of Optuna's.
        cause = error.__cause__ or error
        reason = " ".join(str(getattr(cause, "orig", None) or cause).split()).rstrip(".")
        console.print(
            f"the study's storage can't be reached any more ({reason}); what ran is saved. When it "
            f"is back, go on:\n  {self.command()}",
            markup=False,
        )

    def _tell_end(self) -> int:
        """Tell what came of the study; returns the exit status."""
        best = self.study.best_trials if len(self.objectives) > 1 else None
        front = best and [trial.number for trial in best]
        summary = Summary(self._outcomes(), self.composer, front)
        lines = ["", *summary.lines(console.width if console.is_terminal else None)]
        if self._enough() and not self.trials.over:
            lines.append(
                f"{self.trials.failures} trials failed, so the study ends "
                f"(hydra.sweeper.max_failures={self.max_failures}); to go on, raise that"
            )
        lines.append(f"Its report: python -m resnet_sweep.report {relative(self.directory)}")
        console.print("\n".join(lines), markup=False)
        return int(bool(summary.broken) or not self.trials.over)


def _storage_error(error: BaseException | None) -> StorageInternalError | None:
    """The error of a study's storage that is behind another one; None if none is."""
    while error is not None and not isinstance(error, StorageInternalError):
        error = error.__cause__
    return error
