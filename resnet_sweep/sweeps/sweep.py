"""A sweep that this process is at work on: its directory, its jobs and its lease."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from resnet_sweep.compare.objective import Objective
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.files import remove_unfinished, write_atomically
from resnet_sweep.runs.lease import SWEEP_LOCK, Lease, in_use, lease_entry
from resnet_sweep.runs.run import make_directory
from resnet_sweep.sweeps import ledger, results
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.plan import Plan

# As Hydra's sweepers write it.
MULTIRUN = "multirun.yaml"


class Sweep:
    """A sweep directory that this process may write into.

    What it says of a job is taken from the job's own directory, wherever the job is carried out.

    Args:
        plan: of the sweep.
        definition: what `sweep.json` says of it beside its jobs' settings.
        multirun: the content of `multirun.yaml`.

    Raises:
        RequestError: another process is at work on the sweep, or its directory can't be used.
    """

    def __init__(self, plan: Plan, definition: Mapping[str, Any], multirun: str) -> None:
        self.directory: Path = plan.directory
        self.jobs: list[Job] = plan.jobs
        self.objective: Objective = plan.objective
        self._planned_with = plan.ledger
        common, self._settings = ledger.split_settings(self.jobs)
        self._definition, self._multirun = {**definition, "settings": common}, multirun
        self._writing = threading.RLock()
        # By what a launcher tells of a job that has ended: its directory.
        self._by_directory = {job.directory: job for job in self.jobs}

    def __enter__(self) -> Self:
        make_directory(self.directory)
        held = ledger.Ledger.read(self.directory).lease
        self._lease = Lease(self.directory, held, SWEEP_LOCK)
        try:
            now = ledger.Ledger.read(self.directory)
            if self._lease.contradicts(now.lease):
                raise in_use(self.directory, now.lease, SWEEP_LOCK)
            self._planned_with.check_unchanged(now, self.directory)
            remove_unfinished(self.directory, ledger.NAME, results.NAME, MULTIRUN)
            write_atomically(self.directory / MULTIRUN, self._multirun.encode())
            self.save()
        except OSError as error:
            self._lease.release()
            raise RequestError(
                f"the directory {self.directory} can't be used ({error.strerror or error}): mend "
                "that, or choose another with hydra.sweep.dir=DIRECTORY"
            ) from error
        except BaseException:
            self._lease.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.save(ended=True)
        finally:
            self._lease.release()

    def look(self) -> list[Job]:
        """Look at the jobs that aren't at their end; returns those of which there is news."""
        open_ended = (job for job in self.jobs if not job.ended or job.starts_over)
        return [job for job in open_ended if job.look()]

    def job_in(self, directory: Path) -> Job | None:
        """The job with a directory."""
        return self._by_directory.get(Path(os.path.abspath(directory)))

    def save(self, ended: bool = False) -> None:
        """Write `results.csv` and `sweep.json`.

        Args:
            ended: whether this process is done with the sweep.
        """
        with self._writing:
            results.write(self.directory, self.jobs, self.objective)
            ledger.write(
                self.directory,
                self.jobs,
                self._settings,
                [self.objective.value(job.entry) for job in self.jobs],
                self._definition,
                None if ended else lease_entry(),
            )
