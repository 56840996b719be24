"""Launchers of frozen jobs, and what those have in common that hand each to another process."""

import shutil
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.errors import RequestError
from resnet_sweep.sweeps.frozen import FrozenConfigs
from resnet_sweep.sweeps.study.worker import StudyWorker
from resnet_sweep.sweeps.worker import Assignment, Outcome
from resnet_sweep.training.interruption import StopRequest

POLL_SECONDS = 0.2


def build_launcher(
    context: HydraContext, task_function: TaskFunction, config: DictConfig
) -> Launcher:
    """The launcher that is asked for, of jobs that are frozen.

    Args:
        context: of Hydra's.
        task_function: what a job does.
        config: of the sweep as a whole.

    Raises:
        RequestError: there can't be such a launcher here, or not with these settings.
    """
    slurm = str(config.hydra.launcher._target_).endswith(".SlurmLauncher")
    if slurm and not (shutil.which("sbatch") and shutil.which("srun")):
        raise RequestError(
            "hydra/launcher=slurm needs SLURM's sbatch and srun, which aren't here: give the "
            "command on a machine that submits jobs to the cluster"
        )
    frozen = HydraContext(
        config_loader=FrozenConfigs(config.hydra.sweep.dir),
        callbacks=context.callbacks,
        execution_whitelist=context.execution_whitelist,
    )
    return Plugins.instance().instantiate_launcher(
        hydra_context=frozen, task_function=task_function, config=config
    )


class AssigningLauncher(Launcher):
    """Hands out the jobs of a sweep as assignments, and is told what came of each."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `launch`."""
        self.context, self.config = hydra_context, config
        # Any other is the program's own, which goes without saying from process to process.
        self.errand = task_function if isinstance(task_function, StudyWorker) else None

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
        """
        configure_log(
            self.config.hydra.hydra_logging,
            self.config.hydra.verbose,
            execution_whitelist=self.context.execution_whitelist,
        )
        assignments = Assignment.all_of(
            self.context, self.config, job_overrides, initial_job_idx, self.errand
        )
        stop = StopRequest().listen()
        try:
            outcomes = self.carry_out(assignments, len(job_overrides), stop)
            if stop.received:
                raise SystemExit(stop.status)
        finally:
            stop.release()
        return [outcomes[index].as_return(words) for index, words in enumerate(job_overrides)]

    @abstractmethod
    def carry_out(
        self, assignments: Iterator[Assignment], count: int, stop: StopRequest
    ) -> Mapping[int, Outcome]:
        """Have assignments carried out.

        Args:
            assignments: each is composed when it is asked for.
            count: how many there are.
            stop: when it is received, what runs is to be saved, and no more is to begin.

        Returns:
            What came of each, by its index; of all, unless `stop` was received.
        """
