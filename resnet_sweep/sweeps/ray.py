"""A launcher that has jobs carried out by Ray, on one machine or on many."""

import contextlib
import importlib.util
import os
import signal
import time
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path

from hydra.core.utils import setup_globals

from resnet_sweep.composition.complaint import missing_package
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.lease import is_held
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import bury
from resnet_sweep.sweeps.launcher import POLL_SECONDS, AssigningLauncher
from resnet_sweep.sweeps.worker import Assignment, Outcome, carry_out
from resnet_sweep.training.interruption import StopRequest

HELD_SECONDS = 1
# What is set here is meant for jobs elsewhere as well.
ENVIRONMENT = "RESNET_SWEEP_"


class RayLauncher(AssigningLauncher):
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

    def carry_out(
        self, assignments: Iterator[Assignment], count: int, stop: StopRequest
    ) -> Mapping[int, Outcome]:
        """Have Ray carry assignments out.

        Raises:
            ConnectionError: there is no cluster at the address.
        """
        # Imported here because Ray takes seconds that --help needn't wait.
        import ray

        self._connect()
        outcomes: dict[int, Outcome] = {}
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
                for assignment in assignments
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
        finally:
            ray.shutdown()
        return outcomes

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
