"""The progress of a study on a terminal: what its running trials do."""

import contextlib
import threading
from pathlib import Path
from typing import Self

from optuna.trial import FrozenTrial, TrialState
from rich.console import Group
from rich.live import Live

from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.console import console
from resnet_sweep.runs.record import Record
from resnet_sweep.studies.storage import STORAGE_ERRORS
from resnet_sweep.studies.trial_queue import TrialQueue, brief_parameters, run_number
from resnet_sweep.sweeps.progress import MAX_RUNNING, format_position, live_lines

# Seconds between two reads of the trials and of their runs.
POLL_SECONDS = 2


class StudyProgress:
    """Shows the running trials of a study in a live view within a `with` block.

    Nothing is shown if the output isn't a terminal: there, the start and the end of each trial are
    printed.

    Args:
        queue: the trials. A thread reads them, so no other thread may use this queue.
        objective: the first objective of the study.
    """

    def __init__(self, queue: TrialQueue, objective: Objective) -> None:
        self.queue, self.objective = queue, objective
        self._ended = threading.Event()
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if console.is_terminal:
            self._live.start()
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()
            self._live.stop()

    def _watch(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            # The worker prints errors of the storage.
            with contextlib.suppress(*STORAGE_ERRORS):
                self._live.update(self.view(), refresh=True)

    def view(self) -> Group:
        """Return the lines of the live view: the running trials and a summary."""
        trials = self.queue.trials()
        running = [trial for trial in trials if trial.state is TrialState.RUNNING]
        lines = [f"  {self._describe(trial)}" for trial in running[:MAX_RUNNING]]
        ended = sum(trial.state.is_finished() for trial in trials)
        summary = [f"{ended} of {self.queue.total} trials done", f"{len(running)} running"]
        complete = [
            (self.objective.gain(trial.values[0]), trial)
            for trial in trials
            if trial.state is TrialState.COMPLETE
        ]
        if complete:
            _, best = max(complete, key=lambda pair: pair[0])
            value = self.objective.format(best.values[0])
            summary.append(f"{self.objective.title} {value} (trial {run_number(best)})")
        return live_lines([*lines, ", ".join(summary)])

    def _describe(self, trial: FrozenTrial) -> str:
        """Return the position of a running trial, its last value and its parameters."""
        number = run_number(trial)
        text = f"trial {number}"
        record = _running_record(self.queue.directory / str(number))
        if record is not None:
            text += f" {format_position(record)}"
        # The position has the validation accuracy.
        if self.objective.name != "val_acc" and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
            text += f" {self.objective.title} {self.objective.format(value)}"
        return f"{text}  {brief_parameters(trial.params)}"


def _running_record(directory: Path) -> Record | None:
    """Return the record of the running run of a trial; None if no run is running.

    With several replicates, each run has a subdirectory.
    """
    for place in (directory, *sorted(directory.glob("*/"))):
        if (place / "run.json").exists():
            run = load_run(place, "")
            if isinstance(run, LoadedRun) and run.record.state == "running":
                return run.record
    return None
