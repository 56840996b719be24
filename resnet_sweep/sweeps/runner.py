"""A sweep that this process runs: from its plan to the table of its outcome."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Self

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.loaded_run import load_run
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.command import command, relative
from resnet_sweep.config.compose import flags_of, is_named_by_time, overrides_of, unresolved
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.jobs import LOG, train_job
from resnet_sweep.runs.files import remove_unfinished, write_atomically
from resnet_sweep.runs.lock import SWEEP_LOCK, DirectoryLock, in_use
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import PENDING, new_heartbeat
from resnet_sweep.runs.run import (
    make_directory,
    make_unique_directory,
    mark_failed,
    reset_run,
    write_plan,
)
from resnet_sweep.sweeps.job import BROKEN, Job
from resnet_sweep.sweeps.launchers import Launcher, build_launcher
from resnet_sweep.sweeps.manifest import (
    MANIFEST,
    MULTIRUN,
    RESULTS,
    Manifest,
    manifest_of,
    write_results,
)
from resnet_sweep.sweeps.plan import Plan, check_unchanged, plan_sweep
from resnet_sweep.sweeps.progress import Progress
from resnet_sweep.sweeps.summary import print_plan, print_summary, summarize_plan
from resnet_sweep.training.signals import INTERRUPTED, exit_status
from resnet_sweep.training.torchrun import Torchrun

# How often to see whether a job that another process trains has ended.
HELD_SECONDS = 0.5


def run_sweep(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> int:
    """Plan a sweep and train its jobs, or print its plan in a dry run.

    Args:
        context: of Hydra's.
        config: of the sweep as a whole.
        overrides: some with several values.

    Returns:
        The exit status.

    Raises:
        ConfigError: the sweep can't be started; nothing was written.
        SystemExit: it was stopped from outside; the state of what ran is saved.
    """
    check_sweep(config)
    new = is_named_by_time(config.hydra.sweep)
    directory = Path(os.path.abspath(config.hydra.sweep.dir))
    with terminable():
        plan = plan_sweep(context.config_loader, config, directory, new, overrides)
    if config.dry_run:
        print_plan(plan)
        return 0
    console.print(summarize_plan(plan, config.retry_failed), markup=False)
    runner = SweepRunner(plan, config, context)
    if new:
        runner.move(new_sweep_directory(config))
    return runner.run()


def check_sweep(config: DictConfig) -> None:
    """Refuse what only a single run can have.

    Raises:
        ConfigError: several processes share the command, or it names the directory of a run.
    """
    torchrun = Torchrun.here()
    if torchrun is not None and torchrun.size > 1:
        raise ConfigError(
            f"torchrun started {torchrun.size} processes for a sweep, which they can't share: "
            "start it without torchrun (hydra/launcher=pool gives each GPU a run), or one of its "
            "runs with it"
        )
    for override in overrides_of(config.hydra, "hydra"):
        if override.lstrip("+").startswith("hydra.run.dir="):
            raise ConfigError(
                f"{override} is the directory of a single run, but this is a sweep: name its "
                "directory with hydra.sweep.dir"
            )


def new_sweep_directory(config: DictConfig) -> Path:
    """Make the directory of a sweep that is named by the time, under a name that none has yet.

    Raises:
        ConfigError: it can't be made.
    """
    directory = make_unique_directory(Path(os.path.abspath(config.hydra.sweep.dir)))
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir = str(directory)
    return directory


class SweepRunner:
    """Trains what is left of a sweep, in the sweep's directory, which it locks.

    Args:
        plan: of the sweep.
        config: of the sweep as a whole.
        context: of Hydra's.

    Raises:
        ConfigError: there can't be such a launcher here.
    """

    def __init__(self, plan: Plan, config: DictConfig, context: HydraContext) -> None:
        self.plan, self.config = plan, config
        self.jobs: list[Job] = plan.jobs
        self.retry_failed = config.retry_failed
        self._writing = threading.RLock()
        self.launcher: Launcher = build_launcher(context, config, self._launcher_overrides)
        self._by_directory = {job.directory: job for job in self.jobs}

    def move(self, directory: Path) -> None:
        """Have another directory, in which there is nothing yet."""
        self.plan.move(directory)
        self._by_directory = {job.directory: job for job in self.jobs}

    @property
    def objective(self) -> Objective:
        """What the jobs are judged by."""
        return self.plan.objective

    @property
    def directory(self) -> Path:
        """The directory of the sweep, absolute."""
        return self.plan.directory

    def command(self) -> str:
        """Return the command that resumes the sweep."""
        return resume_command(self.config, self.directory)

    def run(self) -> int:
        """Train what is left to train.

        Returns:
            The exit status.

        Raises:
            ConfigError: the sweep's directory can't be used, or is in use.
            SystemExit: it was stopped from outside; the state of what ran is saved.
        """
        with self, terminable():
            console.print(f"Sweep directory: {relative(self.directory)}", markup=False)
            to_train = self.plan.to_train(self.retry_failed)
            self._write_jobs(to_train)
            error, stopped = None, None
            with Progress(self, to_train, self.plan.cache) as progress:
                self.progress = progress
                try:
                    error = self._launch_all(to_train)
                except (KeyboardInterrupt, SystemExit) as stop:
                    stopped = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else stop.code
            if stopped is not None:
                done = sum(job.ended for job in self.jobs)
                console.print(
                    f"stopped; {done} of {len(self.jobs)} jobs are done. Resume with:\n"
                    f"  {self.command()}",
                    markup=False,
                )
                raise SystemExit(stopped)
            return self._print_end(error)

    def __enter__(self) -> Self:
        make_directory(self.directory)
        self._lock = DirectoryLock(
            self.directory, Manifest.read(self.directory).heartbeat, SWEEP_LOCK
        )
        try:
            now = Manifest.read(self.directory)
            if self._lock.contradicts(now.heartbeat):
                raise in_use(self.directory, now.heartbeat, SWEEP_LOCK)
            check_unchanged(self.plan.manifest, self.directory)
            remove_unfinished(self.directory, MANIFEST, RESULTS, MULTIRUN)
            text = OmegaConf.to_yaml(self.config)
            write_atomically(self.directory / MULTIRUN, text.encode())
            self.save()
        except OSError as error:
            self._lock.release()
            raise ConfigError(
                f"the directory {self.directory} can't be used ({error.strerror or error}): make "
                "it writable, or choose another with hydra.sweep.dir=DIRECTORY"
            ) from error
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self.save(ended=True)
        finally:
            self._lock.release()

    def save(self, ended: bool = False) -> None:
        """Write `results.csv` and `sweep.json`.

        Args:
            ended: whether this process is done with the sweep.
        """
        objective = self.plan.objective
        definition = {"command": self.command(), "baseline": self.config.baseline}
        heartbeat = None if ended else new_heartbeat()
        with self._writing:
            write_results(self.directory, self.jobs, objective)
            manifest_of(self.jobs, self.directory, objective, definition, heartbeat).write(
                self.directory
            )

    def _write_jobs(self, jobs: Sequence[Job]) -> None:
        """Write the directories of the jobs that are to be trained."""
        asked = {job.directory for job in jobs}
        for entry in self.plan.manifest.jobs:
            directory = Path(os.path.abspath(self.directory / entry.directory))
            if not entry.reused and directory not in asked:
                _remove_pending(directory)
        hydra = unresolved(self.config.hydra)
        for job in jobs:
            # Another process may have started it since it was planned.
            job.look()
            if job.held:
                continue
            if job.starts_over:
                reset_run(job.directory, job.planned)
            write_plan(job.directory, job.planned)
            choices = {**hydra["runtime"]["choices"], **job.planned.choices}
            runtime = {"choices": choices, "output_dir": str(job.directory)}
            subdirectory = os.path.relpath(job.directory, self.directory)
            own = {
                **hydra,
                "job": job.hydra,
                "overrides": {**hydra["overrides"], "task": job.planned.overrides},
                "sweep": {**hydra["sweep"], "dir": str(self.directory), "subdir": subdirectory},
                "runtime": {**hydra["runtime"], **runtime},
            }
            write_hydra_folder(job.directory, job.planned.config, own, job.planned.overrides)
            job.look()

    def _launcher_overrides(self, directory: Path) -> list[str]:
        """Return the overrides with which a launcher of Hydra's composes a job."""
        # Hydra refuses a job whose sweeper, which a preset may choose, isn't the sweep's.
        preset = [word for word in overrides_of(self.config.hydra) if word.startswith("sweep=")]
        return [*preset, *self._by_directory[directory].planned.overrides]

    def _launch_all(self, jobs: Sequence[Job]) -> str | None:
        """Train jobs; those that another process is training, when it has ended.

        Returns:
            Why the launcher failed; None if it didn't.
        """
        rest, printed = list(jobs), set()
        while rest:
            free = {job: job.changes for job in rest if not job.held}
            if error := self._launch([*free]):
                return error
            # A job is interrupted when only its process was stopped, and not the sweep.
            rest = [job for job in rest if job.state in ("running", "interrupted")]
            # A job whose record didn't change can't be trained where it was launched.
            rest = [job for job in rest if job.held or job.changes != free.get(job)]
            for job in rest:
                if job.held and job not in printed and (holder := job.record.heartbeat):
                    printed.add(job)
                    console.print(
                        f"waiting for job {job.number}, which process {holder['process']} on "
                        f"{shown(holder['host'])} is training",
                        markup=False,
                    )
            if rest and all(job.held for job in rest):
                time.sleep(HELD_SECONDS)
                self.progress.look()
        return None

    def _launch(self, jobs: Sequence[Job]) -> str | None:
        if not jobs:
            return None
        error = None
        try:
            self.launcher.launch(train_job, [job.directory for job in jobs], LOG, self._on_end)
        # A launcher can fail in any way, with its jobs in any state.
        except Exception as failure:
            error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
        with self.progress.looking:
            self.progress.look()
            for job in jobs:
                if job.state == "running" and not job.held:
                    mark_failed(job.directory, "its process exited without reporting a result")
            self.progress.look()
        return error

    def _on_end(self, directory: Path, reason: str | None) -> None:
        if reason is not None:
            mark_failed(directory, reason)
        self.progress.look([self._by_directory[directory]])

    def _print_end(self, error: str | None) -> int:
        """Print the outcome of all jobs; return the exit status."""
        print_summary(self.jobs, self.progress.words, self.plan.baseline, self.plan.objective)
        broken = [job for job in self.jobs if job.state in BROKEN]
        pending = [job for job in self.jobs if not job.ended and job not in broken]
        if error:
            console.print(
                f"\nthe launcher failed ({shown(error)}); {len(pending)} jobs are pending",
                markup=False,
            )
        if pending or any(job.state == "failed" for job in broken):
            what = "Run the pending jobs" if pending else "Retry the failed jobs"
            console.print(f"{what} with:\n  {self.command()}", markup=False)
        return int(bool(broken or pending or error))


def resume_command(config: DictConfig, directory: Path) -> str:
    """Return the command that resumes a sweep or a study.

    Args:
        config: of the sweep as a whole.
        directory: of the sweep.
    """
    # Leaving out what failed, or starting over, was asked for once.
    once = ("dry_run=", "retry_failed=", "trainer.resume=", "hydra.mode=", "hydra.sweep.dir=")
    words = [*overrides_of(config.hydra), *overrides_of(config.hydra, "hydra")]
    words = [word for word in words if not word.lstrip("+").startswith(once)]
    return command([*flags_of(config.hydra), "--multirun", *words], "hydra.sweep.dir", directory)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM and the hang-up of a terminal raise SystemExit, within a `with` block.

    A job that runs in this process handles them itself.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(exit_status(number))

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_pending(directory: Path) -> None:
    """Remove the directory of a job that was planned, never started, and isn't asked for now."""
    if load_run(directory, "").state == PENDING:
        shutil.rmtree(directory, ignore_errors=True)
