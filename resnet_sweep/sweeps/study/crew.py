"""The workers that a command of a study starts, beside itself or by a launcher."""

import subprocess
import sys
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Self

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from resnet_sweep.sweeps.frozen import freeze
from resnet_sweep.sweeps.launcher import build_launcher
from resnet_sweep.sweeps.study.worker import WORKERS, StudyWorker


def worker_command(words: Sequence[str], directory: Path) -> list[str]:
    """The command that joins a study as one worker.

    Args:
        words: of the command that began it.
        directory: of the sweep.
    """
    place = QuotedString(str(directory), Quote.single).with_quotes()
    # Of two words for one key, the later holds.
    own = [*words, f"hydra.sweep.dir={place}", "hydra.sweeper.n_jobs=1"]
    return [sys.executable, "-m", "resnet_sweep", *own]


class Crew:
    """Processes of the same command in the same directory, within a `with` block.

    They end by themselves when no trial is left, and are asked to when this process is stopped. One
    that dies leaves its trial to the others.

    Args:
        words: of this command.
        directory: of the sweep.
        count: how many.
    """

    def __init__(self, words: Sequence[str], directory: Path, count: int) -> None:
        self.command = worker_command(words, directory)
        self.count = count
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        # What they do is on screen once, told by this process.
        for _ in range(self.count):
            self.processes.append(subprocess.Popen(self.command, stdout=subprocess.DEVNULL))
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        for process in self.processes:
            if kind is not None:
                process.terminate()
        for process in self.processes:
            process.wait()


class LaunchedCrew:
    """Workers that a launcher finds places for, a job each.

    Args:
        words: of this command.
        context: of Hydra's.
        config: of the study as a whole.
        count: how many.

    Raises:
        RequestError: there can't be such a launcher here.
    """

    def __init__(
        self, words: Sequence[str], context: HydraContext, config: DictConfig, count: int
    ) -> None:
        self.words, self.context, self.config, self.count = words, context, config, count
        # Once before anything is written.
        build_launcher(context, self._worker(Path()), config)

    def launch(self, directory: Path) -> list[str]:
        """Have them work on the study until no trial is left, or they are lost.

        Args:
            directory: of the sweep.

        Returns:
            What became of those that were lost, a sentence without a period each.

        Raises:
            SystemExit: this process was asked to stop, and what ran is saved.
        """
        with read_write(self.config.hydra.sweep):
            # A storage may have known of it.
            self.config.hydra.sweep.dir = str(directory)
        launcher = build_launcher(self.context, self._worker(directory), self.config)
        jobs = [[f"worker={number}", self._job(number)] for number in range(self.count)]
        returned: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=0)
        return [
            f"worker {number}: {each._return_value}"
            for number, each in enumerate(returned)
            if isinstance(each, JobReturn) and each.status is JobStatus.FAILED
        ]

    def _job(self, number: int) -> str:
        config = deepcopy(self.config)
        OmegaConf.set_readonly(config.hydra, False)
        with open_dict(config):
            # Directories of the name of a number are those of trials.
            config.hydra.sweep.subdir = f"{WORKERS}/{number}"
            config.hydra.output_subdir = None
            # What the words of the command name is where that was given.
            config.hydra.job.chdir = False
            # What a worker says, it says in a process of its own.
            config.hydra.job_logging.root.handlers = []
        return freeze(config)

    def _worker(self, directory: Path) -> StudyWorker:
        return StudyWorker(worker_command(self.words, directory))
