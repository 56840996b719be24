"""The confirmation of a study: its best trials and the current config, trained with new seeds.

The best of many trials looks better than it is, because its value contains the luck that made it
the best. Runs with seeds that the search hasn't used don't have this bias.
"""

import contextlib
import csv
import io
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resnet_sweep.compare.format import format_table, safe_text
from resnet_sweep.compare.group import Group, Statistic, ValueOf, format_mean_sd
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import (
    MeanDifference,
    compare_with_baseline,
    group_verdicts,
)
from resnet_sweep.config.command import relative_path
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.jobs import train_planned
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.lock import DirectoryLock, is_run_held
from resnet_sweep.runs.record import ENDED, PENDING
from resnet_sweep.studies import CONFIRMATION_CSV
from resnet_sweep.studies.plan import StudyPlan, TrialRun
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.sweeps.run_cache import RunCache
from resnet_sweep.training.signals import StopSignal

CURRENT_CONFIG = "current config"
# Seconds between two searches for runs that other workers have left.
IDLE_SECONDS = 0.5


@dataclass(frozen=True)
class Candidate:
    """A config that is trained again.

    Attributes:
        name: "current config", or the number of a trial.
        claimed: the value of the trial; None if the study hasn't trained the current config.
        planned: the runs, one for each new seed.
    """

    name: str
    claimed: float | None
    planned: Sequence[TrialRun]


class Confirmation:
    """The runs with new seeds of the current config and of the best trials.

    Several workers share the runs. Each takes the runs that no other worker has locked.

    Args:
        results: the results of the study, whose search has ended.
    """

    def __init__(self, plan: StudyPlan, results: StudyResults) -> None:
        self.plan, self.results = plan, results
        self.directory = results.queue.directory
        self.objective: Objective = plan.objectives[0]
        self.cache = RunCache.default() if plan.sweep_settings["reuse"] else None

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The current config, and the best trials, best first."""
        count: int | None = self.plan.settings["confirm"]
        if count is None:
            return []
        current = self.plan.plan_confirmation(None, "current")
        found = {current[0].planned.signature: Candidate(CURRENT_CONFIG, None, current)}
        trials = 0
        for result in self.results.ranked():
            if trials == count:
                break
            planned = self.plan.plan_confirmation(result.parameters, str(result.number))
            signature = planned[0].planned.signature
            # Another trial may have the same parameters.
            known = found.get(signature)
            if known is None:
                assert result.values is not None
                found[signature] = Candidate(str(result.number), result.values[0], planned)
                trials += 1
            elif known.name == CURRENT_CONFIG and known.claimed is None:
                assert result.values is not None
                found[signature] = Candidate(CURRENT_CONFIG, result.values[0], current)
        return list(found.values())

    def states(self) -> list[str]:
        """Return the states of all runs."""
        runs = [self._load(run) for candidate in self.candidates for run in candidate.planned]
        return [PENDING if run is None else run.state for run in runs]

    def train(self, stop: StopSignal) -> None:
        """Train the runs until all have ended or failed.

        Raises:
            Interrupted: a signal stopped the process; the state of the run is saved.
        """
        failed: set[Path] = set()
        while left := [pair for pair in self._left() if pair[1].directory not in failed]:
            busy = 0
            for candidate, run in left:
                stop.raise_if_stopped()
                if self._load(run) is not None:
                    continue
                text = f"confirmation of {self._describe(candidate)}, seed {run.record.seed}"
                reason = ""
                try:
                    with self._locked(candidate, run) as is_free:
                        if not is_free:
                            busy += 1
                            continue
                        run.write_or_reuse(self.cache)
                        # A run that has ended, such as a reused one, isn't trained.
                        train_planned(run.directory, stop, run.planned)
                except (ConfigError, OSError) as error:
                    reason = one_line(error)
                trained = self._load(run)
                if trained is not None:
                    value = self.objective.value(trained)
                    shown = "" if value is None else f": {self._format(value)}"
                    console.print(f"{text} {trained.state}{shown}", markup=False)
                elif is_run_held(run.directory):
                    busy += 1
                else:
                    failed.add(run.directory)
                    found = load_run(run.directory, relative_path(run.directory))
                    if isinstance(found, LoadedRun):
                        reason = reason or found.record.reason
                    console.print(safe_text(f"{text} failed: {reason}"), markup=False)
            if busy == len(left):
                time.sleep(IDLE_SECONDS)

    def lines(self, width: int | None) -> list[str]:
        """Return a table of the claimed and the confirmed values."""
        rows = [["trial", "claimed", "confirmed", "change", "difference", "verdict", "directory"]]
        for candidate, statistic, difference, verdict in self._compared():
            directory = candidate.planned[0].directory.parent
            claimed, change = candidate.claimed, ""
            if claimed is not None and statistic is not None:
                change = self.objective.format_difference(statistic.mean - claimed)
            rows.append(
                [
                    candidate.name,
                    "" if claimed is None else self._format(claimed),
                    self._format_mean(statistic),
                    change,
                    self._format_difference(difference),
                    verdict,
                    relative_path(directory),
                ]
            )
        seeds = [str(run.record.seed) for run in self.candidates[0].planned]
        title = f"Confirmed with the new seeds {', '.join(seeds)}:"
        lines = ["", title, *format_table(rows, frozenset({1, 2, 3}), width)]
        judged = sum(row[5] in ("better", "worse", "within noise") for row in rows)
        if judged > 1:
            lines.append(
                f"note: verdicts allow for the {judged} comparisons, so an interval without 0 may "
                "be within noise"
            )
        return lines

    def save(self) -> None:
        """Write `confirmation.csv`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["trial", "claimed", "confirmed", "sd", "n", "difference", "low", "high", "verdict"]
        )
        for candidate, statistic, difference, verdict in self._compared():
            mean, sd, n = statistic or (None, None, 0)
            low, high = (difference and difference.interval()) or (None, None)
            mean_difference = difference and difference.mean
            writer.writerow(
                [
                    candidate.name,
                    candidate.claimed,
                    mean,
                    sd,
                    n,
                    mean_difference,
                    low,
                    high,
                    verdict,
                ]
            )
        write_atomically(self.directory / CONFIRMATION_CSV, text.getvalue().encode())

    def _left(self) -> list[tuple[Candidate, TrialRun]]:
        """Return the runs that haven't ended, ordered by seed, so that all candidates progress."""
        pairs = [
            (candidate, runs)
            for runs in zip(*(candidate.planned for candidate in self.candidates), strict=True)
            for candidate, runs in zip(self.candidates, runs, strict=True)
        ]
        return [(candidate, run) for candidate, run in pairs if self._load(run) is None]

    def _load(self, run: TrialRun) -> LoadedRun | None:
        """Return the run if it has ended; None if it hasn't."""
        found = load_run(run.directory, relative_path(run.directory))
        return found if isinstance(found, LoadedRun) and found.state in ENDED else None

    @contextlib.contextmanager
    def _locked(self, candidate: Candidate, run: TrialRun) -> Iterator[bool]:
        """Lock a run within a `with` block; yield False if another worker has it.

        This lock is held before the run is written, so that two workers on one machine don't write
        it at the same time.
        """
        try:
            name = f".confirmation-{candidate.name}-{run.record.seed}.lock".replace(" ", "-")
            lock = DirectoryLock(self.directory, name=name)
        except ConfigError:
            yield False
            return
        try:
            yield not is_run_held(run.directory)
        finally:
            lock.release()

    def _compared(
        self,
    ) -> Iterator[tuple[Candidate, Statistic | None, MeanDifference | None, str]]:
        """Yield candidates with statistics, differences from the current config, and verdicts."""
        value_of = self.objective.value
        groups = []
        for candidate in self.candidates:
            runs = [self._load(run) for run in candidate.planned]
            groups.append(Group([run for run in runs if run is not None]))
        current, *trials = groups
        differences = compare_with_baseline(trials, current, value_of)
        found = group_verdicts(trials, differences, self.objective.gain)
        yield self.candidates[0], _complete_statistic(current, value_of), None, "baseline"
        for candidate, group, difference, verdict in zip(
            self.candidates[1:], trials, differences, found, strict=True
        ):
            yield candidate, _complete_statistic(group, value_of), difference, verdict

    def _describe(self, candidate: Candidate) -> str:
        name = candidate.name
        return f"the {name}" if name == CURRENT_CONFIG else f"trial {name}"

    def _format(self, value: float) -> str:
        return self.objective.format(value)

    def _format_mean(self, statistic: Statistic | None) -> str:
        return format_mean_sd(statistic, self.objective.digits, self.objective.unit)

    def _format_difference(self, difference: MeanDifference | None) -> str:
        if difference is None:
            return ""
        return self.objective.format_interval(difference.mean, difference.interval())


def _complete_statistic(group: Group, value_of: ValueOf) -> Statistic | None:
    """Return the statistic of the complete runs; None if there are none."""
    return group.statistic(value_of) if group.complete else None
