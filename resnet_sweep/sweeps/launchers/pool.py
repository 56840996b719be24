"""A launcher that works in several processes of this machine at once."""

import os
import signal
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from resnet_sweep.errors import ConfigError
from resnet_sweep.sweeps.launchers import OnEnd, Work
from resnet_sweep.training.signals import StopSignal

POLL_SECONDS = 0.2
# Not forked: a fork has the locks of the parent's threads, and can't use its GPU.
_CONTEXT = get_context("spawn")


class PoolLauncher:
    """A pool of processes, each of which takes the next directory as soon as it is free.

    A process that dies takes only its job with it, and another takes its place, as one does of a
    process whose job failed: an error of a GPU stays with the process that met it. On a machine
    with GPUs each process has one, or shares it with others; without, the CPU's cores are divided
    among the processes.

    Args:
        workers: processes at once; None for as many as there are GPUs, or else CPU cores.
        jobs_per_gpu: how many processes share a GPU.
        device: `trainer.device`.

    Raises:
        ConfigError: one of these is less than 1.
    """

    def __init__(
        self, workers: int | None = None, jobs_per_gpu: int = 1, device: str = "auto"
    ) -> None:
        for name, value in (("workers", workers), ("jobs_per_gpu", jobs_per_gpu)):
            if name == "workers" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(
                    f"hydra.launcher.{name} must be a whole number at least 1, but is {value}"
                )
        self.workers, self.jobs_per_gpu, self.device = workers, jobs_per_gpu, device

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        stop = StopSignal().listen()
        waiting = [*directories]
        environments = self.environments(len(waiting))
        busy: list[_Worker] = []
        idle: list[_Worker] = []
        stopping = False
        try:
            while busy or (waiting and not stopping):
                if stop.received and not stopping:
                    stopping = True
                    for worker in busy:
                        worker.stop()
                for worker in idle[:]:
                    # Idle processes can be killed from outside, too.
                    if wait([worker.sentinel], timeout=0):
                        idle.remove(worker)
                        environments.append(worker.environment)
                        worker.end()
                while waiting and not stopping and (idle or environments):
                    worker = idle.pop() if idle else _Worker(environments.pop(0))
                    worker.start(work, waiting.pop(0), log)
                    busy.append(worker)
                ready = {
                    *wait(
                        [end for worker in busy for end in (worker.connection, worker.sentinel)],
                        timeout=POLL_SECONDS,
                    )
                }
                for worker in busy[:]:
                    if not {worker.connection, worker.sentinel} & ready:
                        continue
                    busy.remove(worker)
                    directory, state, reason = worker.directory, worker.receive(), None
                    if state is None or state == "failed":
                        environments.append(worker.environment)
                        reason = worker.end()
                    else:
                        idle.append(worker)
                    # A process that was stopped before its work began has lost nothing.
                    on_end(directory, reason if state is None and not stopping else None)
        except BaseException:
            for worker in busy:
                worker.kill()
            raise
        finally:
            for worker in (*busy, *idle):
                worker.end()
            stop.release()
        if stop.received:
            raise SystemExit(stop.exit_status)

    def environments(self, count: int) -> list[dict[str, str]]:
        """Return the environment variables of each process.

        Args:
            count: how many directories there are.
        """
        import torch

        device = self.device
        if torch.cuda.is_available() and (device == "auto" or device.startswith("cuda")):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "")
            gpus = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
            # A device with a number, as in cuda:1, is the one of all jobs.
            places = [{}] if ":" in device else [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
            places = places * self.jobs_per_gpu
            return places[: min(count, self.workers or len(places))]
        # Only Linux knows which cores this process may use.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        processes = min(count, self.workers or cores)
        # More threads than cores would wait for each other.
        return [{"OMP_NUM_THREADS": str(max(1, cores // processes))} for _ in range(processes)]


class _Worker:
    """A process of the pool, as its parent sees it.

    Args:
        environment: variables that are set there before torch is imported.

    Attributes:
        directory: that it works in.
        connection: has something to receive when the work has ended.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.directory = Path()
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, self.environment))
        # Until it has a session of its own, Ctrl-C on the terminal would reach it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()

    @property
    def sentinel(self) -> int:
        """Ready, for `wait`, when the process has ended."""
        return self._process.sentinel

    def start(self, work: Work, directory: Path, log: str) -> None:
        """Start the work in a directory."""
        self.directory = directory
        self.connection.send((work, directory, log))

    def receive(self) -> str | None:
        """Return what the work returned, as text; None if the process ended without a result."""
        try:
            return str(self.connection.recv())
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        """Ask the process to save its state and to exit."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()

    def end(self) -> str:
        """Wait until the process has exited; return how, as a sentence without a period."""
        self.connection.close()
        self._process.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            reason = f"its process was killed by {signal.Signals(-code).name}"
            return reason + (", as when memory runs out" if code == -signal.SIGKILL else "")
        return f"its process exited with status {code}"


def _serve(connection: Connection, environment: Mapping[str, str]) -> None:
    """Work in one directory after the other, in a process of the pool."""
    os.environ.update(environment)
    # Ctrl-C on the terminal is for the parent, which stops its processes itself.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()
    while True:
        try:
            work, directory, log = connection.recv()
        except EOFError:
            return
        redirect_output(directory / log)
        connection.send(work(directory))


def redirect_output(path: Path) -> None:
    """Write what this process prints from now on into a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _follow_parent() -> None:
    """Stop, with the state saved, when the parent process is gone."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
