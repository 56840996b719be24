"""One sitting of a sweep: from its plan to the table of what came of it."""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.compare.text import shown
from resnet_sweep.composition.command import command, relative
from resnet_sweep.composition.gate import flags_of, words_of
from resnet_sweep.console import console
from resnet_sweep.errors import JobFailed, RequestError
from resnet_sweep.runs.run import bury, start_over
from resnet_sweep.sweeps.callback import SweepCallback
from resnet_sweep.sweeps.job import BROKEN, WAITING, Job
from resnet_sweep.sweeps.outcome import tell_outcome
from resnet_sweep.sweeps.plan import Plan
from resnet_sweep.sweeps.progress import Progress
from resnet_sweep.sweeps.sweep import Sweep
from resnet_sweep.training.interruption import INTERRUPTED, exit_status

# How often to see whether a job that another process is at work on has come free.
HELD_SECONDS = 0.5

log = logging.getLogger(__name__)


class Sitting:
    """Carries out what is left of a sweep, and tells how it went.

    Args:
        plan: of the sweep.
        config: of the sweep as a whole.
        launcher: has jobs carried out, here or elsewhere.
    """

    def __init__(self, plan: Plan, config: DictConfig, launcher: Launcher) -> None:
        self.plan, self.config, self.launcher = plan, config, launcher
        self.skip_failed = config.sweep_mode == "skip_failed"
        # Leaving out what failed, or starting over, was asked for once.
        once = ("sweep_mode=", "trainer.resume=")
        words = [word for word in words_of(config.hydra) if not word.startswith(once)]
        words += [
            word
            for word in words_of(config.hydra, "hydra")
            if not word.startswith(("hydra.mode=", "hydra.sweep.dir="))
        ]
        self.words = [*flags_of(config.hydra), "--multirun", *words]
        definition = {"command": self.command(), "baseline": config.baseline}
        self.sweep = Sweep(plan, definition, OmegaConf.to_yaml(config))

    def command(self) -> str:
        """The command that goes on with the sweep."""
        return command(self.words, "hydra.sweep.dir", self.plan.directory)

    def carry_out(self) -> int:
        """Train what is left to train.

        Returns:
            The exit status.

        Raises:
            RequestError: the sweep's directory can't be used, or is in use.
            SystemExit: it was stopped from outside; what ran is saved.
        """
        with self.sweep, terminable():
            console.print(f"Sweep directory: {relative(self.sweep.directory)}", markup=False)
            trouble = None
            to_train = self.plan.to_train(self.skip_failed)
            for job in to_train:
                if job.starts_over and not job.held:
                    start_over(job.directory, job.planned)
                    job.look()
            with Progress(self.sweep, to_train, self.plan.history) as progress:
                self.progress, stopped = progress, None
                SweepCallback.on_ended = self._note
                try:
                    trouble = self._launch_all(to_train)
                except (KeyboardInterrupt, SystemExit) as stop:
                    stopped = INTERRUPTED if isinstance(stop, KeyboardInterrupt) else stop.code
                finally:
                    SweepCallback.on_ended = None
            if stopped is not None:
                self._tell_stopped()
                raise SystemExit(stopped)
            return self._tell_end(trouble)

    def _launch_all(self, jobs: Sequence[Job]) -> str | None:
        """Have jobs carried out, those that another process is at work on when they come free.

        Returns:
            Why the launcher broke off; None if it didn't.
        """
        rest, told = list(jobs), set()
        while rest:
            free = [job for job in rest if not job.held]
            if trouble := self._launch(free):
                return trouble
            # What a killed sweep left at work, it has left only to save, and so interrupted.
            rest = [job for job in rest if job.state in ("running", "interrupted")]
            for job in rest:
                if job.held and job not in told:
                    told.add(job)
                    lease = job.record.lease
                    console.print(
                        f"waiting for job {job.number}, at which process {lease['process']} on "
                        f"{shown(lease['host'])} is at work",
                        markup=False,
                    )
            if rest and all(job.held for job in rest):
                time.sleep(HELD_SECONDS)
                self.progress.look()
        return None

    def _launch(self, jobs: Sequence[Job]) -> str | None:
        if not jobs:
            return None
        words = [[*job.planned.overrides, job.word] for job in jobs]
        trouble, returned = None, ()
        try:
            returned = self.launcher.launch(words, initial_job_idx=jobs[0].number)
        # Launchers of all sorts break off in all sorts of ways, with their jobs in any state.
        except Exception as error:
            trouble = f"{type(error).__name__}: {' '.join(str(error).split())}"
        for job, outcome in zip(jobs, returned, strict=False):
            if isinstance(outcome, JobReturn) and outcome.status is JobStatus.FAILED:
                self._note(job.directory, outcome._return_value)
        with self.progress.looking:
            for job in jobs:
                job.look()
                if job.state == "running" and not job.held:
                    bury(job.directory, "its process ended without a word")
            self.progress.look()
        return trouble

    def _note(self, directory: Path, error: object) -> None:
        """Take note of a job that has ended, with an error or without."""
        job = self.sweep.job_in(directory)
        if job is None:
            return
        with self.progress.looking:
            job.look()
            if error is not None and job.state == WAITING:
                plain = isinstance(error, (RequestError, JobFailed))
                kind = "" if plain else f"{type(error).__name__}: "
                job.fail(" ".join(f"{kind}{error}".split()))
            self.progress.look()

    def _tell_stopped(self) -> None:
        jobs = self.sweep.jobs
        done = sum(job.ended for job in jobs)
        console.print(
            f"stopped; {done} of {len(jobs)} jobs are done. To go on:\n  {self.command()}",
            markup=False,
        )

    def _tell_end(self, trouble: str | None) -> int:
        """Tell what came of all jobs; returns the exit status."""
        jobs = self.sweep.jobs
        tell_outcome(jobs, self.progress.words, self.plan.baseline, self.plan.objective)
        broken = [job for job in jobs if job.state in BROKEN]
        waiting = [job for job in jobs if not job.ended and job not in broken]
        if trouble:
            console.print(
                f"\nthe launcher broke off ({shown(trouble)}); {len(waiting)} jobs are waiting",
                markup=False,
            )
        if waiting or any(job.state == "failed" for job in broken):
            what = "run those that are waiting" if waiting else "run those that failed again"
            console.print(f"To {what}:\n  {self.command()}", markup=False)
        return int(bool(broken or waiting or trouble))


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Have SIGTERM and the hang-up of a terminal end the sweep in good order.

    While a job runs in this process, it handles them itself, and hands the status on.
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
