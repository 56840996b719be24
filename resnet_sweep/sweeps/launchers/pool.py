"""A launcher that runs several processes on this machine."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

from resnet_sweep.config.check import check_value
from resnet_sweep.ranges import Count
from resnet_sweep.sweeps.launchers import IsReady, OnEnd, Work, always_ready
from resnet_sweep.training.signals import StopSignal

POLL_SECONDS = 0.2
# A forked process would have locks of the parent's threads, and couldn't use its GPU.
_CONTEXT = get_context("spawn")


class PoolLauncher:
    """A pool of processes; a free process takes the next directory that is ready.

    A process that dies is replaced, and only its job fails. A process whose job failed is replaced
    too, because an error of a GPU persists within a process. On a machine with GPUs, the GPUs are
    divided among the processes, otherwise the CPU cores.

    Args:
        workers: largest number of processes; None for `jobs_per_gpu` per GPU, or one per core.
        jobs_per_gpu: number of processes that share a GPU.
        device: `trainer.device`.
    """

    def __init__(
        self, workers: int | None = None, jobs_per_gpu: int = 1, device: str = "auto"
    ) -> None:
        check_value("hydra.launcher.workers", workers, Count | None)
        check_value("hydra.launcher.jobs_per_gpu", jobs_per_gpu, Count)
        self.workers, self.jobs_per_gpu, self.device = workers, jobs_per_gpu, device

    def launch(
        self,
        work: Work,
        directories: Sequence[Path],
        log: str,
        on_end: OnEnd,
        is_ready: IsReady = always_ready,
    ) -> None:
        stop = StopSignal().listen()
        waiting = [*directories]
        free = [_Worker(environment) for environment in self.environments(len(waiting))]
        busy: list[_Worker] = []
        stopping = False
        try:
            while busy or (waiting and not stopping):
                if stop.received and not stopping:
                    stopping = True
                    for worker in busy:
                        worker.process.terminate()
                while free and waiting and not stopping:
                    directory = next(filter(is_ready, waiting), None if busy else waiting[0])
                    if directory is None:
                        break
                    waiting.remove(directory)
                    free[0].start(work, directory, log)
                    busy.append(free.pop(0))
                ends = [end for worker in busy for end in worker.ends]
                ready = {*wait(ends, timeout=POLL_SECONDS)}
                for worker in [worker for worker in busy if ready.intersection(worker.ends)]:
                    busy.remove(worker)
                    free.append(worker)
                    state, reason = worker.receive(), None
                    if state in (None, "failed"):
                        reason = worker.end()
                    # A process that was stopped before its work started hasn't failed.
                    on_end(worker.directory, reason if state is None and not stopping else None)
        except BaseException:
            for worker in busy:
                worker.process.kill()
            raise
        finally:
            for worker in (*busy, *free):
                worker.end()
            stop.release()
        if stop.received:
            raise SystemExit(stop.exit_status)

    def environments(self, count: int) -> list[dict[str, str]]:
        """Return the environment variables of every process, for a number of directories."""
        import torch

        device = self.device
        if torch.cuda.is_available() and (device == "auto" or device.startswith("cuda")):
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "")
            gpus = visible.split(",") if visible else [*map(str, range(torch.cuda.device_count()))]
            # A device with a number, such as cuda:1, is used by all jobs.
            slots = [{}] if ":" in device else [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]
            slots = slots * self.jobs_per_gpu
            return slots[: min(count, self.workers or len(slots))]
        # Only Linux reports which cores this process may use.
        affinity = getattr(os, "sched_getaffinity", None)
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        processes = min(count, self.workers or cores)
        # More threads than cores would slow each other down.
        return [{"OMP_NUM_THREADS": str(max(1, cores // processes))} for _ in range(processes)]


class _Worker:
    """A slot of the pool, with its current process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.directory = Path()
        # A placeholder, which is never started.
        self.process = _CONTEXT.Process()

    def start(self, work: Work, directory: Path, log: str) -> None:
        """Start the work in a directory, in a new process if the slot has no live one."""
        if not self.process.is_alive():
            self.end()
            self._connection, theirs = _CONTEXT.Pipe()
            self.process = _CONTEXT.Process(target=_serve, args=(theirs, self.environment))
            # Until the process has its own session, Ctrl-C on the terminal would reach it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                with _without_main_module():
                    self.process.start()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self.directory = directory
        self._connection.send((work, directory, log))

    @property
    def ends(self) -> tuple[Connection, int]:
        """The objects that `wait` returns when the work or the process has ended."""
        return self._connection, self.process.sentinel

    def receive(self) -> str | None:
        """Return the result of the work as text; None if the process exited without a result."""
        try:
            return str(self._connection.recv())
        except (EOFError, OSError):
            return None

    def end(self) -> str:
        """Wait until the process has exited; return a clause that describes how."""
        if self.process.pid is None:
            return "its process never started"
        self._connection.close()
        self.process.join()
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process exited with status {code}"
        hint = ", possibly for lack of memory" if code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Hide the main module within a `with` block, so that a new process doesn't run it.

    A spawned process first runs the main module of its parent, for classes that are defined there.
    The processes of the pool need none. A script that starts a sweep would start it again.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Connection, environment: Mapping[str, str]) -> None:
    """Do work in directories that the connection receives, in a process of the pool."""
    # The variables are set before torch is imported, because torch reads them once.
    os.environ.update(environment)
    # With a session of its own, it doesn't receive Ctrl-C; the parent stops its processes itself.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    while True:
        try:
            work, directory, log = connection.recv()
        except EOFError:
            return
        redirect_output(directory / log)
        connection.send(work(directory))


def redirect_output(path: Path) -> None:
    """Append all further output of this process to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _stop_with_parent() -> None:
    """Send SIGTERM to this process when the parent process has exited."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
