"""A launcher that has several jobs carried out at once on this machine."""

import os
from collections.abc import Iterator, Mapping
from multiprocessing.connection import wait

from resnet_sweep.errors import RequestError
from resnet_sweep.runs.run import bury
from resnet_sweep.sweeps.launcher import POLL_SECONDS, AssigningLauncher
from resnet_sweep.sweeps.worker import Assignment, Outcome, Worker
from resnet_sweep.training.interruption import StopRequest


class PoolLauncher(AssigningLauncher):
    """A pool of processes, each of which takes the next job as soon as it is free.

    A process that dies takes only its job with it, and another takes its place, as one does of a
    process whose job failed: what ails a GPU stays with the process that met it. On a machine with
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

    def carry_out(
        self, assignments: Iterator[Assignment], count: int, stop: StopRequest
    ) -> Mapping[int, Outcome]:
        """Have workers carry assignments out."""
        next_job = next(assignments, None)
        outcomes: dict[int, Outcome] = {}
        places = self._places(count)
        working: list[Worker] = []
        idle: list[Worker] = []
        told = False
        try:
            while working or (next_job and not told):
                if stop.received and not told:
                    told = True
                    for worker in working:
                        worker.stop()
                for worker in idle[:]:
                    if wait([worker.sentinel], timeout=0):
                        # Somebody ended it while it had nothing to do.
                        idle.remove(worker)
                        places.append(worker.environment)
                        worker.end()
                while next_job and not told and (idle or places):
                    worker = idle.pop() if idle else Worker(places.pop(0))
                    worker.assign(next_job)
                    working.append(worker)
                    next_job = next(assignments, None)
                ready = wait(
                    [each for worker in working for each in (worker.connection, worker.sentinel)],
                    timeout=POLL_SECONDS,
                )
                for worker in working[:]:
                    if not {worker.connection, worker.sentinel} & {*ready}:
                        continue
                    working.remove(worker)
                    outcome, assignment = worker.receive(), worker.assignment
                    if outcome is not None and (outcome.error is None or outcome.refused):
                        idle.append(worker)
                    else:
                        places.append(worker.environment)
                        reason = worker.end()
                        if outcome is None:
                            bury(assignment.directory, reason)
                            outcome = Outcome(error=reason)
                    outcomes[assignment.index] = outcome
        except BaseException:
            # A second Ctrl-C, or an error of ours.
            for worker in working:
                worker.kill()
            raise
        finally:
            for worker in (*working, *idle):
                worker.end()
        return outcomes

    def _places(self, jobs: int) -> list[dict[str, str]]:
        """The environment of each process that there is to be."""
        import torch

        device = self.config.trainer.device
        if torch.cuda.is_available() and (device == "auto" or device.startswith("cuda")):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "")
            gpus = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
            # One that is named, as in cuda:1, is that of the jobs, too.
            each = [{}] if ":" in device else [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
            places = each * self.jobs_per_gpu
            return places[: min(jobs, self.workers or len(places))]
        # Only Linux knows which of them are this process's.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        count = min(jobs, self.workers or cores)
        # Threads of processes side by side that outnumber the cores wait for each other.
        return [{"OMP_NUM_THREADS": str(max(1, cores // count))} for _ in range(count)]
