"""How a sweep gets on, on screen and in its files, from the directories of its jobs."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.text import Text

from resnet_sweep.compare.text import percent
from resnet_sweep.console import console
from resnet_sweep.runs.lease import RENEWAL_SECONDS
from resnet_sweep.runs.record import duration
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.job import WAITING, Job
from resnet_sweep.sweeps.outcome import describe, varying_words
from resnet_sweep.sweeps.sweep import Sweep

# Looking at the directories of thousands of waiting jobs takes a little each time.
POLL_SECONDS, POLL_SECONDS_A_JOB = 0.5, 0.001
# In a pipe, a line at least this often.
PLAIN_SECONDS = 60

log = logging.getLogger(__name__)


class Progress:
    """Looks at the jobs twice a second, keeps the sweep's files true, and tells what is new.

    Within a `with` block. On a terminal one view of all that runs, in a pipe plain lines.

    Args:
        sweep: that is carried out.
        to_train: the jobs that have something left to train.
        history: for the time that is left, until there is an epoch to go by.
    """

    def __init__(self, sweep: Sweep, to_train: Sequence[Job], history: History) -> None:
        self.sweep, self.history = sweep, history
        self.words = varying_words(sweep.jobs)
        # What is left, and the news of it that were told.
        self.rest = {job: job.news for job in to_train}
        self.epochs_to_train = self._epochs_to_train()
        # Held by whoever looks at the jobs, lest news be missed in between.
        self.looking = threading.RLock()
        self._over = threading.Event()
        self._trouble = ""
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self.begun = self._told = self._saved = time.monotonic()
        if console.is_terminal:
            self._live = Live(console=console, transient=True, auto_refresh=False)
            self._live.start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()
        if self._live is not None:
            self._live.stop()

    def look(self) -> None:
        """See what is new now."""
        with self.looking:
            self.sweep.look()
            changed = [job for job, news in self.rest.items() if job.news != news]
            ended = [job for job in changed if job.state not in (WAITING, "running")]
            moment = time.monotonic()
            if changed or self._trouble or moment - self._saved > RENEWAL_SECONDS:
                self._save(moment)
            self.rest |= {job: job.news for job in changed}
            for job in ended:
                # One that was interrupted is still to be trained.
                if job.state != "interrupted":
                    del self.rest[job]
                self._told = moment
                console.print(self.line(job), markup=False)
            if self._live is not None:
                self._live.update(self.view(), refresh=True)
            elif moment - self._told > PLAIN_SECONDS:
                self._told = moment
                console.print(self.summary(), markup=False)

    def line(self, job: Job) -> str:
        """What came of a job."""
        total = len(self.sweep.jobs)
        done = "" if job in self.rest else f"[{total - len(self.rest)}/{total}] "
        return f"{done}{describe(job)}  {self.words[job]}".rstrip()

    def summary(self) -> str:
        """The sweep in a line."""
        states = Counter(job.state for job in self.sweep.jobs)
        running = [job for job in self.sweep.jobs if job.state == "running"]
        parts = [f"{states.total() - len(self.rest)} of {states.total()} done"]
        parts += [
            f"{states[state]} {state}"
            for state in ("running", WAITING, "interrupted", "failed", "diverged")
            if states[state]
        ]
        objective = self.sweep.objective
        values = {job: objective.value(job.entry) for job in self.sweep.jobs if job.record.best}
        known = [job for job, value in values.items() if value is not None]
        if known:
            best = max(known, key=lambda job: objective.gain(values[job]))
            parts.append(f"{objective.title} {objective.told(values[best])} (job {best.number})")
        left = self.left(len(running))
        if left is not None and running:
            parts.append(f"{duration(left)} left")
        if not console.is_terminal:
            parts += [self.whereabouts(job) for job in running[:4]]
        return ", ".join(parts)

    def view(self) -> Group:
        """All that runs, for a terminal."""
        running = [job for job in self.sweep.jobs if job.state == "running"]
        lines = [f"  {self.whereabouts(job)}  {self.words[job]}" for job in running[:20]]
        return Group(
            *(Text(line, no_wrap=True, overflow="ellipsis") for line in (*lines, self.summary()))
        )

    def whereabouts(self, job: Job) -> str:
        """Where a running job is."""
        record, lease = job.record, job.record.lease or {}
        epochs = record.config.get("trainer", {}).get("epochs")
        final = record.final or {"epoch": 0}
        epoch = max(final["epoch"] + (final["epoch"] != epochs), lease.get("epoch", 0))
        told = f"job {job.number} epoch {epoch}/{epochs}"
        if epoch == lease.get("epoch") and lease.get("steps"):
            told += f" {100 * lease['step'] // lease['steps']}%"
        if final.get("val_acc") is not None:
            told += f" at {percent(final['val_acc'])}"
        if lease.get("images_per_second"):
            told += f" {lease['images_per_second']:,.0f} images/s"
        return told

    def left(self, running: int) -> float | None:
        """The seconds that the rest of the sweep will take; None if there is nothing to go by."""
        passed = time.monotonic() - self.begun
        to_train = self._epochs_to_train()
        trained = self.epochs_to_train - to_train
        if trained >= 1:
            return passed / trained * to_train
        estimates = [self.history.seconds(job.planned, job.epochs_to_train) for job in self.rest]
        if not estimates or None in estimates:
            return None
        return max(0.0, sum(estimates) / max(1, running) - passed)

    def _epochs_to_train(self) -> float:
        return sum(job.epochs_to_train for job in self.rest)

    def _watch(self) -> None:
        pause = max(POLL_SECONDS, POLL_SECONDS_A_JOB * len(self.sweep.jobs))
        while not self._over.wait(pause):
            self.look()

    def _save(self, moment: float) -> None:
        try:
            self.sweep.save()
        except OSError as error:
            # A disk that is full now may have room later; what the jobs write is what counts.
            if not self._trouble:
                log.warning(
                    "warning: results.csv and sweep.json can't be written (%s); trying again",
                    error.strerror or error,
                )
            self._trouble = str(error)
        else:
            self._saved, self._trouble = moment, ""
