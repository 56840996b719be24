"""A worker of a study as a job of a launcher, on whatever machine that finds for it."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from resnet_sweep.errors import JobFailed
from resnet_sweep.training.interruption import TERMINATED, StopRequest

# Where a worker has its log: in a directory of its job, under this one of the sweep's.
WORKERS, LOG = "workers", "worker.log"
# Set in the environment of the process that works.
WORKER = "RESNET_SWEEP_WORKER"
POLL_SECONDS = 0.2


class StudyWorker:
    """Joins a study by its command, in a process of its own, and stays until no trial is left.

    A job that submitit started, and that is warned that it will be killed, works on: its trial is
    saved then, and it takes one again.

    Args:
        command: that joins the study.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.command = [*command]

    def __call__(self, config: DictConfig) -> None:
        """Do it.

        Args:
            config: of the job, as Hydra hands it over; what counts is the command.

        Raises:
            JobFailed: the process was lost, or refused.
            SystemExit: it was asked to stop; its trial is saved.
        """
        stop = StopRequest().listen()
        log = Path(HydraConfig.get().runtime.output_dir) / LOG
        try:
            with log.open("a") as file:
                status = self._work(stop, file)
                # The warning may have come before it could listen.
                while stop.endangered and status in (TERMINATED, -signal.SIGTERM):
                    stop.endangered = False
                    status = self._work(stop, file)
        finally:
            stop.release()
        if stop.received:
            raise SystemExit(stop.status)
        # With 1 it says that not all trials came to what was asked for, as the study says itself.
        if status < 0:
            raise JobFailed(f"it was killed by {signal.Signals(-status).name}")
        if status > 1:
            raise JobFailed(f"it ended with status {status}; {log} says why")

    def _work(self, stop: StopRequest, log: IO[str]) -> int:
        environment = {**os.environ, WORKER: "1"}
        with subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment
        ) as process:
            told = False
            while process.poll() is None:
                if (stop.received or stop.endangered) and not told:
                    told = True
                    process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        return process.returncode


def is_launched() -> bool:
    """Whether this process is one that a `StudyWorker` started."""
    return WORKER in os.environ


def follow() -> None:
    """Have a launched process end, with its trial saved, when its `StudyWorker` is gone."""

    def wait() -> None:
        # Nobody writes there, and the system closes it.
        os.read(sys.stdin.fileno(), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
