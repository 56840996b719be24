"""A launcher that has jobs carried out by Ray, on one machine or on many."""

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.composition.complaint import missing_package
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.lease import is_held
from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps.worker import Assignment, Outcome, carry_out

POLL_SECONDS = 0.2
HELD_SECONDS = 1
# What is set here is meant for jobs elsewhere as well.
ENVIRONMENT = "RESNET_SWEEP_"


class RayLauncher(Launcher):
    """Each job is a task of Ray's, which finds it a place.

    A job whose process or machine dies is begun again, on another machine if need be, and goes on
    from its checkpoint: the sweep's directory must be on a disk that all machines share.

    Args:
        address: of a cluster; None for the one that runs on this machine, or else for a Ray of
            this command's own, which ends with it.
        cpus: cores that a job takes.
        gpus: GPUs that a job takes, of which a fraction shares one; None for one, where there are
            some and the job may use them.
        retries: how often a job is begun again whose process died; -1 for any number.

    Raises:
        RequestError: one of these can't be, or Ray isn't installed.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        retries: int = 3,
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RequestError(missing_package("hydra/launcher=ray", "ray", "ray"))
        for name, value, least in (("cpus", cpus, 0), ("gpus", gpus, 0), ("retries", retries, -1)):
            number = isinstance(value, Real) and not isinstance(value, bool) and value >= least
            if not number and not (name == "gpus" and value is None):
                raise RequestError(
                    f"hydra.launcher.{name} must be a number at least {least}, but is {value}"
                )
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, int(retries)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `launch`."""
        self.context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Carry jobs out.

        Args:
            job_overrides: the words of each job.
            initial_job_idx: the number of the first.

        Returns:
            What came of each job, in order.

        Raises:
            SystemExit: the process was asked to stop; the jobs that ran are saved.
            ConnectionError: there is no cluster at the address.
        """
        # Imported here because Ray and torch take seconds that --help needn't wait.
        import ray

        from resnet_sweep.runs.run import bury
        from resnet_sweep.training.interruption import StopRequest

        configure_log(
            self.config.hydra.hydra_logging,
            self.config.hydra.verbose,
            execution_whitelist=self.context.execution_whitelist,
        )
        self._connect()
        outcomes: dict[int, Outcome] = {}
        stop = StopRequest().listen()
        told = False
        try:
            remote = ray.remote(_work).options(
                num_cpus=self.cpus, num_gpus=self._gpus(), max_retries=self.retries
            )
            environment = {
                name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)
            }
            running = {
                remote.remote(assignment, os.getcwd(), environment): assignment
                for assignment in Assignment.all_of(
                    self.context, self.config, job_overrides, initial_job_idx
                )
            }
            while running:
                if stop.received and not told:
                    told = True
                    for task in running:
                        ray.cancel(task)
                for task in ray.wait([*running], timeout=POLL_SECONDS)[0]:
                    assignment = running.pop(task)
                    try:
                        outcome = ray.get(task)
                    except ray.exceptions.RayError as error:
                        reason = f"its process was lost to Ray: {_first_line(error)}"
                        if not told:
                            bury(assignment.directory, reason)
                        outcome = Outcome(error=reason)
                    outcomes[assignment.index] = outcome
            if stop.received:
                raise SystemExit(stop.status)
        finally:
            stop.release()
            ray.shutdown()
        return [outcomes[index].as_return(words) for index, words in enumerate(job_overrides)]

    def _connect(self) -> None:
        import ray

        # Ray handles it from then on, for which the sweep has its own ways.
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                self.address, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
            )
        finally:
            signal.signal(signal.SIGTERM, before)

    def _gpus(self) -> float:
        import ray

        if self.gpus is not None:
            return self.gpus
        there = ray.cluster_resources().get("GPU", 0)
        return int(there > 0 and self.config.trainer.device in ("auto", "cuda"))


def _work(assignment: Assignment, folder: str, environment: Mapping[str, str]) -> Outcome:
    """Carry out a job in a process of Ray's, in the folder that the sweep was started in."""
    os.chdir(folder)
    os.environ.update(environment)
    setup_globals()
    # One that began on a machine which died is held until its lease is stale.
    while _is_held(assignment.directory):
        time.sleep(HELD_SECONDS)
    return carry_out(assignment)


def _is_held(directory: Path) -> bool:
    with contextlib.suppress(OSError, RequestError):
        record = Record.read(directory)
        return record.state == "running" and is_held(directory, record.lease)
    return False


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no word of it")
