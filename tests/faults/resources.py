"""Runs with too few resources, and several processes in one directory."""

import ctypes
import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from faults import child, recipes
from faults.results import difference, results
from faults.tally import Tally
from resnet_sweep.runs import record
from resnet_sweep.training import trainer

NOBODY = 65534
FAILED_AND_RESUMED = "failed with an error message and resumed with bit-identical results"
REFUSED_AND_RAN = "refused with an error message and ran later"
FINISHED = "finished despite the fault"
# The outcomes by the exit status of the run with the fault.
OUTCOMES = (FINISHED, FAILED_AND_RESUMED, REFUSED_AND_RAN)
ARGUMENTS = (*recipes.SMALL, "augmentation=cutmix", "hydra.run.dir=run")


def resources(count: int, seed: int, folder: Path) -> Tally:
    """Limit a resource for `count` runs, and resume each without the limit."""
    tally = Tally(
        "a full disk, a file size limit, too few file handles, no permission, too little memory, a "
        "clock that jumps, a slow disk, no file locks, several processes in one directory"
    )
    rng = random.Random(seed)
    child.run(folder / "undisturbed", *ARGUMENTS)
    expected = results(folder / "undisturbed" / "run")
    kinds = [
        _full_disk,
        _write_error,
        _file_size,
        _file_handles,
        _memory,
        _clock,
        _slow_disk,
        _no_locks,
        _several_processes,
        _read_only,
    ]
    # A process without permissions must be able to read and write in the folders.
    folder.chmod(0o755)
    for number in range(count):
        trial = folder / f"{number}"
        trial.mkdir(mode=0o777)
        trial.chmod(0o777)
        kind = kinds[number % len(kinds)]
        outcome, failure = kind(trial, rng, expected)
        if failure is not None:
            failure = f"{kind.__name__} (seed {seed}, trial {number}): {failure}"
        tally.add(outcome, failure)
        shutil.rmtree(trial, ignore_errors=True)
    return tally


def _run_and_resume(
    trial: Path, fault: Callable[[], None], expected: dict
) -> tuple[str, str | None]:
    """Run with a fault, and then without it."""
    result = child.run(trial, *ARGUMENTS, fault=fault)
    if not _ended_properly(result):
        return "", _describe(result)
    lines = result.output.splitlines()
    # A run that fails prints the command that resumes it.
    failed = "hydra.run.dir=" in result.output or (lines and lines[-1].startswith("error: "))
    if result.status == 1 and not failed:
        return "", _describe(result)
    resumed = child.run(trial, *ARGUMENTS)
    if resumed.status != 0:
        return "", _describe(result, resumed)
    failure = difference(trial / "run", expected)
    return OUTCOMES[result.status], failure and f"{_describe(result)}\n{failure}"


def _ended_properly(result: child.CommandResult) -> bool:
    """Return whether a command ended without a traceback, and with a message if it was refused."""
    if "Traceback" in result.output or result.status not in (0, 1, 2):
        return False
    return result.status != 2 or result.refusal is not None


def _describe(*results: child.CommandResult) -> str:
    return "\nthen ".join(f"status {result.status}\n{result.output}" for result in results)


def _full_disk(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Mount a file system that is too small; where that isn't allowed, let calls fail instead."""
    system = ctypes.CDLL(None, use_errno=True)
    run = trial / "run"
    run.mkdir()
    size = rng.randint(8, 60) * 4096
    if system.mount(b"none", bytes(run), b"tmpfs", 0, f"size={size}".encode()):
        run.rmdir()
        return _write_error(trial, rng, expected)
    try:
        first = child.run(trial, *ARGUMENTS)
        second = child.run(trial, *ARGUMENTS)
        with tempfile.TemporaryDirectory(dir=trial) as copy:
            shutil.copytree(run, copy, dirs_exist_ok=True)
            system.umount(bytes(run))
            shutil.copytree(copy, run, dirs_exist_ok=True)
    finally:
        system.umount(bytes(run))
    for result in (first, second):
        if not _ended_properly(result):
            return "", _describe(result)
    # The disk isn't full any more.
    resumed = child.run(trial, *ARGUMENTS)
    if resumed.status != 0:
        return "", _describe(first, resumed)
    failure = difference(run, expected)
    return FAILED_AND_RESUMED, failure and (
        f"{size} bytes\n{_describe(first, second, resumed)}\n{failure}"
    )


def _write_error(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Let a function of `os` fail with an error of a full or broken disk, from some call on."""
    number = rng.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
    name = rng.choice(["fsync", "replace"])
    first_failure = rng.randint(1, 25)

    def fault() -> None:
        calls = 0
        original = getattr(os, name)

        def failing(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls >= first_failure:
                raise OSError(number, os.strerror(number))
            return original(*arguments, **options)

        setattr(os, name, failing)

    return _run_and_resume(trial, fault, expected)


def _file_size(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    size = rng.randint(200, 40_000)

    def fault() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _run_and_resume(trial, fault, expected)


def _file_handles(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    spare = rng.randint(0, 6)

    def fault() -> None:
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, used + spare))

    return _run_and_resume(trial, fault, expected)


def _memory(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    megabytes = rng.choice([1, 4, 16, 64])

    def fault() -> None:
        # The limit holds from the first epoch on, since Hydra needs memory before that.
        batches = trainer.Trainer._remaining_batches

        def limited(self, epoch):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            return batches(self, epoch)

        trainer.Trainer._remaining_batches = limited

    arguments = (*ARGUMENTS, "trainer.batch_size=72", "model.widths=[64,128]")
    result = child.run(trial, *arguments, fault=fault)
    if "Traceback" in result.output or result.status not in (0, 1):
        return "", f"{megabytes} MB: {_describe(result)}"
    resumed = child.run(trial, *arguments)
    if resumed.status != 0:
        return "", f"{megabytes} MB: {_describe(result, resumed)}"
    if result.status == 0:
        return FINISHED, None
    return "failed with an error message and resumed", None


def _clock(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Let each reading of the wall clock differ by up to a day from the time."""

    def fault() -> None:
        original = time.time
        time.time = lambda: original() + rng.uniform(-86400, 86400)

    process = child.Child(trial, *ARGUMENTS, fault=fault)
    time.sleep(rng.uniform(0, 0.6))
    process.send(signal.SIGKILL)
    process.wait()
    return _run_and_resume(trial, fault, expected)


def _slow_disk(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    def fault() -> None:
        fsync = os.fsync

        def slow(descriptor: int) -> None:
            time.sleep(0.05)
            fsync(descriptor)

        os.fsync = slow
        trainer.CHECKPOINT_SECONDS = 0.02

    return _run_and_resume(trial, fault, expected)


def _no_locks(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Let file locks fail, so that only the stale heartbeat shows that a process was killed."""

    def fault() -> None:
        def flock(*arguments) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        fcntl.flock = flock

    process = child.Child(trial, *ARGUMENTS, fault=fault)
    time.sleep(rng.uniform(0.2, 0.6))
    process.send(signal.SIGKILL)
    process.wait()
    result = child.run(trial, *ARGUMENTS, fault=fault)
    if result.status not in (0, 2) or (result.status == 2 and not result.refusal):
        return "", result.output

    def fault_with_stale_heartbeat() -> None:
        fault()
        record.STALE_SECONDS = 0.0

    resumed = child.run(trial, *ARGUMENTS, fault=fault_with_stale_heartbeat)
    failure = resumed.output if resumed.status else difference(trial / "run", expected)
    return REFUSED_AND_RAN, failure


def _several_processes(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Start the same run two or three times; one process must train it alone."""
    processes = []
    for number in range(rng.choice([2, 3])):
        processes.append(child.Child(trial, *ARGUMENTS, output=f"output{number}.txt"))
        time.sleep(rng.choice([0.0, 0.01, 0.1, 0.3]))
    ended = [process.wait() for process in processes]
    for result in ended:
        if result.status not in (0, 2) or (result.status == 2 and not result.refusal):
            return "", _describe(result)
    trained = sum("epoch 4/4" in result.output for result in ended)
    if trained != 1:
        return "", f"{trained} processes trained the run"
    outcome = "one process trained, and the others were refused or found the run finished"
    return outcome, difference(trial / "run", expected)


def _read_only(trial: Path, rng: random.Random, expected: dict) -> tuple[str, str | None]:
    """Make a directory read-only before the run starts, or its checkpoints after two epochs."""
    at_start = rng.random() < 0.5

    def fault() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        if at_start:
            return
        batches = trainer.Trainer._remaining_batches

        def make_read_only(self, epoch):
            if len(self.rows) == 2:
                (trial / "run" / "checkpoints").chmod(0o555)
            return batches(self, epoch)

        trainer.Trainer._remaining_batches = make_read_only

    if at_start:
        trial.chmod(0o555)
    (trial / "output.txt").touch(mode=0o666)
    (trial / "output.txt").chmod(0o666)
    result = child.run(trial, *ARGUMENTS, fault=fault)
    trial.chmod(0o777)
    with suppress(FileNotFoundError):
        (trial / "run" / "checkpoints").chmod(0o755)
    if at_start:
        reported = result.refusal is not None
    else:
        reported = "hydra.run.dir=" in result.output and result.status == 1
    if "Traceback" in result.output or not reported:
        return "", _describe(result)
    resumed = child.run(trial, *ARGUMENTS)
    failure = resumed.output if resumed.status else difference(trial / "run", expected)
    return REFUSED_AND_RAN if at_start else FAILED_AND_RESUMED, failure
