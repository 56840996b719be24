"""A launcher that has several jobs carried out at once on this machine."""

import os
from collections.abc import Sequence
from multiprocessing.connection import wait

from hydra.core.utils import JobReturn, configure_log
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.errors import RequestError
from resnet_sweep.sweeps.worker import Assignment, Outcome, Worker

POLL_SECONDS = 0.2


class PoolLauncher(Launcher):
    """A pool of processes, each of which takes the next job as soon as it is free.

    A process that dies takes only its job with it, and another takes its place. On a machine with
    GPUs each job has one, or shares it with others; without, the CPU's cores are divided among
    the processes.

    Args:
        workers: jobs at once; None for as many as there are places.
        jobs_per_gpu: how many share a GPU.

    Raises:
        RequestError: one of these is less than 1.
    """

    def __init__(self, workers: int | None = None, jobs_per_gpu: int = 1) -> None:
        for name, value in (("workers", workers), ("jobs_per_gpu", jobs_per_gpu)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not (whole and value >= 1) and not (name == "workers" and value is None):
                raise RequestError(
                    f"hydra.launcher.{name} must be a whole number at least 1, but is {value}"
                )
        self.workers, self.jobs_per_gpu = workers, jobs_per_gpu

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
        # Imported here because torch takes seconds that --help needn't wait.
        from resnet_sweep.runs.run import bury
        from resnet_sweep.training.interruption import StopRequest

        configure_log(
            self.config.hydra.hydra_logging,
            self.config.hydra.verbose,
            execution_whitelist=self.context.execution_whitelist,
        )
        waiting = Assignment.all_of(self.context, self.config, job_overrides, initial_job_idx)
        next_job = next(waiting, None)
        outcomes: dict[int, Outcome] = {}
        places = self._places(len(job_overrides))
        working: list[Worker] = []
        idle: list[Worker] = []
        stop = StopRequest().listen()
        told = False
        try:
            while working or (next_job and not told):
                if stop.received and not told:
                    told = True
                    for worker in working:
                        worker.stop()
                while next_job and not told and (idle or places):
                    worker = idle.pop() if idle else Worker(places.pop(0))
                    worker.assign(next_job)
                    working.append(worker)
                    next_job = next(waiting, None)
                ready = wait(
                    [each for worker in working for each in (worker.connection, worker.sentinel)],
                    timeout=POLL_SECONDS,
                )
                for worker in working[:]:
                    if not {worker.connection, worker.sentinel} & {*ready}:
                        continue
                    working.remove(worker)
                    outcome, assignment = worker.receive(), worker.assignment
                    if outcome is None:
                        places.append(worker.environment)
                        reason = worker.end()
                        bury(assignment.directory, reason)
                        outcome = Outcome(error=reason)
                    else:
                        idle.append(worker)
                    outcomes[assignment.index] = outcome
            if stop.received:
                raise SystemExit(stop.status)
        except BaseException:
            # A second Ctrl-C, or an error of ours.
            for worker in working:
                worker.kill()
            raise
        finally:
            stop.release()
            for worker in (*working, *idle):
                worker.end()
        return [outcomes[index].as_return(words) for index, words in enumerate(job_overrides)]

    def _places(self, jobs: int) -> list[dict[str, str]]:
        """The environment of each process that there is to be."""
        import torch

        if torch.cuda.is_available() and self.config.trainer.device in ("auto", "cuda"):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "")
            gpus = visible.split(",") if visible else map(str, range(torch.cuda.device_count()))
            places = [
                {"CUDA_VISIBLE_DEVICES": gpu} for _ in range(self.jobs_per_gpu) for gpu in gpus
            ]
            return places[: min(jobs, self.workers or len(places))]
        cores = len(os.sched_getaffinity(0))
        count = min(jobs, self.workers or cores)
        # Threads of processes side by side that outnumber the cores wait for each other.
        return [{"OMP_NUM_THREADS": str(max(1, cores // count))} for _ in range(count)]
