"""A process's part in a study: it works on trials itself, or launches workers and watches them."""

import contextlib
import json
import os
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

from resnet_sweep.compare.format import shown
from resnet_sweep.config.command import relative_path
from resnet_sweep.config.compose import read_overrides
from resnet_sweep.console import console
from resnet_sweep.errors import one_line
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.results import StudyResults
from resnet_sweep.studies.storage import STORAGE_ERRORS, set_up_optuna
from resnet_sweep.studies.study import check_directory, open_study
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
    """Work on a study until it has ended, or print it in a dry run; return the exit status.

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
            check_directory(plan)
            console.print(plan.describe(), markup=False)
            return 0
        launcher = _launcher(context, plan)
        session = StudySession(plan, open_study(plan))
    if launcher is None or session.queue.is_done():
        return session.work()
    return session.launch_workers(launcher)


def work_on_study(directory: Path) -> int:
    """Work on a study as a launched worker, with its own directory; see `run_study`."""
    set_up_optuna()
    worker = json.loads((directory / WORKER_CONFIG).read_text(encoding="utf-8"))
    os.chdir(worker["folder"])
    with _composed(worker) as (loader, config):
        plan = StudyPlan(loader, config)
        return StudySession(plan, open_study(plan)).work()


def worker_config(config: DictConfig) -> dict[str, Any]:
    """Return what a worker composes the config of its study from."""
    hydra = config.hydra
    directory = QuotedString(str(hydra.sweep.dir), Quote.single).with_quotes()
    # Of two overrides of one key, the later holds.
    overrides = [*read_overrides(hydra, "hydra"), *read_overrides(hydra)]
    return {
        "folder": os.getcwd(),
        "sources": OmegaConf.to_container(hydra.runtime.config_sources),
        "name": hydra.job.config_name,
        "overrides": [*overrides, f"hydra.sweep.dir={directory}"],
    }


@contextlib.contextmanager
def _composed(worker: Mapping[str, Any]) -> Iterator[tuple[ConfigLoader, DictConfig]]:
    """Compose the config of a worker's study; its loader is usable within the `with` block."""
    # A launcher of Hydra's leaves its own state in the process.
    GlobalHydra.instance().clear()
    paths = [
        f"{source['schema']}://{source['path']}"
        for source in worker["sources"]
        if source["provider"] in ("main", "command-line")
    ]
    with initialize_config_search_path(paths, job_name="train"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(worker["name"], worker["overrides"], RunMode.MULTIRUN)
        # They show which flags the command had.
        config.hydra.runtime.config_sources = [
            ConfigSourceInfo(**source) for source in worker["sources"]
        ]
        yield loader, config


class StudySession:
    """A process's part in a study, and what it prints."""

    def __init__(self, plan: StudyPlan, queue: TrialQueue) -> None:
        self.plan, self.queue = plan, queue
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

    def work(self) -> int:
        """Train trials until none is left; return the exit status."""
        stop = StopSignal().listen()
        worker = StudyWorker(self.plan, self.queue, stop, self._print_trial)
        try:
            with self._reporting(stop):
                while not (self.queue.is_done() or self._too_many_failures()):
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

    def launch_workers(self, launcher: Launcher) -> int:
        """Launch workers, and print how trials end until none is left; return the exit status."""
        lost: list[str] = []
        numbers = range(self.plan.settings["n_jobs"])
        directories = [self.directory / WORKERS / str(number) for number in numbers]

        def on_end(directory: Path, reason: str | None) -> None:
            if reason is not None:
                lost.append(f"worker {directory.name}: {shown(reason)}")

        with self._reporting(), terminable():
            content = json.dumps(worker_config(self.plan.config), indent=1).encode()
            for directory in directories:
                directory.mkdir(parents=True, exist_ok=True)
                write_atomically(directory / WORKER_CONFIG, content)
            printed, done = {trial.number for trial in self.queue.ended()}, threading.Event()
            watcher = threading.Thread(target=self._watch, args=[printed, done], daemon=True)
            watcher.start()
            try:
                launcher.launch(work_on_study, directories, WORKER_LOG, on_end)
            # A launcher can fail in any way, with its workers in any state.
            except Exception as error:
                reason = shown(one_line(f"{type(error).__name__}: {error}"))
                lost.append(f"the launcher failed ({reason}); workers may still run")
            finally:
                done.set()
                watcher.join()
        if not (self.queue.is_done() or self._too_many_failures()):
            lost.append(
                f"no worker is left here; {relative_path(self.directory)}/{WORKERS}/*/{WORKER_LOG} may "
                f"say why. Resume with:\n  {self.command}"
            )
        for line in lost:
            console.print(line, markup=False)
        return self._print_end()

    def _too_many_failures(self) -> str:
        """Return why the study ends before all trials have ended; empty if it doesn't."""
        limit = self.plan.max_failures
        failed = sum(trial.state is TrialState.FAIL for trial in self.queue.ended())
        if limit is None or failed < limit:
            return ""
        return (
            f"{failed} trials failed, so the study ends (hydra.sweeper.max_failures={limit}); "
            "raise that to continue"
        )

    @contextlib.contextmanager
    def _reporting(self, stop: StopSignal | None = None) -> Iterator[None]:
        """Write the results at both ends, and print why work ends early, within a `with` block."""
        console.print(f"Sweep directory: {relative_path(self.directory)}", markup=False)
        text, multirun = "", self.directory / MULTIRUN
        try:
            # A full disk may have space later.
            with contextlib.suppress(OSError):
                if not multirun.exists():
                    write_atomically(multirun, OmegaConf.to_yaml(self.plan.config).encode())
            # From here on, no other sweep is let into the directory.
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
            # SQLAlchemy's own error is behind Optuna's.
            cause = error.__cause__ or error
            reason = one_line(getattr(cause, "orig", None) or cause)
            text = f"the study's storage can't be reached any more ({reason}); the state of what "
            text += "ran is saved. When it is back, resume"
            status = stop.exit_status if stop is not None and stop.received else 1
        if not text:
            text = "stopped. Resume"
            # The storage may be away as well.
            with contextlib.suppress(*STORAGE_ERRORS):
                self.results.save(now=True)
                done = f"{len(self.queue.ended())} of {self.queue.total} trials are done"
                text = f"stopped; {done}. Resume"
        console.print(f"{text} with:\n  {self.command}", markup=False)
        raise SystemExit(status)

    def _watch(self, printed: set[int], done: threading.Event) -> None:
        """Print how each trial ends that wasn't printed, until no worker is left."""
        over = False
        while not over:
            over = done.wait(WATCH_SECONDS)
            # The workers print what is wrong with the storage.
            with contextlib.suppress(*STORAGE_ERRORS):
                for trial in self.queue.ended():
                    if trial.number not in printed:
                        printed.add(trial.number)
                        self._print_trial(trial, len(printed))

    def _print_trial(self, trial: FrozenTrial, ended: int | None = None) -> None:
        count = len(self.queue.ended()) if ended is None else ended
        text = self.results.of(trial).describe(self.plan.objectives)
        console.print(f"[{count}/{self.queue.total}] {text}", markup=False)

    def _print_end(self) -> int:
        """Print what the study has reached; return the exit status."""
        lines = ["", *self.results.summary(console.width if console.is_terminal else None)]
        done = self.queue.is_done()
        if not done and (reason := self._too_many_failures()):
            lines.append(reason)
        lines.append(f"Its report: python -m resnet_sweep report {relative_path(self.directory)}")
        console.print("\n".join(lines), markup=False)
        broken = any(result.state in ("failed", "diverged") for result in self.results.all())
        return int(broken or not done)


def _launcher(context: HydraContext, plan: StudyPlan) -> Launcher | None:
    """Return the launcher of the workers; None if this process works itself."""
    config, count = plan.config, plan.settings["n_jobs"]
    if config.hydra.runtime.choices["hydra/launcher"] != "basic":
        fixed: Sequence[str] = list(plan.space.fixed.values())
        return build_launcher(context, config, lambda directory: fixed)
    if count == 1:
        return None
    # The workers share each GPU.
    return PoolLauncher(workers=count, jobs_per_gpu=count, device=config.trainer.device)
