"""The deletion of runs, so that the sweeps that list them stay consistent."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from resnet_sweep.compare.collection import LOGGED_RUNS
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, load_run, metrics_of
from resnet_sweep.compare.objective import Objective
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import is_held
from resnet_sweep.runs.record import PENDING
from resnet_sweep.runs.run import delete_run
from resnet_sweep.sweeps.job import Job
from resnet_sweep.sweeps.manifest import MANIFEST, Manifest, locked_sweep, write_results

# st_blocks counts blocks of this size, whatever the file system uses.
BLOCK_BYTES = 512


class Deletion:
    """Runs to delete, and the sweeps that list them.

    Args:
        runs: the runs.
        others: runs that may be copies of these, see `Record.reused_from`.

    Attributes:
        size: the space that the runs take on the disk, in bytes.
        sweeps: for each sweep directory, the directories of its jobs that are to be deleted.
        copies: the other runs that are copies of one of the runs. They keep their results, but
            their weights are deleted.

    Raises:
        ConfigError: one of the runs is running, or is part of this package; or a sweep that lists
            one of them is running or can't be changed.
    """

    def __init__(
        self, runs: Sequence[LoadedRun], others: Iterable[LoadedRun | BrokenRun] = ()
    ) -> None:
        self.runs = {Path(os.path.realpath(run.directory)): run for run in runs}
        for run in runs:
            if run.directory.parent == LOGGED_RUNS:
                raise ConfigError(f"{run.name} is part of this package and can't be deleted")
            if run.state == "running" or is_held(run.directory, run.record.heartbeat):
                raise ConfigError(
                    f"{safe_text(run.name)} is running, so nothing is deleted: wait until it ends, "
                    "or add --filter 'state != \"running\"'"
                )
        self.size = sum(map(disk_space, self.runs))
        self.copies = [
            run
            for run in others
            if isinstance(run, LoadedRun)
            and run.record.reused_from is not None
            and Path(os.path.realpath(run.record.reused_from)) in self.runs
            and Path(os.path.realpath(run.directory)) not in self.runs
        ]
        self.sweeps: defaultdict[Path, set[Path]] = defaultdict(set)
        parents = {parent for directory in self.runs for parent in directory.parents}
        for sweep in sorted(filter(_is_sweep, parents)):
            for entry in Manifest.read(sweep).jobs:
                directory = Path(os.path.realpath(sweep / entry.directory))
                if directory in self.runs:
                    self.sweeps[sweep].add(directory)
        for sweep in self.sweeps:
            with _refuse_running(sweep):
                pass

    def carry_out(self) -> tuple[int, list[str]]:
        """Delete the runs; return the number of runs that couldn't be deleted, and remarks.

        In each sweep, `sweep.json` lists the deleted jobs as pending, so that the same command
        trains them again. `results.csv` has no row for them. A study keeps the results of its
        trials in its storage.
        """
        remarks, failed = [], 0
        with contextlib.ExitStack() as locks:
            for sweep in self.sweeps:
                locks.enter_context(_refuse_running(sweep))
            for directory, run in self.runs.items():
                try:
                    others = delete_run(directory, run.record)
                except ConfigError as error:
                    remarks.append(safe_text(str(error)))
                    failed += 1
                else:
                    if others:
                        remarks.append(
                            f"the folder {safe_text(run.name)} stays, because it contains other "
                            f"files: {safe_text(', '.join(others))}"
                        )
            for sweep, directories in self.sweeps.items():
                _update(sweep, directories)
        return failed, remarks


def disk_space(directory: Path) -> int:
    """Return the space that the files in a directory take on the disk, in bytes."""
    total = 0
    for folder, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                status = os.lstat(os.path.join(folder, name))
                # Windows has no st_blocks.
                total += getattr(status, "st_blocks", -(-status.st_size // BLOCK_BYTES))
    return total * BLOCK_BYTES


def _is_sweep(directory: Path) -> bool:
    return (directory / MANIFEST).is_file()


def _is_study(manifest: Manifest) -> bool:
    return "study" in (manifest.definition.model_extra or {})


@contextlib.contextmanager
def _refuse_running(sweep: Path) -> Iterator[None]:
    """Lock a sweep within a `with` block.

    Raises:
        ConfigError: a process runs the sweep, a worker of the study trains a run, or the directory
            can't be written to.
    """
    error = ConfigError(
        f"{safe_text(str(sweep))} is running and has one of the runs, so nothing is deleted: wait "
        "until it ends"
    )
    manifest = Manifest.read(sweep)
    if _is_study(manifest):
        runs = (load_run(sweep / entry.directory, "") for entry in manifest.jobs)
        if any(run.state == "running" for run in runs):
            raise error
    with contextlib.ExitStack() as lock:
        try:
            lock.enter_context(locked_sweep(sweep))
        except ConfigError:
            raise error from None
        except OSError as cause:
            raise ConfigError(
                f"{safe_text(str(sweep))} can't be changed ({cause.strerror or cause}), so nothing "
                "is deleted: make it writable"
            ) from cause
        yield


def _update(sweep: Path, deleted: Iterable[Path]) -> None:
    """Write the `sweep.json` and the `results.csv` of a sweep after the deletion of some runs."""
    manifest = Manifest.read(sweep)
    if _is_study(manifest):
        return
    gone = {directory for directory in deleted if not (directory / "run.json").exists()}
    jobs, entries = [], []
    for entry in manifest.jobs:
        directory = Path(os.path.realpath(sweep / entry.directory))
        if directory in gone:
            reset = {"state": PENDING, "value": None, "reason": "", "reused": False}
            entries.append(entry.model_copy(update=reset))
            continue
        entries.append(entry)
        run = load_run(sweep / entry.directory, entry.directory)
        if not isinstance(run, BrokenRun):
            job = Job(entry.number, run.record, run.directory)
            job.run = run
            jobs.append(job)
    runs = [job.run for job in jobs]
    try:
        objective = Objective.from_config(manifest.definition.settings, metrics_of(runs))
    except ConfigError:
        # The reference of the objective may have been removed.
        objective = Objective()
    manifest.model_copy(update={"jobs": entries}).write(sweep)
    write_results(sweep, jobs, objective)
