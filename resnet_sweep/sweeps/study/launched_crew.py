"""The workers of a study that a launcher finds places for."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from resnet_sweep.sweeps.frozen import freeze
from resnet_sweep.sweeps.launcher import build_launcher
from resnet_sweep.sweeps.study.crew import worker_command
from resnet_sweep.sweeps.study.worker import WORKERS, StudyWorker


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
