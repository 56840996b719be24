"""Run a sweep, from its plan to the table of results.

In this module, `config` is the composed config of the whole sweep, with the node `hydra`.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.loaded_run import BrokenRun, load_run
from resnet_sweep.config.command import format_command, relative_path
from resnet_sweep.config.compose import (
    is_named_by_time,
    read_hydra_flags,
    read_overrides,
    unresolved,
)
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.jobs import train_job
from resnet_sweep.runs.files import (
    missing_folders,
    remove_empty,
    remove_unfinished,
    write_atomically,
)
from resnet_sweep.runs.lock import SWEEP_LOCK, in_use_error, is_held
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import HEARTBEAT_SECONDS, PENDING, new_heartbeat
from resnet_sweep.runs.run import (
    LOG,
    copy_results,
    delete_run,
    make_directory,
    make_unique_directory,
    mark_failed,
    reset_run,
    write_plan,
)
from resnet_sweep.sweeps.grid import expand, find_repeated, parse_zip
from resnet_sweep.sweeps.job import BROKEN, Job
from resnet_sweep.sweeps.launchers import Launcher, build_launcher
from resnet_sweep.sweeps.manifest import (
    MANIFEST,
    MULTIRUN,
    RESULTS_CSV,
    locked_sweep,
    write_manifest,
    write_results,
)
from resnet_sweep.sweeps.plan import SweepPlan, sweep_settings, track_jobs
from resnet_sweep.sweeps.progress import SweepProgress
from resnet_sweep.sweeps.summary import print_looks, print_plan, print_summary, summarize_plan
from resnet_sweep.torchrun import TorchrunEnvironment
from resnet_sweep.training.signals import INTERRUPTED, exit_status

# Seconds between two checks of a job that another process trains.
HELD_SECONDS = 0.5


def run_sweep(context: HydraContext, config: DictConfig, overrides: Sequence[str]) -> int:
    """Plan a sweep and train its jobs, or only print the plan in a dry run.

    Args:
        context: the HydraContext that Hydra passes to the sweeper.
        config: the config of the whole sweep.
        overrides: the overrides of the command. An override may list several values.

    Returns:
        The exit status.

    Raises:
        ConfigError: the sweep can't be started; nothing was written.
        SystemExit: a signal stopped the sweep; the state of the running jobs is saved.
    """
    check_sweep(config)
    made: list[Path] = []
    with terminable():
        try:
            if is_named_by_time(config.hydra.sweep) and not config.dry_run:
                parents = missing_folders(Path(config.hydra.sweep.dir).parent)
                made = [new_sweep_directory(config), *parents]
            directory = Path(os.path.abspath(config.hydra.sweep.dir))
            pairs = parse_zip(sweep_settings(config)["zip"])
            combinations = expand(overrides, pairs, context.config_loader)
            plan = SweepPlan(context.config_loader, config, directory, combinations)
            plan.repeated = find_repeated(overrides, context.config_loader)
            if config.dry_run:
                print_plan(plan, config.retry_failed)
                return 0
            return SweepRunner(plan, config, context).run()
        finally:
            remove_empty(made)


def check_sweep(config: DictConfig) -> None:
    """Raise an error for settings that a sweep can't have.

    Raises:
        ConfigError: torchrun started several processes, `hydra.run.dir` is set, or there is a file
            at the path of the sweep directory.
    """
    torchrun = TorchrunEnvironment.current()
    if torchrun is not None and torchrun.world_size > 1:
        raise ConfigError(
            f"torchrun started {torchrun.world_size} processes, but a sweep can't be shared: start "
            "it without torchrun (hydra/launcher=pool trains a run on every GPU), or start a "
            "single run"
        )
    directory = Path(os.path.abspath(config.hydra.sweep.dir))
    for place in (directory, *directory.parents):
        if os.path.exists(place) and not place.is_dir():
            raise ConfigError(
                f"hydra.sweep.dir={config.hydra.sweep.dir} can't be a directory, because {place} "
                "is a file: choose another one"
            )
    for override in read_overrides(config.hydra, "hydra"):
        if override.lstrip("+").startswith("hydra.run.dir="):
            raise ConfigError(
                f"{override} sets the directory of a single run, but this is a sweep: set "
                "hydra.sweep.dir instead"
            )


def new_sweep_directory(config: DictConfig) -> Path:
    """Create the directory of a sweep that is named by the time, and set it in the config.

    No other sweep uses this directory.

    Raises:
        ConfigError: the directory can't be created.
    """
    directory = make_unique_directory(Path(os.path.abspath(config.hydra.sweep.dir)))
    with read_write(config.hydra.sweep):
        config.hydra.sweep.dir = str(directory)
    return directory


class SweepRunner:
    """Trains the remaining jobs of a sweep, and locks the sweep directory while it runs.

    Args:
        plan: the jobs.
        config, context: as in `run_sweep`.
        command: resumes the sweep; None for the command that `resume_command` returns.

    Attributes:
        jobs: the jobs of the sweep, including those that `replicates=auto` has added.
        trained: the jobs that this process launched.

    Raises:
        ConfigError: the launcher can't be used on this machine.
    """

    def __init__(
        self, plan: SweepPlan, config: DictConfig, context: HydraContext, command: str | None = None
    ) -> None:
        self.command = command or resume_command(config, plan.directory)
        self.plan, self.config = plan, config
        self.jobs, self.directory = plan.jobs, plan.directory
        self.trained: list[Job] = []
        # The directories of the jobs that haven't ended, and of those that haven't started.
        self._unfinished: set[Path] = set()
        self._waiting: set[Path] = set()
        self._by_directory = {job.directory: job for job in plan.jobs}
        self.launcher: Launcher = build_launcher(context, config, self._launcher_overrides)

    def run(self) -> int:
        """Train the remaining jobs, and return the exit status; raises as `run_sweep` does."""
        to_train = self.plan.to_train(self.config.retry_failed)
        summary = "\n".join(summarize_plan(self.plan, self.config.retry_failed))
        console.print(summary, markup=False)
        with contextlib.ExitStack() as stack:
            # If nothing is written, the new directories are removed at the end.
            stack.callback(remove_empty, missing_folders(self.directory))
            make_directory(self.directory)
            try:
                stack.enter_context(self._locked())
                self._prepare_directory(to_train)
                stack.callback(self.save, ended=True)
            except OSError as error:
                if to_train:
                    raise ConfigError(
                        f"the directory {self.directory} can't be used "
                        f"({error.strerror or error}): make it writable, or choose another with "
                        "hydra.sweep.dir=DIRECTORY"
                    ) from error
            console.print(f"Sweep directory: {relative_path(self.directory)}", markup=False)
            try:
                return self._print_end(self._train_looks(to_train))
            except (KeyboardInterrupt, SystemExit) as stop:
                status = stop.code if isinstance(stop, SystemExit) else INTERRUPTED
            done = sum(job.ended for job in self.jobs)
            console.print(
                f"stopped; {done} of {pluralize(len(self.jobs), 'job')} done. Resume with:\n"
                f"  {self.command}",
                markup=False,
            )
            raise SystemExit(status)

    def save(self, ended: bool = False) -> None:
        """Write `results.csv`, and `sweep.json` with a heartbeat unless the sweep has ended."""
        definition = {"command": self.command, "baseline": self.config.baseline}
        if self.plan.replication is not None:
            rule = self.plan.replication.rule
            definition["replication"] = {
                "maximum": rule.maximum,
                "margin": rule.margin,
                "level": rule.level,
            }
        heartbeat = None if ended else new_heartbeat()
        write_results(self.directory, self.jobs, self.plan.objective)
        write_manifest(self.directory, self.jobs, self.plan.objective, definition, heartbeat)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the sweep directory within a `with` block.

        Raises:
            ConfigError: another process uses the directory or has changed it.
        """
        with locked_sweep(self.directory):
            self.plan.check_unchanged()
            yield

    def _prepare_directory(self, to_train: Sequence[Job]) -> None:
        """Remove pending jobs of an earlier command, and write the files of the sweep.

        Raises:
            ConfigError: another process trains a job that has to start from scratch.
        """
        for job in to_train:
            job.refresh()
            # A process that has just locked the directory has no heartbeat yet, so the lock is
            # checked, too.
            held = job.held or is_held(job.directory, new_heartbeat())
            if job.from_scratch and held:
                raise in_use_error(job.directory, job.record.heartbeat, SWEEP_LOCK)
        # Directories of pending jobs that this command doesn't have are removed before sweep.json
        # is written without these jobs. After that, new jobs may use their numbers.
        requested = {job.directory.resolve() for job in self.jobs}
        sweep = self.directory.resolve()
        for entry in self.plan.manifest.jobs:
            directory = (sweep / entry.directory).resolve()
            # Another person's sweep.json may name directories outside the sweep.
            if sweep in directory.parents and directory not in requested:
                _remove_pending(directory, sweep)
        remove_unfinished(self.directory, MANIFEST, RESULTS_CSV, MULTIRUN)
        text = OmegaConf.to_yaml(self.config)
        write_atomically(self.directory / MULTIRUN, text.encode())
        self.save()
        self._write_all([job for job in self.jobs if job.source is not None])

    def _train_looks(self, to_train: Sequence[Job]) -> str | None:
        """Train jobs, and then those that `replicates=auto` adds; return an error as `_train`."""
        error = self._train(to_train)
        while error is None:
            looks = self.plan.replication.looks if self.plan.replication else {}
            added = self.plan.add_replicates()
            if not added:
                break
            print_looks(self.plan, looks)
            self.jobs = self.plan.jobs
            self._by_directory |= {job.directory: job for job in added}
            # sweep.json lists a job before the directory of the job exists.
            self.save()
            self._write_all([job for job in added if job.source is not None])
            error = self._train([job for job in added if job.from_scratch or not job.ended])
        return error

    def _train(self, jobs: Sequence[Job]) -> str | None:
        """Write the directories of jobs, launch the jobs, and return an error of the launcher."""
        self.trained += jobs
        self.tree = self.plan.epoch_tree(jobs)
        self.tree.plan_records(jobs)
        self._write_all(jobs)
        try:
            with SweepProgress(self.plan, jobs, self.save) as self.progress:
                return self._launch_all(jobs)
        finally:
            self.tree.remove_all_unneeded(self.jobs)

    def _write_all(self, jobs: Sequence[Job]) -> None:
        """Write the directories of jobs, and renew the heartbeat of the sweep meanwhile."""
        hydra = unresolved(self.config.hydra)
        saved = time.monotonic()
        for job in track_jobs(jobs, "written"):
            self._write(job, hydra)
            if time.monotonic() - saved > HEARTBEAT_SECONDS:
                self.save()
                saved = time.monotonic()

    def _write(self, job: Job, hydra: dict[str, Any]) -> None:
        """Write the directory of a job; `hydra` is the node `hydra` of the sweep's config."""
        # Another process may have started the job after it was planned.
        job.refresh()
        if job.held:
            return
        if job.from_scratch:
            reset_run(job.directory, job.planned)
            job.from_scratch = False
        write_plan(job.directory, job.planned)
        settings, overrides = job.planned.config, job.planned.overrides
        write_hydra_folder(job.directory, settings, {**hydra, **job.hydra}, overrides)
        if job.source is not None:
            copy_results(job.source, job.directory, job.record)
            job.source = None
        job.refresh()

    def _launcher_overrides(self, directory: Path) -> list[str]:
        """Return the overrides with which a launcher plugin of Hydra composes a job."""
        # Hydra requires the same sweeper in the configs of a job and of the sweep. An override
        # sweep=NAME may have chosen the sweeper, so it is passed on.
        preset = [text for text in read_overrides(self.config.hydra) if text.startswith("sweep=")]
        return [*preset, *self._by_directory[directory].planned.overrides]

    def _launch_all(self, jobs: Sequence[Job]) -> str | None:
        """Train jobs, and wait for those that another process is training."""
        rest, printed = list(jobs), set()
        while rest:
            free = {job: job.last_stat for job in rest if not job.held}
            if free and (error := self._launch([*free])):
                return error
            # A job is interrupted if its process was stopped while the sweep continues. It is
            # launched again. If the last launch didn't change its record, the job can't start, so
            # it isn't launched again.
            rest = [
                job
                for job in rest
                if job.state in ("running", "interrupted")
                and (job.held or job.last_stat != free.get(job))
            ]
            for job in rest:
                if job.held and job not in printed and (holder := job.record.heartbeat):
                    printed.add(job)
                    console.print(
                        f"waiting for job {job.number}, which process {holder['process']} on "
                        f"{safe_text(holder['host'])} is training",
                        markup=False,
                    )
            if rest and all(job.held for job in rest):
                time.sleep(HELD_SECONDS)
                self.progress.refresh()
        return None

    def _launch(self, jobs: Sequence[Job]) -> str | None:
        error = None
        directories = [job.directory for job in jobs]
        self._unfinished, self._waiting = {*directories}, {*directories}
        try:
            self.launcher.launch(train_job, directories, LOG, self._on_end, self._is_ready)
        # A launcher may raise any error and leave its jobs in any state.
        except Exception as failure:
            error = one_line(f"{type(failure).__name__}: {failure}")
        with self.progress.refresh_lock:
            self.progress.refresh()
            for job in jobs:
                if job.state == "running" and not job.held:
                    mark_failed(job.directory, "its process exited without reporting a result")
            self.progress.refresh()
        return error

    def _is_ready(self, directory: Path) -> bool:
        """Return whether a job can start; the launcher calls this before it starts the job."""
        job = self._by_directory[directory]
        waiting = (other for other in self.jobs if other.directory in self._waiting)
        for changed in self.tree.assign_again(job, self._unfinished, waiting):
            # If this fails, the job finds no copy for its first plan, and trains all its epochs.
            with contextlib.suppress(ConfigError):
                write_plan(changed.directory, changed.planned)
        ready = self.tree.is_ready(job, self._unfinished)
        if ready:
            self._waiting.discard(directory)
        return ready

    def _on_end(self, directory: Path, reason: str | None) -> None:
        if reason is not None:
            mark_failed(directory, reason)
        job = self._by_directory[directory]
        self.progress.refresh([job])
        self._unfinished.discard(directory)
        start = self.tree.starts.get(job)
        if start is not None and start.directory in self._by_directory:
            self.tree.remove_unneeded(start.copy)

    def _print_end(self, error: str | None) -> int:
        """Print the results and how to run the jobs that aren't done; return the exit status."""
        print_summary(self.plan)
        broken = [job for job in self.jobs if job.state in BROKEN]
        pending = [job for job in self.jobs if not job.ended and job not in broken]
        if error:
            jobs = pluralize(len(pending), "job")
            console.print(
                f"\nthe launcher failed ({safe_text(error)}); {jobs} pending", markup=False
            )
        if pending or any(job.state == "failed" for job in broken):
            action = "Run the pending jobs" if pending else "Retry the failed jobs"
            console.print(f"{action} with:\n  {self.command}", markup=False)
        return int(bool(broken or pending or error))


def resume_command(config: DictConfig, directory: Path) -> str:
    """Return the command that resumes a sweep or a study in its directory."""
    # The next command doesn't repeat these settings.
    omitted = ("dry_run=", "retry_failed=", "trainer.resume=", "hydra.mode=", "hydra.sweep.dir=")
    overrides = [*read_overrides(config.hydra), *read_overrides(config.hydra, "hydra")]
    overrides = [text for text in overrides if not text.lstrip("+").startswith(omitted)]
    return format_command(
        [*read_hydra_flags(config.hydra), "--multirun", *overrides], "hydra.sweep.dir", directory
    )


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise SystemExit on SIGTERM, SIGUSR2 and SIGHUP within a `with` block.

    A job that runs in this process replaces these signal handlers while it runs. Python allows
    signal handlers in the main thread only, so nothing happens in another thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(exit_status(number))

    # If nohup set a signal to be ignored, it must stay ignored.
    before = {
        number: signal.signal(number, leave)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
        if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _remove_pending(directory: Path, sweep: Path) -> None:
    """Remove the directory of a job that never started, and empty parents inside the sweep.

    If the process is killed before `run.json` is removed, the job is still pending.
    """
    run = load_run(directory, "")
    if isinstance(run, BrokenRun) or run.state != PENDING:
        return
    delete_run(directory, run.record)
    parents = (folder for folder in directory.parents if folder.is_relative_to(sweep))
    remove_empty([directory, *parents])
