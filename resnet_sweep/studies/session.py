"""A process's part in a study: it works on trials itself, or launches workers and watches them."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_search_path
from hydra.conf import ConfigSourceInfo
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial

from resnet_sweep.compare.format import shown
from resnet_sweep.config.command import relative
from resnet_sweep.config.compose import overrides_of
from resnet_sweep.console import console
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.results import StudyResults, summary_lines
from resnet_sweep.studies.storage import STORAGE_ERRORS, set_up_optuna
from resnet_sweep.studies.trial_queue import TrialQueue
from resnet_sweep.studies.worker import IDLE_SECONDS, StudyWorker
from resnet_sweep.sweeps.launchers import Launcher, build_launcher
from resnet_sweep.sweeps.launchers.pool import PoolLauncher
from resnet_sweep.sweeps.manifest import MULTIRUN
from resnet_sweep.sweeps.runner import check_sweep, resume_command, terminable
from resnet_sweep.training.signals import INTERRUPTED, Interrupted, StopSignal, exit_status

# The directory of worker N is workers/N of the sweep's, and has these files.
WORKERS, WORKER_CONFIG, WORKER_LOG = "workers", "worker.json", "worker.log"
# How often to see which trials of other processes have ended.
WATCH_SECONDS = 2


def run_study(context: HydraContext, config: DictConfig) -> int:
    """Work on a study until it has ended, or print it in a dry run.

    Args:
        context: of Hydra's.
        config: of the study as a whole.

    Returns:
        The exit status.

    Raises:
        ConfigError: the study can't be started; nothing was written.
        SystemExit: it was stopped from outside, or the storage can't be reached; the state of what
            ran is saved.
    """
    check_sweep(config)
    set_up_optuna()
    with terminable():
        plan = StudyPlan(context.config_loader, config)
        if config.dry_run:
            console.print(plan.describe(), markup=False)
            return 0
        launcher = _launcher(context, plan)
        session = StudySession(plan, plan.open())
    return session.work() if launcher is None else session.attend(launcher)


def work_on_study(directory: Path) -> int:
    """Join a study as a launched worker, and train trials until none is left.

    Args:
        directory: of the worker, with its config.

    Returns:
        The exit status, which is 1 if not all trials reached what was asked for.

    Raises:
        ConfigError: the study can't be joined from here.
        SystemExit: as in `run_study`.
    """
    set_up_optuna()
    content = json.loads((directory / WORKER_CONFIG).read_text(encoding="utf-8"))
    worker = WorkerConfig(**content)
    os.chdir(worker.folder)
    with worker.compose() as (loader, config):
        plan = StudyPlan(loader, config)
        return StudySession(plan, plan.open()).work()


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker composes the config of its study from.

    Attributes:
        folder: in which the command was given.
        sources: where Hydra found configs: `path`, `schema` and `provider` of each.
        name: of the primary config.
        overrides: of the command.
    """

    folder: str
    sources: list[dict[str, str]]
    name: str
    overrides: list[str]

    @classmethod
    def of(cls, config: DictConfig) -> "WorkerConfig":
        """Return that of a study's composed config, whose directory is known."""
        hydra = config.hydra
        sources: Any = OmegaConf.to_container(hydra.runtime.config_sources)
        directory = QuotedString(str(hydra.sweep.dir), Quote.single).with_quotes()
        # Of two overrides of one key, the later holds.
        overrides = [*overrides_of(hydra, "hydra"), *overrides_of(hydra)]
        overrides.append(f"hydra.sweep.dir={directory}")
        return cls(os.getcwd(), sources, hydra.job.config_name, overrides)

    def write(self, directory: Path) -> None:
        """Write the file of a worker, whose directory is made."""
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / WORKER_CONFIG, json.dumps(asdict(self), indent=1).encode())

    @contextlib.contextmanager
    def compose(self) -> Iterator[tuple[ConfigLoader, DictConfig]]:
        """Compose the config of the study; its loader is usable within the `with` block."""
        # A launcher of Hydra's leaves its own state in the process.
        GlobalHydra.instance().clear()
        paths = [
            f"{source['schema']}://{source['path']}"
            for source in self.sources
            if source["provider"] in ("main", "command-line")
        ]
        with initialize_config_search_path(paths, job_name="train"):
            loader = GlobalHydra.instance().config_loader()
            config = loader.load_configuration(self.name, self.overrides, RunMode.MULTIRUN)
            # They show which flags the command had.
            sources = [ConfigSourceInfo(**source) for source in self.sources]
            config.hydra.runtime.config_sources = sources
            yield loader, config


class StudySession:
    """A process's part in a study, and what it prints.

    Args:
        plan: of the study.
        queue: its trials.
    """

    def __init__(self, plan: StudyPlan, queue: TrialQueue) -> None:
        self.plan, self.queue = plan, queue
        self.directory = queue.directory
        self.max_failures = plan.max_failures
        definition = {"command": self.command(), "study": plan.name, **plan.fingerprint}
        # In `sweep.json`, settings of a study are those of its fingerprint.
        self.results = StudyResults(queue, plan.planner, {**definition, "settings": {}})

    def command(self) -> str:
        """Return the command that resumes the study, or joins it."""
        return resume_command(self.plan.config, self.directory)

    def work(self) -> int:
        """Train trials until none is left.

        Returns:
            The exit status.

        Raises:
            SystemExit: as in `run_study`.
        """
        stop = StopSignal().listen()
        worker = StudyWorker(self.plan, self.queue, stop, self._print_trial)
        try:
            with self._reporting():
                while not (self._has_failed or self.queue.is_done):
                    stop.raise_if_stopped()
                    lock = self.queue.take()
                    if lock is None:
                        time.sleep(IDLE_SECONDS)
                    else:
                        worker.work_on(lock)
                        self.results.save()
        finally:
            stop.release()
        return self._print_end()

    def attend(self, launcher: Launcher) -> int:
        """Launch workers, and print how each trial ends, until no worker is left.

        Returns:
            The exit status.

        Raises:
            SystemExit: as in `run_study`.
        """
        lost: list[str] = []
        directories = [
            self.directory / WORKERS / str(number) for number in range(self.plan.settings["n_jobs"])
        ]

        def on_end(directory: Path, reason: str | None) -> None:
            if reason is not None:
                lost.append(f"worker {directory.name}: {shown(reason)}")

        with self._reporting(), terminable():
            for directory in directories:
                WorkerConfig.of(self.plan.config).write(directory)
            with self._watching():
                try:
                    launcher.launch(work_on_study, directories, WORKER_LOG, on_end)
                # A launcher can fail in any way, with its workers in any state.
                except Exception as error:
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                    lost.append(f"the launcher failed ({shown(reason)}); workers may still run")
        for line in lost:
            console.print(line, markup=False)
        if not self.queue.is_done and not self._has_failed:
            console.print(
                f"no worker is left here; {relative(self.directory)}/{WORKERS}/*/{WORKER_LOG} may "
                f"say why. Resume with:\n  {self.command()}",
                markup=False,
            )
        return self._print_end()

    @property
    def _has_failed(self) -> bool:
        return self.max_failures is not None and self.queue.failures >= self.max_failures

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Write the results at the end, and print why work ends early, within a `with` block."""
        console.print(f"Sweep directory: {relative(self.directory)}", markup=False)
        try:
            if not (self.directory / MULTIRUN).exists():
                text = OmegaConf.to_yaml(self.plan.config)
                write_atomically(self.directory / MULTIRUN, text.encode())
            yield
            self.results.close()
        except (KeyboardInterrupt, Interrupted, SystemExit) as error:
            self.results.close()
            console.print(
                f"stopped; {self.queue.ended} of {self.queue.total} trials are done. Resume "
                f"with:\n  {self.command()}",
                markup=False,
            )
            if isinstance(error, SystemExit):
                raise
            signal = error.signal if isinstance(error, Interrupted) else None
            raise SystemExit(INTERRUPTED if signal is None else exit_status(signal)) from None
        except STORAGE_ERRORS as error:
            # SQLAlchemy's own error is behind Optuna's.
            cause = error.__cause__ or error
            reason = " ".join(str(getattr(cause, "orig", None) or cause).split()).rstrip(".")
            console.print(
                f"the study's storage can't be reached any more ({reason}); the state of what ran "
                f"is saved. When it is back, resume with:\n  {self.command()}",
                markup=False,
            )
            raise SystemExit(1) from None

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Print how each trial ends from another thread, within a `with` block."""
        done = threading.Event()
        printed = {trial.number for trial in self.queue.trials() if trial.state.is_finished()}

        def look() -> None:
            for trial in self.queue.trials():
                if trial.state.is_finished() and trial.number not in printed:
                    printed.add(trial.number)
                    self._print_trial(trial, len(printed))

        def watch() -> None:
            while not done.wait(WATCH_SECONDS):
                # The workers print what is wrong with the storage.
                with contextlib.suppress(*STORAGE_ERRORS):
                    look()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        look()

    def _print_trial(self, trial: FrozenTrial, ended: int | None = None) -> None:
        count = self.queue.ended if ended is None else ended
        text = self.results.of(trial).describe(self.plan.planner.objectives)
        console.print(f"[{count}/{self.queue.total}] {text}", markup=False)

    def _print_end(self) -> int:
        """Print what the study has reached; return the exit status."""
        several = len(self.plan.planner.objectives) > 1
        front = [trial.number for trial in self.queue.study.best_trials] if several else None
        results = self.results.all()
        width = console.width if console.is_terminal else None
        lines = ["", *summary_lines(results, self.plan.planner, front, width)]
        if self._has_failed and not self.queue.is_done:
            lines.append(
                f"{self.queue.failures} trials failed, so the study ends "
                f"(hydra.sweeper.max_failures={self.max_failures}); raise that to continue"
            )
        lines.append(f"Its report: python -m resnet_sweep report {relative(self.directory)}")
        console.print("\n".join(lines), markup=False)
        broken = any(result.state in ("failed", "diverged") for result in results)
        return int(broken or not self.queue.is_done)


def _launcher(context: HydraContext, plan: StudyPlan) -> Launcher | None:
    """Return the launcher of the workers; None if this process works itself.

    Raises:
        ConfigError: there can't be such a launcher here.
    """
    config, count = plan.config, plan.settings["n_jobs"]
    if config.hydra.runtime.choices["hydra/launcher"] != "basic":
        fixed: Sequence[str] = list(plan.space.fixed.values())
        return build_launcher(context, config, lambda directory: fixed)
    if count == 1:
        return None
    # The workers share each GPU.
    return PoolLauncher(workers=count, jobs_per_gpu=count, device=config.trainer.device)
