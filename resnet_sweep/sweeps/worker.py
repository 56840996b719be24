"""A process that carries out one job after another, for the pool; and what a job is to it."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Self

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from resnet_sweep.errors import JobFailed, RequestError
from resnet_sweep.sweeps.study.worker import LOG

# Not forked: a fork has the locks of the parent's threads, and no way to use its GPU.
_CONTEXT = get_context("spawn")


class Assignment(NamedTuple):
    """A job for a worker.

    Attributes:
        index: of the job among those that are launched.
        config: composed, with `hydra`.
        task_name: as Hydra calls the program.
        callbacks: Hydra's, told when the job begins and ends.
        execution_whitelist: what the config may name.
        errand: what is to be done; None for the run that the config describes.
    """

    index: int
    config: DictConfig
    task_name: str
    callbacks: Any
    execution_whitelist: Any
    errand: TaskFunction | None

    @classmethod
    def all_of(
        cls,
        context: HydraContext,
        master: DictConfig,
        job_overrides: Sequence[Sequence[str]],
        first: int,
        errand: TaskFunction | None,
    ) -> Iterator[Self]:
        """The assignments that a launcher hands out, each composed when it is asked for.

        Args:
            context: of Hydra's.
            master: the config of the sweep as a whole.
            job_overrides: the words of each job.
            first: the number of the first job.
            errand: what each is to do; None for the run that its config describes.
        """
        for index, words in enumerate(job_overrides):
            config = context.config_loader.load_sweep_config(master, list(words))
            # One that is frozen has the number of its place in the sweep.
            if OmegaConf.is_missing(config.hydra.job, "num"):
                with open_dict(config):
                    config.hydra.job.num = first + index
                    config.hydra.job.id = str(first + index)
            name = JobRuntime.instance().get("name")
            yield cls(index, config, name, context.callbacks, context.execution_whitelist, errand)

    @property
    def directory(self) -> Path:
        """Where the job's run is to be."""
        sweep = self.config.hydra.sweep
        return Path(os.path.abspath(os.path.join(str(sweep.dir), str(sweep.subdir))))

    @property
    def log(self) -> Path:
        """Where what its process prints is to go."""
        return self.directory / ("train.log" if self.errand is None else LOG)


class Outcome(NamedTuple):
    """What came of a job, in a form that goes from process to process.

    Hydra's own has the error itself in it, whose trace can take for ever to send.

    Attributes:
        value: what the job returned; None if it didn't.
        error: what kept it from that, as text; None if nothing did.
        refused: whether the error is one of the request.
    """

    value: Any = None
    error: str | None = None
    refused: bool = False

    def as_return(self, words: Sequence[str]) -> JobReturn:
        """The same for Hydra; `words` are the job's."""
        failed = self.error is not None
        returned = JobReturn(
            overrides=list(words), status=JobStatus.FAILED if failed else JobStatus.COMPLETED
        )
        kind = RequestError if self.refused else JobFailed
        returned._return_value = kind(self.error) if failed else self.value
        return returned


STOPPED = Outcome(error="stopped")


class Worker:
    """A process of the pool, as its parent sees it.

    Args:
        environment: variables that are set there before torch is loaded.

    Attributes:
        assignment: what it works on; None if it is idle.
        connection: has an outcome to receive when a job is done.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.assignment: Assignment | None = None
        self.connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(theirs, dict(environment)))
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

    def assign(self, assignment: Assignment) -> None:
        """Have it carry out a job."""
        self.assignment = assignment
        self.connection.send(assignment)

    def receive(self) -> Outcome | None:
        """The outcome of its job; None if the process ended without one."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def stop(self) -> None:
        """Have it save what it is at, and end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def end(self) -> str:
        """Wait until the process has ended; returns how it did, as a sentence without a period."""
        self.connection.close()
        self._process.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            told = f"its process was killed by {signal.Signals(-code).name}"
            # What the system does when memory runs out leaves no other trace.
            return told + (", as when memory runs out" if code == -signal.SIGKILL else "")
        return f"its process ended with status {code}"


def _work(connection: Connection, environment: Mapping[str, str]) -> None:
    """What the process does: jobs, until there are none, or it is told to stop."""
    os.environ.update(environment)
    # Ctrl-C on the terminal is for the parent, which tells its workers what to do.
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_follow_parent, daemon=True).start()
    setup_globals()
    while True:
        try:
            assignment: Assignment = connection.recv()
        except EOFError:
            return
        outcome = carry_out(assignment)
        connection.send(outcome)
        if outcome == STOPPED:
            return


def carry_out(assignment: Assignment) -> Outcome:
    """Carry out a job in this process, whose output goes to the job's log from then on.

    Returns:
        What came of it; `STOPPED` if the process was told to stop, with the job saved.
    """
    # Imported here because torch reads the environment when it is loaded.
    from resnet_sweep.composition.task import task

    JobRuntime.instance().set("name", assignment.task_name)
    try:
        _divert_output(assignment.log)
        return _outcome(assignment, assignment.errand or task)
    except SystemExit:
        return STOPPED
    except OSError as error:
        return Outcome(error=f"its directory can't be used: {error}")


def _outcome(assignment: Assignment, task: TaskFunction) -> Outcome:
    returned = run_job(
        hydra_context=HydraContext(
            config_loader=None,
            callbacks=assignment.callbacks,
            execution_whitelist=assignment.execution_whitelist,
        ),
        task_function=task,
        config=assignment.config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if returned.status is JobStatus.COMPLETED:
        return Outcome(value=returned._return_value)
    error = returned._return_value
    refused = isinstance(error, RequestError)
    return Outcome(
        error=str(error) if refused else f"{type(error).__name__}: {error}", refused=refused
    )


def _divert_output(path: Path) -> None:
    """Have what the job prints go to its log, as far as it isn't the sweep's to tell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _follow_parent() -> None:
    """Stop, with the state saved, when there is nobody left to work for."""
    wait([parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
