"""The epochs that jobs of a sweep share: which job trains them, and where the others continue.

The keys of all jobs form a tree: jobs with equal keys have the same first epochs, and the tree
forks after the last of them. One job trains each epoch of the tree, unless the copies would take
too much space or several jobs have started already. It trains to its own end, and keeps a copy of
its checkpoint at each fork, from which the other jobs start.
"""

import os
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.config.epoch_keys import EpochKeys
from resnet_sweep.runs.provenance import versions
from resnet_sweep.runs.record import PENDING, PatienceRule, SharedEpochs
from resnet_sweep.sweeps.job import Job
from resnet_sweep.training.checkpoint import LAST, kept_copies, kept_copy
from resnet_sweep.training.config import EarlyStopping

# Other versions of these packages can change the bits of a result.
NUMERIC_PACKAGES = ("numpy", "torch")
# For each weight, a copy of a checkpoint contains its value, its value in the best epoch, and up to
# two values of the optimizer, besides the averages of `trainer.ema_decay`.
VALUES_PER_WEIGHT = 4
BYTES_PER_VALUE = 4
# The copies of a sweep may take this part of the free disk space.
DISK_SHARE = 0.25


class Start(NamedTuple):
    """Where a job starts.

    Attributes:
        directory: directory of the run that trains the first epochs.
        epochs: number of these epochs.
        job: the job that has to train them; None if a run has trained them already.
    """

    directory: Path
    epochs: int
    job: Job | None

    @property
    def copy(self) -> Path:
        """The path of the copy of the checkpoint after these epochs."""
        return kept_copy(self.directory / "checkpoints", self.epochs)


class EpochTree:
    """The epochs that are left to train, and the job that trains each of them.

    Args:
        jobs: the jobs that are left to train.
        sweep: all jobs of the sweep.
        keys: the keys of all jobs of the sweep by signature.
        ended: maps the epoch key of a run's last checkpoint to the directory of the run.
        space: the number of bytes that all copies of checkpoints together may take.

    Attributes:
        starts: for each job that continues another run, where it starts.
        kept: for each job that others continue, the epochs after which it keeps a copy.
        stops: for each job, the rules by which jobs that continue it stop early.
        bytes: the estimated space that the copies take.
        restricted: whether jobs share fewer epochs because of `space`.
        requested: number of epochs that would be left to train if no job continued another run.
        to_train: number of epochs that are left to train.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        sweep: Iterable[Job],
        keys: Mapping[str, EpochKeys],
        ended: Mapping[str, Path],
        space: float,
    ) -> None:
        self.jobs, self.sweep, self.keys, self.space = jobs, sweep, keys, space
        self.bytes, self.restricted = 0, False
        self.starts: dict[Job, Start] = {}
        self.kept: dict[Job, set[int]] = {}
        self.stops: dict[Job, list[PatienceRule]] = {}
        groups: dict[str, list[Job]] = {}
        for job in jobs:
            if not job.from_scratch and (found := keys.get(job.planned.signature)):
                groups.setdefault(found.settings, []).append(job)
        starts = {key: Start(directory, 0, None) for key, directory in ended.items()}
        for job in sweep:
            found = keys.get(job.planned.signature)
            started = job.state != PENDING and not (job.reused or job.from_scratch)
            if started and found is not None and found.settings in groups:
                starts |= _kept_starts(job, found)
        with_starts = {key.partition("-")[0] for key in starts}
        for settings, group in groups.items():
            if len(group) > 1 or settings in with_starts:
                self._assign(group, keys, starts)
        # Maps each copy of a checkpoint to the jobs that start from it. Maps each directory to the
        # jobs with patience, which may stop at an earlier epoch and start from its copy.
        self._continued: dict[Path, set[Job]] = {}
        self._list_continued()
        for job in jobs:
            job.shared_epochs = self.starts[job].epochs if job in self.starts else 0
        self.to_train = sum(job.epochs_to_train for job in jobs)
        self.requested = self.to_train + sum(job.shared_epochs for job in jobs)

    def _assign(
        self, group: Sequence[Job], keys: Mapping[str, EpochKeys], starts: Mapping[str, Start]
    ) -> None:
        """Assign the epochs of jobs with equal `EpochKeys.settings`."""
        chains = {job: keys[job.planned.signature].keys for job in group}
        owners: dict[str, Job] = {}

        # A job that has started trains its own epochs in any case. Jobs without patience follow,
        # because no rule stops them before their forks. Longer jobs precede shorter ones, which can
        # fork from them.
        def order(job: Job) -> tuple[bool, bool, int, int]:
            return (not _trained(job), _patience(job) is not None, -len(chains[job]), job.number)

        for job in sorted(group, key=order):
            chain, first = chains[job], _trained(job)
            if not first:
                first = self._start(job, chain, starts, owners)
            for key in chain[first:]:
                owners.setdefault(key, job)

    def _start(
        self,
        job: Job,
        chain: Sequence[str],
        starts: Mapping[str, Start],
        owners: Mapping[str, Job],
    ) -> int:
        """Let a job start after as many epochs of another run as possible; return their number."""
        for epochs in range(len(chain), 0, -1):
            key = chain[epochs - 1]
            if (found := starts.get(key)) is not None:
                self.starts[job] = Start(found.directory, epochs, None)
                return epochs
            owner = owners.get(key)
            if owner is not None and self._keep_copies(owner, epochs, _patience(job)):
                self.starts[job] = Start(owner.directory, epochs, owner)
                return epochs
        return 0

    def _keep_copies(self, job: Job, epochs: int, stop: PatienceRule | None) -> bool:
        """Plan the copies from which another job can start; return False if there is no space.

        Args:
            job: the job that keeps the copies.
            epochs: the epochs that the jobs share.
            stop: the rule by which the other job stops early; None if there is none.
        """
        kept, stops = self.kept.setdefault(job, set()), self.stops.setdefault(job, [])
        keys = self.keys[job.planned.signature]
        # The last checkpoint of a job is kept anyway.
        new_copy = epochs not in kept and epochs != keys.epochs
        new_stop = stop is not None and stop not in stops
        size = (new_copy + new_stop) * _copy_size(job, keys.weights)
        if self.bytes + size > self.space:
            self.restricted = True
            return False
        self.bytes += size
        if new_copy:
            kept.add(epochs)
        if stop is not None and new_stop:
            stops.append(stop)
        return True

    def _list_continued(self) -> None:
        for job, start in self.starts.items():
            self._continued.setdefault(start.copy, set()).add(job)
            if _patience(job) is not None:
                self._continued.setdefault(start.directory, set()).add(job)

    def plan_records(self, jobs: Iterable[Job]) -> None:
        """Set the shared epochs in the planned records of jobs."""
        for job in jobs:
            start, kept = self.starts.get(job), self.kept.get(job, ())
            job.planned.keep_epochs = sorted(kept)
            job.planned.keep_stops = self.stops.get(job, [])
            job.planned.start_from = start and SharedEpochs(
                directory=os.path.relpath(start.directory, job.directory), epochs=start.epochs
            )

    def assign_again(
        self, job: Job, unfinished: Container[Path], waiting: Iterable[Job]
    ) -> list[Job]:
        """Assign epochs again if the job that `job` continues failed before the fork.

        Args:
            unfinished: the directories of the jobs whose work hasn't ended.
            waiting: the jobs that haven't started.

        Returns:
            The jobs whose planned records are changed.
        """
        failed = self.starts[job].job if job in self.starts else None
        if failed is None or failed.ended or failed.directory in unfinished:
            return []
        changed = [
            other
            for other in waiting
            if (start := self.starts.get(other)) and start.job is failed and not start.copy.exists()
        ]
        last = failed.record.epoch_key
        ended = {} if last is None else {last: failed.directory}
        tree = EpochTree(changed, self.sweep, self.keys, ended, self.space - self.bytes)
        self.bytes += tree.bytes
        for other in changed:
            del self.starts[other]
            self.kept.setdefault(other, set()).update(tree.kept.get(other, ()))
            self.stops.setdefault(other, []).extend(tree.stops.get(other, ()))
        self.starts |= tree.starts
        self._list_continued()
        self.plan_records(changed)
        return changed

    def is_ready(self, job: Job, unfinished: Container[Path]) -> bool:
        """Return whether a job can start: its shared epochs are trained, or never will be.

        Args:
            unfinished: the directories of the jobs whose work hasn't ended.
        """
        start = self.starts.get(job)
        if start is None or start.job is None or start.directory not in unfinished:
            return True
        return start.copy.exists()

    def remove_unneeded(self, copy: Path) -> None:
        """Remove a copy of a checkpoint if no job needs it any more."""
        directory = copy.parents[1]
        jobs = (*self._continued.get(copy, ()), *self._continued.get(directory, ()))
        if not any(map(_needs_start, jobs)):
            copy.unlink(missing_ok=True)

    def remove_all_unneeded(self, jobs: Iterable[Job]) -> None:
        """Remove the copies that no job needs any more from the directories of jobs."""
        for job in jobs:
            folder = job.directory / "checkpoints"
            for epoch in kept_copies(folder):
                self.remove_unneeded(kept_copy(folder, epoch))

    @property
    def copies(self) -> int:
        """The largest number of copies of checkpoints that the jobs keep."""
        return sum(map(len, (*self.kept.values(), *self.stops.values())))


def space_for_copies(directory: Path) -> float:
    """Return the number of bytes that the copies of checkpoints in a sweep's directory may take."""
    existing = next(folder for folder in (directory, *directory.parents) if folder.exists())
    return DISK_SHARE * shutil.disk_usage(existing).free


def ended_runs(runs: Iterable[LoadedRun], excluded: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the directories of runs that others can continue, by the key of their last epoch.

    Args:
        runs: runs. Those that haven't ended, that have no last checkpoint, or that were trained
            with other versions of `NUMERIC_PACKAGES` are left out.
        excluded: directories of runs that are left out, too.
    """
    return dict(_ended_runs(runs, {*excluded}))


def find_start(keys: EpochKeys, ended: Mapping[str, Path], directory: Path) -> SharedEpochs | None:
    """Return the first epochs of a run that another run has trained, as many as possible, or None.

    Args:
        keys: the keys of the run.
        ended: the result of `ended_runs`.
        directory: directory of the run.
    """
    if not any(key.startswith(keys.settings) for key in ended):
        return None
    for epochs, key in reversed([*enumerate(keys.keys, start=1)]):
        if (found := ended.get(key)) is not None and found != directory:
            return SharedEpochs(directory=os.path.relpath(found, directory), epochs=epochs)
    return None


def _ended_runs(runs: Iterable[LoadedRun], excluded: set[Path]) -> Iterator[tuple[str, Path]]:
    current = versions()
    for run in runs:
        record = run.record
        directory = Path(os.path.abspath(run.directory))
        if record.epoch_key is None or not record.has_ended or directory in excluded:
            continue
        if any(record.versions.get(name) != current[name] for name in NUMERIC_PACKAGES):
            continue
        if (directory / "checkpoints" / LAST).exists():
            yield record.epoch_key, directory


def _kept_starts(job: Job, keys: EpochKeys) -> dict[str, Start]:
    """Return the starts from the copies of a job's checkpoints, by the keys of their epochs."""
    epochs = kept_copies(job.directory / "checkpoints")
    # The keys are computed only if there are copies.
    return {
        keys.keys[epoch - 1]: Start(job.directory, epoch, None)
        for epoch in epochs
        if epoch <= keys.epochs
    }


def _patience(job: Job) -> PatienceRule | None:
    """Return the rule by which a job stops early because of its metrics; None if there is none."""
    settings = job.planned.config["trainer"].get("early_stopping") or {}
    if settings.get("patience") is None:
        return None
    default = EarlyStopping()
    return PatienceRule(
        patience=settings["patience"],
        metric=settings.get("metric", default.metric),
        min_delta=settings.get("min_delta", default.min_delta),
    )


def _copy_size(job: Job, weights: int) -> int:
    """Estimate how many bytes a copy of the checkpoint of a job with so many weights takes."""
    decays = job.planned.config["trainer"].get("ema_decay")
    averages = len(decays) if isinstance(decays, list) else int(decays is not None)
    values = VALUES_PER_WEIGHT + averages
    return BYTES_PER_VALUE * values * weights


def _needs_start(job: Job) -> bool:
    """Return whether a job hasn't ended and has no checkpoint of its own yet."""
    return not (job.ended or (job.directory / "checkpoints" / LAST).exists())


def _trained(job: Job) -> int:
    """Return the number of epochs that a job has completed, including shared ones."""
    return job.record.final["epoch"] if job.record.final else 0
