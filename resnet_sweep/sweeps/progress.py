"""The progress of a sweep: read from the jobs' directories, printed, and saved in its files."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from resnet_sweep.compare.format import format_percent
from resnet_sweep.console import console
from resnet_sweep.runs.record import HEARTBEAT_SECONDS, PENDING, Record, duration
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.plan import SweepPlan
from resnet_sweep.sweeps.summary import describe, distinct_overrides

# The interval of polling grows with the number of jobs, because checking the files of thousands of
# pending jobs takes a noticeable time.
POLL_SECONDS, POLL_SECONDS_PER_JOB = 0.5, 0.001
# The largest number of seconds between two lines if the output isn't a terminal.
PLAIN_SECONDS = 60
# The smallest number of seconds between two writes of the sweep's files, and the largest share of
# the time that the writes may take. A write can take long, because the files list all jobs.
SAVE_SECONDS, SAVE_SHARE = 1.0, 0.05
# At most this many running jobs are listed on a terminal.
MAX_RUNNING = 20

log = logging.getLogger(__name__)


def format_position(record: Record) -> str:
    """Return the epoch, accuracy and speed of a running run."""
    progress: Mapping[str, Any] = record.heartbeat or {}
    epochs = record.config.get("trainer", {}).get("epochs")
    final = record.final or {"epoch": 0}
    epoch = max(final["epoch"] + (final["epoch"] != epochs), progress.get("epoch", 0))
    text = f"epoch {epoch}/{epochs}"
    if epoch == progress.get("epoch") and progress.get("steps"):
        text += f" {100 * progress['step'] // progress['steps']}%"
    if final.get("val_acc") is not None:
        text += f" at {format_percent(final['val_acc'])}"
    if progress.get("images_per_second"):
        text += f" {progress['images_per_second']:,.0f} images/s"
    return text


def live_lines(lines: Iterable[str]) -> Group:
    """Return lines for a live view; a line that is too long for the terminal is cut."""
    return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


class SweepProgress:
    """Polls the jobs' records within a `with` block, prints changes, and saves the sweep's files.

    On a terminal, the running jobs are shown in a live view; otherwise, lines are printed.
    """

    def __init__(
        self, plan: SweepPlan, to_train: Sequence[Job], save: Callable[[], object]
    ) -> None:
        self.plan, self.jobs, self.save = plan, plan.jobs, save
        self.overrides = distinct_overrides(plan.jobs)
        # An ordered set of the jobs that are left to train.
        self.remaining = dict.fromkeys(to_train)
        self.epochs_to_train = self._epochs_to_train()
        # Acquired while records are read, so that a change is handled once.
        self.refresh_lock = threading.RLock()
        self._ended = threading.Event()
        self._unsaved = False
        self._save_took = 0.0
        self._save_failed = False
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self.started = self._printed = self._saved = time.monotonic()
        if console.is_terminal:
            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        self.refresh()
        if self._live is not None:
            self._live.stop()

    def refresh(self, jobs: Iterable[Job] | None = None) -> None:
        """Read the records of the given jobs, or of all remaining ones, and print changes."""
        with self.refresh_lock:
            changed = [
                job for job in [*(self.remaining if jobs is None else jobs)] if job.refresh()
            ]
            for job in changed:
                self._unsaved = True
                if job.state in (PENDING, "running"):
                    continue
                # An interrupted job still has to be trained.
                if job.state != "interrupted":
                    self.remaining.pop(job, None)
                total = len(self.jobs)
                done = "" if job in self.remaining else f"[{total - len(self.remaining)}/{total}] "
                self._print(f"{done}{describe(job)}  {self.overrides[job]}".rstrip())
            self._save_if_due()
            if self._live is not None:
                self._live.update(self.view(), refresh=True)
            elif time.monotonic() - self._printed > PLAIN_SECONDS:
                self._print(self.summary())

    def summary(self) -> str:
        """Return the state of the sweep in one line."""
        states = Counter(job.state for job in self.jobs)
        running = [job for job in self.jobs if job.state == "running"]
        parts = [f"{states.total() - len(self.remaining)} of {states.total()} done"]
        parts += [
            f"{states[state]} {state}"
            for state in ("running", PENDING, "interrupted", "failed", "diverged")
            if states[state]
        ]
        objective = self.plan.objective
        values = [(objective.value(job.run), job.number) for job in self.jobs if job.record.best]
        known = [(value, number) for value, number in values if value is not None]
        if known:
            value, number = max(known, key=lambda pair: objective.gain(pair[0]))
            parts.append(f"{objective.title} {objective.format(value)} (job {number})")
        seconds = self.estimate_seconds_left(len(running))
        if seconds is not None and running:
            parts.append(f"{duration(seconds)} left")
        if not console.is_terminal:
            parts += [f"job {job.number} {format_position(job.record)}" for job in running[:4]]
        return ", ".join(parts)

    def view(self) -> Group:
        """Return the lines of the live view: the running jobs and a summary."""
        running = [job for job in self.jobs if job.state == "running"]
        lines = [
            f"  job {job.number} {format_position(job.record)}  {self.overrides[job]}"
            for job in running[:MAX_RUNNING]
        ]
        return live_lines([*lines, self.summary()])

    def estimate_seconds_left(self, running: int) -> float | None:
        """Estimate the seconds until the sweep ends, if `running` jobs run in parallel."""
        passed = time.monotonic() - self.started
        to_train = self._epochs_to_train()
        trained = self.epochs_to_train - to_train
        if trained >= 1:
            return passed / trained * to_train
        estimate = self.plan.cache.estimate(self.remaining)
        return None if estimate is None else max(0.0, estimate / max(1, running) - passed)

    def _epochs_to_train(self) -> float:
        return sum(job.epochs_to_train for job in self.remaining)

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        console.print(line, markup=False)

    def _watch(self) -> None:
        pause = max(POLL_SECONDS, POLL_SECONDS_PER_JOB * len(self.jobs))
        while not self._ended.wait(pause):
            self.refresh()

    def _save_if_due(self) -> None:
        passed = time.monotonic() - self._saved
        changed = self._unsaved and passed > max(SAVE_SECONDS, self._save_took / SAVE_SHARE)
        if not changed and passed < HEARTBEAT_SECONDS:
            return
        started = self._saved = time.monotonic()
        try:
            self.save()
        except OSError as error:
            # A full disk may have space again later, and the jobs' own files have all results.
            if not self._save_failed:
                log.warning(
                    "warning: results.csv and sweep.json can't be written (%s); retrying",
                    error.strerror or error,
                )
            self._save_failed = True
        else:
            self._unsaved = self._save_failed = False
        self._save_took = time.monotonic() - started
