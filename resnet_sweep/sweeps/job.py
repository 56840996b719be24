"""One job of a sweep: a run that is asked for, and what came of it so far."""

import os
from pathlib import Path

from resnet_sweep.compare.entry import Entry
from resnet_sweep.composition.command import relative
from resnet_sweep.runs.lease import is_held
from resnet_sweep.runs.record import ENDED, Record

# The states of a job that are none of a run: it hasn't begun.
WAITING = "waiting"
# The states of a job that didn't come to what was asked for.
BROKEN = frozenset({"failed", "diverged"})


class Job:
    """A job of a sweep.

    Attributes:
        number: in the sweep; it never changes.
        planned: the record of the run as it is asked for.
        directory: of the run, absolute.
        reused: whether that run was made elsewhere.
        word: its frozen config, once it has one; see `freeze`.
        entry: the run as its directory has it, or as it is planned.
        news: how often there was something new of it.
    """

    def __init__(self, number: int, planned: Record, directory: Path, reused: bool = False) -> None:
        self.number = number
        self.planned = planned
        self.directory = directory
        self.reused = reused
        self.word = ""
        self.entry = Entry(directory, relative(directory), record=planned)
        self.news = 0
        self._seen: tuple[int, ...] | None = None

    @property
    def record(self) -> Record:
        """Of the run, or of the run as it is planned."""
        return self.entry.record or self.planned

    @property
    def state(self) -> str:
        """`waiting`, or the state of the run."""
        return "failed" if self.entry.damage else self.record.state

    @property
    def reason(self) -> str:
        """Why the run isn't simply waiting, running or finished; empty otherwise."""
        return self.entry.damage or self.record.reason

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in ENDED

    @property
    def starts_over(self) -> bool:
        """Whether it is asked to train anew what it has (trainer.resume=false)."""
        return not self.planned.config["trainer"].get("resume", True)

    @property
    def epochs_to_train(self) -> float:
        """How many epochs a job that is to be trained has before it."""
        epochs, record = self.planned.epochs, self.record
        if self.ended:
            # It is to start over, and hasn't yet.
            return epochs
        trained, lease = (record.final or {"epoch": 0})["epoch"], record.lease or {}
        if lease.get("epoch", 0) > trained and lease.get("steps"):
            trained += lease["step"] / lease["steps"]
        return max(0.0, epochs - trained)

    @property
    def held(self) -> bool:
        """Whether a process is at work on the run."""
        return self.state == "running" and is_held(self.directory, self.record.lease)

    def move(self, directory: Path) -> None:
        """Have another directory, in which there is no run yet."""
        self.directory = directory
        self.entry = Entry(directory, relative(directory), record=self.planned)

    def look(self) -> bool:
        """Look into its directory; returns whether that has changed."""
        try:
            status = os.stat(self.directory / "run.json")
        except OSError:
            return False
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen == self._seen:
            return False
        entry = Entry.read(self.directory, relative(self.directory))
        if entry.record is not None and entry.record.signature != self.planned.signature:
            damage = "it is of a run with another configuration"
            entry = Entry(self.directory, relative(self.directory), damage=damage)
        entry = entry.asked(self.planned.choices)
        # What is told of comes before the sign that there is something to tell.
        self.entry, self._seen = entry, seen
        self.news += 1
        return True

    def fail(self, reason: str) -> None:
        """Note that it failed before its run could say so itself."""
        self.news += 1
        self.planned.state, self.planned.reason = "failed", reason
        self.entry = Entry(self.directory, relative(self.directory), record=self.planned)
