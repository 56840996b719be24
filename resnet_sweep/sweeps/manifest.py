"""The files of a sweep directory: `sweep.json` lists the jobs, `results.csv` their results."""

import contextlib
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.diff_columns import MISSING, variants
from resnet_sweep.compare.group import COMPLETE, Statistic, group_replicates
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.lock import SWEEP_LOCK, DirectoryLock, in_use_error
from resnet_sweep.runs.record import PENDING
from resnet_sweep.runs.signature import flatten, format_setting
from resnet_sweep.sweeps.job import Job

MANIFEST, RESULTS_CSV, MULTIRUN = "sweep.json", "results.csv", "multirun.yaml"


class JobEntry(BaseModel):
    """A job in `sweep.json`.

    Attributes:
        directory: the run directory, relative to the sweep directory.
        reused: whether the run was trained in another directory.
        state, value, reason: the state of the run, the value of its objective, and the reason for
            the state, when the file was written.
        settings: the settings by dotted name, without the settings that all jobs have in common.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    number: int
    overrides: list[str]
    signature: str
    directory: str
    reused: bool = False
    state: str = PENDING
    value: float | None = None
    reason: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class SweepDefinition(BaseModel):
    """The part of `sweep.json` about the sweep as a whole; a study has additional keys.

    Attributes:
        settings: the settings that all jobs have in common, by dotted name.
    """

    model_config = ConfigDict(strict=True, extra="allow")

    command: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)


class Manifest(BaseModel):
    """The content of `sweep.json`.

    Attributes:
        jobs: the jobs in the order of their numbers.
        heartbeat: the process that runs the sweep; None after the end of the sweep.
    """

    model_config = ConfigDict(strict=True)

    definition: SweepDefinition = Field(default_factory=SweepDefinition)
    jobs: list[JobEntry] = Field(default_factory=list)
    heartbeat: dict[str, Any] | None = None

    @classmethod
    def read(cls, directory: Path) -> "Manifest":
        """Read a valid `sweep.json`, or else list the runs; ConfigError for a run directory."""
        try:
            return cls.model_validate_json((directory / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            if (directory / "run.json").exists():
                raise ConfigError(
                    f"{directory} contains a run, and not a sweep: choose another hydra.sweep.dir"
                ) from None
        except (ValidationError, OSError):
            # The directories of the jobs contain the same information.
            pass
        return cls(jobs=_find_jobs(directory))

    def write(self, directory: Path) -> None:
        """Write `sweep.json`."""
        write_atomically(directory / MANIFEST, self.model_dump_json(indent=1).encode() + b"\n")


@contextlib.contextmanager
def locked_sweep(directory: Path) -> Iterator[None]:
    """Lock a sweep directory within a `with` block.

    Raises:
        ConfigError: another process uses the directory.
    """
    lock = DirectoryLock(directory, Manifest.read(directory).heartbeat, SWEEP_LOCK)
    try:
        heartbeat = Manifest.read(directory).heartbeat
        if lock.contradicts(heartbeat):
            raise in_use_error(directory, heartbeat, SWEEP_LOCK)
        yield
    finally:
        lock.release()


def write_manifest(
    directory: Path,
    jobs: Sequence[Job],
    objective: Objective,
    definition: Mapping[str, Any],
    heartbeat: Mapping[str, Any] | None,
) -> None:
    """Write the `sweep.json` of a grid; see `SweepDefinition` and `Manifest`."""
    flat = [dict(flatten(job.planned.config)) for job in jobs]
    common = {
        name: value
        for name, value in flat[0].items()
        if all(name in settings and settings[name] == value for settings in flat)
    }
    entries = [
        JobEntry(
            number=job.number,
            overrides=job.planned.overrides,
            signature=job.planned.signature,
            directory=os.path.relpath(job.directory, directory),
            reused=job.reused,
            state=job.state,
            value=objective.value(job.run),
            reason=job.reason,
            settings={name: settings[name] for name in settings if name not in common},
        )
        for job, settings in zip(jobs, flat, strict=True)
    ]
    manifest = Manifest(
        definition=SweepDefinition(**{**definition, "settings": common}),
        jobs=entries,
        heartbeat=None if heartbeat is None else dict(heartbeat),
    )
    manifest.write(directory)


def write_results(directory: Path, jobs: Sequence[Job], objective: Objective) -> None:
    """Write `results.csv`, a row for every job, ordered by number.

    Accuracies are in percent. The last columns are the mean, the sample standard deviation and the
    number n of the objective's values, over all complete replicates of the job.
    """
    runs = [job.run for job in jobs]
    columns = variants(runs, seed=True)
    statistics: dict[object, Statistic | None] = {}
    for group in group_replicates(runs):
        values = (objective.value(run) for run in group.counted if run.state in COMPLETE)
        statistics |= dict.fromkeys(group.runs, Statistic.from_values(values))
    extra = [] if objective.name == "val_acc" else [objective.name]
    header = ["number", "state", "directory", "best_val_acc", "final_val_acc", "seconds"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, *extra, *columns, "mean", "sd", "n"])
    for index, job in enumerate(jobs):
        settings = (values[index] for values in columns.values())
        writer.writerow(
            [
                job.number,
                job.state,
                os.path.relpath(job.directory, directory),
                job.run.best_accuracy,
                job.run.final_accuracy,
                job.record.seconds or None,
                *(objective.value(job.run) for _ in extra),
                *("" if value is MISSING else format_setting(value) for value in settings),
                *(statistics[job.run] or (None, None, 0)),
            ]
        )
    write_atomically(directory / RESULTS_CSV, text.getvalue().encode())


def _find_jobs(directory: Path) -> list[JobEntry]:
    """Return the runs whose paths in a directory begin with a number, as jobs."""
    jobs = []
    for run in find_runs([directory]) if directory.is_dir() else ():
        place = os.path.relpath(run.directory, directory)
        number = Path(place).parts[0]
        if isinstance(run, LoadedRun) and number.isdecimal():
            jobs.append(
                JobEntry(
                    number=int(number),
                    signature=run.record.signature,
                    overrides=run.record.overrides,
                    directory=place,
                    state=run.record.state,
                    settings=run.config,
                )
            )
    return jobs
