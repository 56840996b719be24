"""What launchers have in common that hand each job to a process of another."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.sweeps.worker import Assignment, Outcome
from resnet_sweep.training.interruption import StopRequest

POLL_SECONDS = 0.2


class AssigningLauncher(Launcher):
    """Hands out the jobs of a sweep as assignments, and is told what came of each."""

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
        """
        configure_log(
            self.config.hydra.hydra_logging,
            self.config.hydra.verbose,
            execution_whitelist=self.context.execution_whitelist,
        )
        assignments = Assignment.all_of(self.context, self.config, job_overrides, initial_job_idx)
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
