"""A launcher that works on a Ray cluster, of one machine or of many."""

import contextlib
import importlib.util
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge

from resnet_sweep.config.check import check_value
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
# Of a resource; a part of one, too.
Amount = Annotated[float, Ge(0)]


class RayLauncher:
    """Each directory is a task of Ray's, which finds a place for it.

    A task whose process or machine dies is started again, on another machine if need be, and
    resumes from its checkpoint: the sweep's directory must be on a disk that all machines share.

    Args:
        address: a cluster's; None for the one that runs on this machine, or else for a Ray of this
            command's own, which ends with it.
        cpus: cores that a job takes.
        gpus: GPUs that a job takes, of which a fraction shares one; None for one, where there are
            some and the job may use them.
        retries: how often a job is started again whose process died; -1 for any number.
        device: `trainer.device`.
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
        check_value("hydra.launcher.cpus", cpus, Amount)
        check_value("hydra.launcher.gpus", gpus, Amount | None)
        check_value("hydra.launcher.retries", retries, Annotated[int, Ge(-1)])
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, retries
        self.device = device

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        # Imported here because Ray takes seconds that --help needn't wait.
        import ray

        stop = StopSignal().listen()
        handler = signal.getsignal(signal.SIGTERM)
        stopping = False
        try:
            ray.init(
                self.address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            # Ray has installed its own.
            signal.signal(signal.SIGTERM, handler)
            gpus = self.gpus
            if gpus is None:
                there = ray.cluster_resources().get("GPU", 0)
                gpus = int(there > 0 and self.device in ("auto", "cuda"))
            remote = ray.remote(_work).options(
                num_cpus=self.cpus, num_gpus=gpus, max_retries=self.retries
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
                        lines = filter(None, map(str.strip, str(error).splitlines()))
                        reason = f"its process was lost to Ray: {next(lines, 'no reason')}"
                    on_end(directory, None if stopping else reason)
        finally:
            ray.shutdown()
            stop.release()
        if stop.received:
            raise SystemExit(stop.exit_status)


def _work(
    work: Work, directory: Path, log: str, folder: str, environment: Mapping[str, str]
) -> Any:
    """Work in a directory, in a process of Ray's, in the folder that the sweep was started in."""
    os.chdir(folder)
    os.environ.update(environment)
    # A run that was on a machine which died is locked until its heartbeat is stale. A worker of a
    # study has no record.
    with contextlib.suppress(OSError, ConfigError):
        record = Record.read(directory)
        while record.state == "running" and is_held(directory, record.heartbeat):
            time.sleep(HELD_SECONDS)
            record = Record.read(directory)
    redirect_output(directory / log)
    try:
        return work(directory)
    except SystemExit:
        return "stopped"
