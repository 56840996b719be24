"""A launcher that runs tasks on a Ray cluster."""

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
from resnet_sweep.sweeps.launchers import IsReady, OnEnd, Work, always_ready
from resnet_sweep.sweeps.launchers.pool import POLL_SECONDS, redirect_output
from resnet_sweep.training.signals import StopSignal

# Seconds between two checks of a run that is still locked.
HELD_SECONDS = 1
# Environment variables with this prefix are also set in the tasks.
ENVIRONMENT = "RESNET_SWEEP_"
# A number of cores or GPUs, possibly fractional.
Amount = Annotated[float, Ge(0)]


class RayLauncher:
    """Submits a Ray task for every directory.

    If the process or the machine of a task dies, Ray restarts the task, possibly on another
    machine, and the run resumes from its checkpoint. The sweep directory must be on a disk that all
    machines share.

    Args:
        address: address of a cluster; None for the cluster on this machine, or for a new one that
            ends with the command if there is none.
        cpus: number of cores for a job.
        gpus: number of GPUs for a job, possibly fractional; None for one GPU if the cluster has
            GPUs and `device` allows them.
        retries: how often a job is restarted after its process died; -1 for no limit.
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

    def launch(
        self,
        work: Work,
        directories: Sequence[Path],
        log: str,
        on_end: OnEnd,
        is_ready: IsReady = always_ready,
    ) -> None:
        # Imported here because Ray takes seconds, and --help doesn't need it.
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
            # Ray has installed its own handler.
            signal.signal(signal.SIGTERM, handler)
            gpus = self.gpus
            if gpus is None:
                available = ray.cluster_resources().get("GPU", 0)
                gpus = int(available > 0 and self.device in ("auto", "cuda"))
            remote = ray.remote(_work).options(
                num_cpus=self.cpus, num_gpus=gpus, max_retries=self.retries
            )
            environment = {
                name: value for name, value in os.environ.items() if name.startswith(ENVIRONMENT)
            }
            waiting = [*directories]
            running: dict[Any, Path] = {}
            while running or (waiting and not stopping):
                if stop.received and not stopping:
                    stopping = True
                    for task in running:
                        ray.cancel(task)
                if not stopping:
                    ready = [*filter(is_ready, waiting)] or ([] if running else waiting)
                    waiting = [directory for directory in waiting if directory not in {*ready}]
                    for directory in ready:
                        task = remote.remote(work, directory, log, os.getcwd(), environment)
                        running[task] = directory
                for task in ray.wait([*running], timeout=POLL_SECONDS)[0]:
                    directory, reason = running.pop(task), None
                    try:
                        ray.get(task)
                    except ray.exceptions.RayError as error:
                        lines = filter(None, map(str.strip, str(error).splitlines()))
                        reason = f"Ray lost its process: {next(lines, 'no reason given')}"
                    on_end(directory, None if stopping else reason)
        finally:
            ray.shutdown()
            stop.release()
        if stop.received:
            raise SystemExit(stop.exit_status)


def _work(
    work: Work, directory: Path, log: str, folder: str, environment: Mapping[str, str]
) -> Any:
    """Do work in a directory, in a process of Ray that changes to the folder of the command."""
    os.chdir(folder)
    os.environ.update(environment)
    # If the machine of a run failed, the run stays locked until its heartbeat is stale. Errors are
    # suppressed, because the directory of a study's worker has no record.
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
