"""A job of a sweep: a planned run, and its state in its directory."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run
from resnet_sweep.config.command import relative_path
from resnet_sweep.runs.lock import is_held
from resnet_sweep.runs.record import ENDED, Record
from resnet_sweep.runs.run import reused_record

# The states of a job that needs attention.
BROKEN = frozenset({"failed", "diverged"})


class Job:
    """A job of a sweep; its number never changes.

    Args:
        planned: the record of the run, in state `pending`.
        directory: the run directory, as an absolute path.
        hydra: the parts of the `hydra` node in which the job's config differs from the sweep's.

    Attributes:
        source: the directory of a complete run that the job is going to reuse, or None.
        from_scratch: whether the run has to start at its first epoch (`trainer.resume=false`, or
            `reuse=false` if it was reused).
        shared_epochs: number of epochs that another run trains for this job.
        other_code: a complete run that differs only in its own code, so it isn't reused; or None.
        run: the run in the directory, or the planned run if there is none.
        error: the reason if the directory can't be read, or None.
        last_stat: identifies the content of the record that was read last.
    """

    def __init__(
        self, number: int, planned: Record, directory: Path, hydra: Mapping[str, Any] | None = None
    ) -> None:
        self.number, self.planned, self.directory = number, planned, directory
        self.hydra = hydra or {}
        self.source: Path | None = None
        self.from_scratch = not planned.config["trainer"].get("resume", True)
        self.shared_epochs = 0
        self.other_code: LoadedRun | None = None
        self.run = LoadedRun(directory, relative_path(directory), planned)
        self.error: str | None = None
        self.last_stat: tuple[int, ...] | None = None

    @property
    def record(self) -> Record:
        """The record in the directory, or the planned one."""
        return self.run.record

    @property
    def state(self) -> str:
        """The state of the run."""
        return "failed" if self.error else self.record.state

    @property
    def reason(self) -> str:
        """The reason for a state other than pending, running and finished; otherwise empty."""
        return self.error or self.record.reason

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state in ENDED

    @property
    def reused(self) -> bool:
        """Whether the run was trained in another directory."""
        return self.record.reused_from is not None

    @property
    def epochs_to_train(self) -> float:
        """The number of epochs that are left to train."""
        epochs, record = self.planned.epochs, self.record
        # A job that has ended is only trained if it starts from scratch.
        if self.ended or self.from_scratch:
            return epochs
        trained: float = record.final["epoch"] if record.final else self.shared_epochs
        progress = record.heartbeat
        if progress and progress.get("epoch", 0) > trained and progress.get("steps"):
            trained += progress["step"] / progress["steps"]
        return max(0.0, epochs - trained)

    @property
    def held(self) -> bool:
        """Whether a process is training the run."""
        return self.state == "running" and is_held(self.directory, self.record.heartbeat)

    def reuse(self, other: LoadedRun) -> None:
        """Use the results of a complete run in another directory; see `copy_results`."""
        self.source = other.directory
        record = reused_record(self.planned, other.record, other.directory)
        self.run = LoadedRun(other.directory, self.run.name, record)

    def refresh(self) -> bool:
        """Read the record in the directory if it has changed; return whether it has."""
        try:
            status = os.stat(self.directory / "run.json")
        except OSError:
            return False
        stat = (status.st_ino, status.st_mtime_ns, status.st_size)
        if stat == self.last_stat:
            return False
        found, error = load_run(self.directory, self.run.name), None
        run = LoadedRun(self.directory, self.run.name, self.planned)
        if isinstance(found, BrokenRun):
            error = found.error
        elif found.record.signature != self.planned.signature:
            error = "it contains a run with another configuration"
        else:
            # Different choices can compose the same config. The sweep shows its own choices.
            run.record = replace(found.record, choices=self.planned.choices)
        # `last_stat` is set last, so that a thread that sees its new value also sees the new run.
        self.run, self.error = run, error
        self.last_stat = stat
        return True
