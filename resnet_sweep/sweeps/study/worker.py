"""A worker of a study as a job of a launcher, on whatever machine that finds for it."""

import contextlib
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from resnet_sweep.errors import JobFailed
from resnet_sweep.training.interruption import TERMINATED, StopRequest

# In the directory of the job.
LOG = "worker.log"
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
                while (status := self._work(stop, file)) == TERMINATED and stop.endangered:
                    stop.endangered = False
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
        with subprocess.Popen(self.command, stdout=log, stderr=log) as process:
            told = False
            while process.poll() is None:
                if (stop.received or stop.endangered) and not told:
                    told = True
                    process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
        return process.returncode
