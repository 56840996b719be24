"""A launcher that works on a Ray cluster, of one machine or of many."""

import contextlib
import importlib.util
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from resnet_sweep.config.errors import missing_package
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import is_held
from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps.launchers import OnEnd, Work
from resnet_sweep.sweeps.launchers.pool import POLL_SECONDS, redirect_output
from resnet_sweep.training.signals import StopSignal

HELD_SECONDS = 1
# Variables with this prefix are set for the work elsewhere as well.
ENVIRONMENT = "RESNET_SWEEP_"


class RayLauncher:
    """Each directory is a task of Ray's, which finds a place for it.

    A task whose process or machine dies is started again, on another machine if need be, and
    resumes from its checkpoint: the sweep's directory must be on a disk that all machines share.

    Args:
        address: of a cluster; None for the one that runs on this machine, or else for a Ray of
            this command's own, which ends with it.
        cpus: cores that a job takes.
        gpus: GPUs that a job takes, of which a fraction shares one; None for one, where there are
            some and the job may use them.
        retries: how often a job is started again whose process died; -1 for any number.
        device: `trainer.device`.

    Raises:
        ConfigError: one of these can't be, or Ray isn't installed.
    """

    def __init__(
        self,
        address: str | None = None,
        cpus: float = 1,
        gpus: float | None = None,
        retries: int = 3,
        device: str = "auto",
    ) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(missing_package("hydra/launcher=ray", "ray", "ray"))
        for name, value, least in (("cpus", cpus, 0), ("gpus", gpus, 0), ("retries", retries, -1)):
            number = isinstance(value, Real) and not isinstance(value, bool) and value >= least
            if not number and not (name == "gpus" and value is None):
                raise ConfigError(
                    f"hydra.launcher.{name} must be a number at least {least}, but is {value}"
                )
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, int(retries)
        self.device = device

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        # Imported here because Ray takes seconds that --help needn't wait.
        import ray

        stop = StopSignal().listen()
        self._connect()
        stopping = False
        try:
            remote = ray.remote(_work).options(
                num_cpus=self.cpus, num_gpus=self._gpus(), max_retries=self.retries
            )
            environment = {
                name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)
            }
            running = {
                remote.remote(work, directory, log, os.getcwd(), environment): directory
                for directory in directories
            }
            while running:
                if stop.received and not stopping:
                    stopping = True
                    for task in running:
                        ray.cancel(task)
                for task in ray.wait([*running], timeout=POLL_SECONDS)[0]:
                    directory, reason = running.pop(task), None
                    try:
                        ray.get(task)
                    except ray.exceptions.RayError as error:
                        reason = f"its process was lost to Ray: {_first_line(error)}"
                    on_end(directory, None if stopping else reason)
        finally:
            ray.shutdown()
            stop.release()
        if stop.received:
            raise SystemExit(stop.exit_status)

    def _connect(self) -> None:
        import ray

        # Ray installs its own handler of the signal, which the sweep handles itself.
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        finally:
            signal.signal(signal.SIGTERM, before)

    def _gpus(self) -> float:
        import ray

        if self.gpus is not None:
            return self.gpus
        there = ray.cluster_resources().get("GPU", 0)
        return int(there > 0 and self.device in ("auto", "cuda"))


def _work(
    work: Work, directory: Path, log: str, folder: str, environment: Mapping[str, str]
) -> Any:
    """Work in a directory, in a process of Ray's, in the folder that the sweep was started in."""
    os.chdir(folder)
    os.environ.update(environment)
    # A run that was on a machine which died is locked until its heartbeat is stale.
    while _is_held(directory):
        time.sleep(HELD_SECONDS)
    redirect_output(directory / log)
    try:
        return work(directory)
    except SystemExit:
        return "stopped"


def _is_held(directory: Path) -> bool:
    with contextlib.suppress(OSError, ConfigError):
        record = Record.read(directory)
        return record.state == "running" and is_held(directory, record.heartbeat)
    return False


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
