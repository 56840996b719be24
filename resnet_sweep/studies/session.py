"""The work of one process on a study: it trains trials, or launches and watches workers."""

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_search_path
from hydra.conf import ConfigSourceInfo
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState

from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.config.command import relative_path
from resnet_sweep.config.compose import read_overrides
from resnet_sweep.console import console
from resnet_sweep.errors import one_line
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.record import ENDED
from resnet_sweep.studies import JOURNAL
from resnet_sweep.studies.confirmation import Confirmation
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.progress import StudyProgress
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.studies.storage import STORAGE_ERRORS, check_storage, set_up_optuna
from resnet_sweep.studies.study import check_directory, open_study
from resnet_sweep.studies.trial_queue import TrialQueue, run_number
from resnet_sweep.studies.worker import IDLE_SECONDS, StudyWorker
from resnet_sweep.sweeps.launchers import Launcher, build_launcher, trains_elsewhere
from resnet_sweep.sweeps.launchers.pool import PoolLauncher
from resnet_sweep.sweeps.manifest import MULTIRUN
from resnet_sweep.sweeps.runner import check_sweep, resume_command, terminable
from resnet_sweep.training.signals import INTERRUPTED, Interrupted, StopSignal, exit_status

# Worker N has the directory workers/N in the sweep directory, with these files.
WORKERS, WORKER_CONFIG, WORKER_LOG = "workers", "worker.json", "worker.log"
# Seconds between two searches for trials that have ended in other processes.
WATCH_SECONDS = 2


def run_study(context: HydraContext, config: DictConfig) -> int:
    """Work on a study until it ends, or describe it in a dry run; return the exit status.

    Raises:
        ConfigError: the study can't be started; nothing was written.
        SystemExit: a signal stopped the process, or the storage can't be reached; the state of the
            running trials is saved.
    """
    check_sweep(config)
    set_up_optuna()
    with terminable():
        plan = StudyPlan(context.config_loader, config, trains_elsewhere(config))
        if config.dry_run:
            check_directory(plan)
            check_storage(plan.settings["storage"], Path(os.path.abspath(config.hydra.sweep.dir)))
            console.print(plan.describe(), markup=False)
            return 0
        launcher = _launcher(context, plan)
        session = StudySession(plan, open_study(plan))
    if launcher is None or session.is_done():
        return session.work()
    return session.launch_workers(launcher)


def work_on_study(directory: Path) -> int:
    """Work on a study as a launched worker; see `run_study`.

    Args:
        directory: the directory of this worker.
    """
    set_up_optuna()
    worker = json.loads((directory / WORKER_CONFIG).read_text(encoding="utf-8"))
    os.chdir(worker["folder"])
    with _composed(worker) as (loader, config):
        plan = StudyPlan(loader, config)
        return StudySession(plan, open_study(plan)).work()


def worker_config(config: DictConfig) -> dict[str, Any]:
    """Return the content of `worker.json`, from which a worker composes the study's config."""
    hydra = config.hydra
    directory = QuotedString(str(hydra.sweep.dir), Quote.single).with_quotes()
    # The last override of a key takes precedence.
    overrides = [*read_overrides(hydra, "hydra"), *read_overrides(hydra)]
    return {
        "folder": os.getcwd(),
        "sources": OmegaConf.to_container(hydra.runtime.config_sources),
        "name": hydra.job.config_name,
        "overrides": [*overrides, f"hydra.sweep.dir={directory}"],
    }


@contextlib.contextmanager
def _composed(worker: Mapping[str, Any]) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Compose the config of a worker's study; the loader works within the `with` block."""
    # A launcher plugin of Hydra leaves its state in the process.
    GlobalHydra.instance().clear()
    paths = [
        f"{source['schema']}://{source['path']}"
        for source in worker["sources"]
        if source["provider"] in ("main", "command-line")
    ]
    with initialize_config_search_path(paths, job_name="train"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(worker["name"], worker["overrides"], RunMode.MULTIRUN)
        # `read_hydra_flags` reads the flags of the command from these.
        config.hydra.runtime.config_sources = [
            ConfigSourceInfo(**source) for source in worker["sources"]
        ]
        yield loader, config


class StudySession:
    """The work of this process on a study, and its output."""

    def __init__(self, plan: StudyPlan, queue: TrialQueue) -> None:
        self.plan, self.queue = plan, queue
        self.started = time.monotonic()
        self.directory = queue.directory
        self.command = resume_command(plan.config, self.directory)
        definition = {
            "command": self.command,
            "study": plan.name,
            "objective": [objective.name for objective in plan.objectives],
            "reference": plan.sweep_settings["reference"],
            "replicates": plan.replicates,
            "space": plan.space.descriptions(),
        }
        self.results = StudyResults(queue, plan, definition)
        self.confirmation = Confirmation(plan, self.results)

    def work(self) -> int:
        """Train trials until the search ends, and confirm the best ones; return the exit status."""
        stop = StopSignal().listen()
        try:
            with self._reporting(stop):
                with self._time_limit(stop), self._progress():
                    self._search(stop)
                if self._confirms():
                    self.confirmation.train(stop)
                    # An error is ignored, because the table is printed, too.
                    with contextlib.suppress(OSError):
                        self.confirmation.save()
        finally:
            stop.release()
        return self._print_end()

    def is_done(self) -> bool:
        """Return whether all trials and the confirmation are done."""
        return self._is_searched() and self._is_confirmed()

    def _is_searched(self) -> bool:
        return self.queue.is_done() and not self.queue.closed

    def _is_confirmed(self) -> bool:
        return not self._confirms() or all(state in ENDED for state in self.confirmation.states())

    def _confirms(self) -> bool:
        return self.plan.settings["confirm"] is not None and not self._too_many_failures()

    def _search(self, stop: StopSignal) -> None:
        worker = StudyWorker(self.plan, self.queue, stop, self._print_trial)
        while True:
            self.queue.closed = bool(self._stagnation())
            if self.queue.is_done() or self._too_many_failures():
                return
            stop.raise_if_stopped()
            lock = self.queue.take()
            if lock is None:
                time.sleep(IDLE_SECONDS)
            else:
                worker.work_on(lock)
                self.results.save()

    @contextlib.contextmanager
    def _time_limit(self, stop: StopSignal) -> Iterator[None]:
        """Stop the `with` block like a signal, `hydra.sweeper.timeout` seconds after the start."""
        seconds: float | None = self.plan.settings["timeout"]
        if seconds is None:
            yield
            return

        def end() -> None:
            if stop.received is None:
                stop.received = signal.SIGALRM

        timer = threading.Timer(max(0.0, self.started + seconds - time.monotonic()), end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Interrupted as error:
            if error.signal != signal.SIGALRM:
                raise
        finally:
            timer.cancel()
            if stop.received == signal.SIGALRM:
                stop.received = None

    def launch_workers(self, launcher: Launcher) -> int:
        """Launch workers, and print ended trials until all workers exit; return the exit status."""
        problems: list[str] = []
        numbers = range(self.plan.settings["n_jobs"])
        directories = [self.directory / WORKERS / str(number) for number in numbers]

        def on_end(directory: Path, reason: str | None) -> None:
            if reason is not None:
                problems.append(f"worker {directory.name}: {safe_text(reason)}")

        with self._reporting(), terminable(), self._progress():
            content = json.dumps(worker_config(self.plan.config), indent=1).encode()
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True)
                write_atomically(directory / WORKER_CONFIG, content)
            printed = {trial.number: run_number(trial) for trial in self.queue.ended()}
            done = threading.Event()
            watcher = threading.Thread(target=self._watch, args=[printed, done], daemon=True)
            watcher.start()
            try:
                launcher.launch(work_on_study, directories, WORKER_LOG, on_end)
            # A launcher may raise any error and leave its workers in any state.
            except Exception as error:
                reason = safe_text(one_line(f"{type(error).__name__}: {error}"))
                problems.append(f"the launcher failed ({reason}); workers may still be running")
            finally:
                done.set()
                watcher.join()
        if not (self._search_ended() and self._is_confirmed()):
            logs = f"{relative_path(self.directory)}/{WORKERS}/*/{WORKER_LOG}"
            problems.append(
                f"the workers of this command have exited; see {logs}. Resume with:\n"
                f"  {self.command}"
            )
        for line in problems:
            console.print(line, markup=False)
        return self._print_end()

    def _progress(self) -> StudyProgress:
        # The view reads the trials in a thread of its own while this thread changes its queue.
        queue = self.queue
        own = TrialQueue(queue.study, queue.storage, queue.directory, queue.total)
        return StudyProgress(own, self.plan.objectives[0])

    def _end_reason(self) -> str:
        """Return why the search ended before all trials were done, or an empty text."""
        if self._is_searched():
            return ""
        return self._too_many_failures() or self._stagnation() or self._timed_out()

    def _search_ended(self) -> bool:
        return self._is_searched() or bool(self._end_reason())

    def _too_many_failures(self) -> str:
        """Return why the study ends early; the text is empty if it doesn't."""
        limit = self.plan.max_failures
        failed = sum(trial.state is TrialState.FAIL for trial in self.queue.ended())
        if limit is None or failed < limit:
            return ""
        return (
            f"{pluralize(failed, 'trial')} failed, so the study ends (limit: {limit}). To "
            "continue, raise hydra.sweeper.max_failures or hydra.sweeper.max_failure_rate"
        )

    def _stagnation(self) -> str:
        """Return that the last trials brought no improvement, or an empty text."""
        limit: int | None = self.plan.settings["max_stagnation_trials"]
        if limit is None or self.queue.since_best(self.plan.objectives[0].gain) < limit:
            return ""
        return (
            f"the last {pluralize(limit, 'trial')} didn't improve the best value, so the study "
            "ends. To continue, raise hydra.sweeper.max_stagnation_trials"
        )

    def _timed_out(self) -> str:
        """Return that the time budget is spent, or an empty text."""
        seconds: float | None = self.plan.settings["timeout"]
        if seconds is None or time.monotonic() < self.started + seconds:
            return ""
        return (
            f"the time is up (hydra.sweeper.timeout={seconds:g}). To continue, give the same "
            f"command again:\n  {self.command}"
        )

    @contextlib.contextmanager
    def _reporting(self, stop: StopSignal | None = None) -> Iterator[None]:
        """Write the results before and after the `with` block.

        If a signal or an error of the storage ends the block, print the reason, and exit.
        """
        console.print(f"Sweep directory: {relative_path(self.directory)}", markup=False)
        text, multirun = "", self.directory / MULTIRUN
        try:
            # An error is ignored, because a full disk may have space again later.
            with contextlib.suppress(OSError):
                if not multirun.exists():
                    write_atomically(multirun, OmegaConf.to_yaml(self.plan.config).encode())
            # This writes sweep.json, which keeps other sweeps from using the directory.
            self.results.save(now=True)
            yield
            self.results.save(now=True)
            return
        except KeyboardInterrupt:
            status: str | int | None = INTERRUPTED
        except Interrupted as error:
            status = exit_status(error.signal)
        except SystemExit as error:
            status = error.code
        except STORAGE_ERRORS as error:
            text = f"{self._describe_error(error)}, resume"
            status = stop.exit_status if stop is not None and stop.received else 1
        if not text:
            text = "stopped. Resume"
            # The storage may be unavailable, too.
            with contextlib.suppress(*STORAGE_ERRORS):
                self.results.save(now=True)
                done = f"{len(self.queue.ended())} of {pluralize(self.queue.total, 'trial')} done"
                text = f"stopped; {done}. Resume"
        console.print(f"{text} with:\n  {self.command}", markup=False)
        raise SystemExit(status)

    def _describe_error(self, error: Exception) -> str:
        """Return what happened to the storage or to a file of the study, and what to wait for."""
        if isinstance(error, OSError) and Path(str(error.filename)).name != JOURNAL:
            place = error.filename or relative_path(self.directory)
            return (
                f"{place} can't be written ({error.strerror or error}); the state of the running "
                "trials is saved. When it can be written again"
            )
        # Optuna's error has SQLAlchemy's error as its cause.
        cause = error.__cause__ or error
        reason = one_line(getattr(cause, "orig", None) or cause)
        return (
            f"the study's storage can't be reached ({reason}); the state of the running trials is "
            "saved. When the storage is available again"
        )

    def _watch(self, printed: dict[int, int], done: threading.Event) -> None:
        """Print trials when they have ended, until all workers have exited.

        Args:
            printed: maps the numbers of the trials that are printed to their `run_number`.
            done: set when all workers have exited.
        """
        finished = False
        while not finished:
            finished = done.wait(WATCH_SECONDS)
            # The workers print errors of the storage.
            with contextlib.suppress(*STORAGE_ERRORS):
                for trial in self.queue.ended():
                    if trial.number not in printed:
                        printed[trial.number] = run_number(trial)
                        self._print_trial(trial, len({*printed.values()}))

    def _print_trial(self, trial: FrozenTrial, ended: int | None = None) -> None:
        count = len(self.queue.ended()) if ended is None else ended
        text = self.results.of(trial).describe(self.plan.objectives)
        console.print(f"[{count}/{self.queue.total}] {text}", markup=False)

    def _print_end(self) -> int:
        """Print the results of the study; return the exit status."""
        width = console.width if console.is_terminal else None
        lines = ["", *self.results.summary(width)]
        if reason := self._end_reason():
            lines.append(reason)
        ended, confirmed = self._search_ended(), True
        if ended and self._confirms():
            lines += self.confirmation.lines(width)
            confirmed = COMPLETE.issuperset(self.confirmation.states())
        lines.append(
            f"Write a report with: python -m resnet_sweep report {relative_path(self.directory)}"
        )
        console.print("\n".join(lines), markup=False)
        broken = any(result.state in ("failed", "diverged") for result in self.results.all())
        return int(broken or not (ended and confirmed))


def _launcher(context: HydraContext, plan: StudyPlan) -> Launcher | None:
    """Return the launcher for the workers; None if this process trains the trials."""
    config, count = plan.config, plan.settings["n_jobs"]
    if config.hydra.runtime.choices["hydra/launcher"] != "basic":
        fixed: Sequence[str] = list(plan.space.fixed.values())
        return build_launcher(context, config, lambda directory: fixed)
    if count == 1:
        return None
    # All workers may share one GPU.
    return PoolLauncher(workers=count, jobs_per_gpu=count, device=config.trainer.device)
