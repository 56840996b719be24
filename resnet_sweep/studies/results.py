"""The results of a study's trials: `results.csv`, `sweep.json`, and the printed summary."""

import csv
import io
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from resnet_sweep.compare.format import FEW_DIGITS, format_table, reproduce_command, safe_text
from resnet_sweep.compare.group import COMPLETE, Statistic
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.command import relative_path
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.record import duration
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.storage import exclusive
from resnet_sweep.studies.trial_queue import (
    REASON,
    SAME_AS,
    SIGNATURE,
    STATE,
    STATES,
    TrialQueue,
    brief_parameters,
    count_states,
    run_number,
)
from resnet_sweep.sweeps.manifest import RESULTS_CSV, JobEntry, Manifest, SweepDefinition

MAX_LISTED = 10
# The files are written at most once per PAUSE_SECONDS. After a write of t seconds, the next write
# follows after at least PAUSE_FACTOR * t. So a large study doesn't spend its time on the files.
PAUSE_SECONDS, PAUSE_FACTOR = 1.0, 20

log = logging.getLogger(__name__)


class TrialResult:
    """The result of a trial so far.

    Attributes:
        number: number of the trial, or of the first trial that it continues.
        state: a run state; for a running trial, the state of its run.
        reason: explains a state other than running and finished; otherwise empty.
        directory: the directory of the run, or of the trial if it has several replicates. It is an
            absolute path.
        reused: whether all runs were trained in other directories.
        values: the values of the objectives, as means over the replicates. A pruned trial has the
            value of its last epoch. None while the trial runs, or if it has no values.
        best_val_acc, final_val_acc: means over the runs, in percent.
        seconds: total time of the runs.
        statistic: the statistic of the first objective over the runs.
    """

    def __init__(self, trial: FrozenTrial, sweep: Path, objective: Objective) -> None:
        attributes = trial.user_attrs
        self.number, self.parameters = run_number(trial), trial.params
        self.values = trial.values if trial.state.is_finished() else None
        self.signature: str = attributes.get(SIGNATURE, "")
        same = attributes.get(SAME_AS)
        number = self.number if same is None else same
        self.directory = own = Path(os.path.abspath(sweep / str(number)))
        self.places = [
            place for place in (own, *sorted(own.glob("*/"))) if (place / "run.json").exists()
        ]
        runs = [load_run(place, str(place)) for place in self.places]
        records = [run.record for run in runs if isinstance(run, LoadedRun)]
        self.reused = bool(records) and all(record.reused_from for record in records)
        self.state: str = attributes.get(STATE, STATES[trial.state])
        if trial.state is TrialState.RUNNING:
            interrupted = bool(runs) and runs[-1].state == "interrupted"
            self.state = "interrupted" if interrupted else "running"
        reasons = [] if same is None else [f"same as trial {same}"]
        self.reason = ": ".join([*reasons, *filter(None, [attributes.get(REASON)])])
        best = Statistic.from_values(record.best["val_acc"] for record in records if record.best)
        final = Statistic.from_values(record.final["val_acc"] for record in records if record.final)
        self.best_val_acc, self.final_val_acc = best and best.mean, final and final.mean
        self.seconds = sum(record.seconds or 0.0 for record in records) if records else None
        self.statistic = Statistic.from_values(map(objective.value, runs))

    def describe(self, objectives: Sequence[Objective]) -> str:
        """Return a one-line summary of the trial."""
        text = f"trial {self.number} {self.state}"
        if self.reason:
            text += f" ({self.reason})"
        if self.values is not None:
            goals = zip(objectives, self.values, strict=True)
            text += ": " + ", ".join(f"{goal.title} {goal.format(value)}" for goal, value in goals)
        if self.seconds:
            text += f", {duration(self.seconds)}"
        return f"{safe_text(text)}  {brief_parameters(self.parameters)}"


class StudyResults:
    """The results of a study's trials, in memory and in the sweep directory.

    A trial that has ended is read once. The files are written at a limited rate.

    Args:
        definition: the part of `sweep.json` about the whole study.
    """

    def __init__(self, queue: TrialQueue, plan: StudyPlan, definition: Mapping[str, Any]) -> None:
        self.queue, self.plan, self.definition = queue, plan, definition
        self._ended: dict[int, TrialResult] = {}
        self._due = 0.0
        self._warned = False

    def of(self, trial: FrozenTrial) -> TrialResult:
        """Return the result of a trial."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        result = TrialResult(trial, self.queue.directory, self.plan.objectives[0])
        if trial.state.is_finished():
            self._ended[trial.number] = result
        return result

    def all(self) -> list[TrialResult]:
        """Return the results of all trials, by number."""
        return [self.of(trial) for trial in self.queue.trials()]

    def save(self, now: bool = False) -> None:
        """Write the files, at a limited rate unless `now` is set.

        An error is only logged: a full disk may have space again later, and the storage and the
        run directories have all results.
        """
        started = time.monotonic()
        if started < self._due and not now:
            return
        directory = self.queue.directory
        try:
            # The results are read while the lock is held, so that the last process that writes them
            # has the newest ones.
            with exclusive(directory):
                results = self.all()
                write_atomically(directory / RESULTS_CSV, self._table(results).encode())
                self._manifest(results).write(directory)
        except OSError as error:
            if not self._warned:
                log.warning(
                    "warning: results.csv and sweep.json can't be written (%s)",
                    error.strerror or error,
                )
            self._warned = True
        ended = time.monotonic()
        self._due = ended + max(PAUSE_SECONDS, PAUSE_FACTOR * (ended - started))

    def _table(self, results: Sequence[TrialResult]) -> str:
        names = [objective.name for objective in self.plan.objectives]
        values = ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
        keys = list(self.plan.space.distributions)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        header = ["number", "state", "directory", "best_val_acc", "final_val_acc", "seconds"]
        writer.writerow([*header, *values, *keys, "sd", "n", "reason"])
        for result in results:
            statistic = result.statistic
            writer.writerow(
                [
                    result.number,
                    result.state,
                    os.path.relpath(result.directory, self.queue.directory),
                    result.best_val_acc,
                    result.final_val_acc,
                    result.seconds,
                    *(("" for _ in names) if result.values is None else result.values),
                    *(result.parameters.get(key, "") for key in keys),
                    statistic and statistic.sd,
                    statistic.n if statistic else 0,
                    result.reason,
                ]
            )
        return text.getvalue()

    def _manifest(self, results: Sequence[TrialResult]) -> Manifest:
        jobs = [
            JobEntry(
                number=result.number,
                overrides=[f"{key}={value}" for key, value in result.parameters.items()],
                signature=result.signature,
                directory=os.path.relpath(result.directory, self.queue.directory),
                reused=result.reused,
                state=result.state,
                value=result.values[0] if result.values else None,
                reason=result.reason,
                settings=dict(result.parameters),
            )
            for result in results
        ]
        return Manifest(definition=SweepDefinition(**self.definition), jobs=jobs)

    def ranked(self) -> list[TrialResult]:
        """Return the complete trials, best first; with several objectives, the Pareto front."""
        objective = self.plan.objectives[0]
        complete = [
            (objective.gain(result.values[0]), result)
            for result in self.all()
            if result.values and result.state in COMPLETE
        ]
        if len(self.plan.objectives) > 1:
            front = {run_number(trial) for trial in self.queue.study.best_trials}
            complete = [(gain, result) for gain, result in complete if result.number in front]
        complete.sort(key=lambda pair: pair[0], reverse=True)
        return [result for _, result in complete]

    def summary(self, width: int | None) -> list[str]:
        """Return the best trials, the number of trials in every state, and the broken trials."""
        results, ranked = self.all(), self.ranked()
        lines = self._ranking(ranked[:MAX_LISTED], width) if ranked else []
        lines.append(count_states(result.state for result in results))
        if ranked and (command := self._best_command(ranked[0])) is not None:
            lines.append(f"Reproduce the best run:\n  {command}")
        broken = [result for result in results if result.state in ("failed", "diverged")]
        lines += [
            f"trial {result.number} {result.state}: {safe_text(result.reason)}"
            for result in broken[:MAX_LISTED]
        ]
        return lines

    def _ranking(self, ranked: Sequence[TrialResult], width: int | None) -> list[str]:
        objectives, keys = self.plan.objectives, list(self.plan.space.distributions)
        titles = [objective.title for objective in objectives]
        rows = [["trial", "state", *titles, "time", *map(safe_text, keys), "directory"]]
        for result in ranked:
            values = zip(objectives, result.values or (), strict=True)
            rows.append(
                [
                    str(result.number),
                    result.state,
                    *(objective.format(value) for objective, value in values),
                    duration(result.seconds or 0),
                    *(safe_text(result.parameters.get(key, ""), FEW_DIGITS) for key in keys),
                    relative_path(result.directory),
                ]
            )
        return format_table(rows, frozenset({0, *range(2, 3 + len(objectives))}), width)

    def _best_command(self, result: TrialResult) -> str | None:
        """Return the command that reproduces a trial in a new directory."""
        for run in (load_run(place, str(place)) for place in result.places):
            if isinstance(run, LoadedRun):
                record, several = run.record, self.plan.replicates
                if several > 1:
                    overrides = [text for text in record.overrides if not text.startswith("seed=")]
                    # The command sets the seed of the first replicate, if the study sets it.
                    seed = [text for key, text in self.plan.space.fixed.items() if key == "seed"]
                    overrides += [f"replicates={several}", *seed]
                    record = replace(record, overrides=overrides)
                return reproduce_command(record)
        return None
