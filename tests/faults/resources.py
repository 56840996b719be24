"""Machines that have run out of something, and two processes in one directory."""

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
WORDS = (*recipes.SMALL, "augmentation=cutmix", "hydra.run.dir=run")


def resources(count: int, seed: int, folder: Path) -> Tally:
    """Take something away from so many runs; each ends with a sentence, and goes on when it is
    given back."""
    tally = Tally(
        "a full disk, a file size limit, too few file handles, no permission, too little memory, a "
        "clock that jumps, a slow disk, no file locks, two processes in a directory"
    )
    chance = random.Random(seed)
    child.run(folder / "calm", *WORDS)
    expected = results(folder / "calm" / "run")
    kinds = [
        _full_disk,
        _error_of_writing,
        _file_size,
        _file_handles,
        _memory,
        _clock,
        _slow_disk,
        _no_locks,
        _two_processes,
        _read_only,
    ]
    # Owned by everybody, for a process without rights.
    folder.chmod(0o755)
    for number in range(count):
        place = folder / f"{number}"
        place.mkdir(mode=0o777)
        place.chmod(0o777)
        kind = kinds[number % len(kinds)]
        outcome, wrong = kind(place, chance, expected)
        tally.add(outcome, wrong and f"{kind.__name__} (seed {seed}, trial {number}): {wrong}")
        shutil.rmtree(place, ignore_errors=True)
    return tally


def _disturbed(
    place: Path, fault: Callable[[], None], expected: dict, *words: str
) -> tuple[str, str | None]:
    """Run with a fault, and then without one."""
    ended = child.run(place, *WORDS, *words, fault=fault)
    told = f"status {ended.status}\n{ended.output}"
    if "Traceback" in ended.output or ended.status not in (0, 1, 2):
        return "", told
    lines = ended.output.splitlines()
    # A run that fails prints the command that resumes it.
    failed = "hydra.run.dir=" in ended.output or (lines and lines[-1].startswith("error: "))
    if ended.status == 1 and not failed:
        return "", told
    if ended.status == 2 and not ended.refusal:
        return "", told
    again = child.run(place, *WORDS)
    if again.status != 0:
        return "", f"{told}\nand again {again.status}\n{again.output}"
    wrong = difference(place / "run", expected)
    outcomes = (
        "finished all the same",
        "failed with a sentence, and went on to the same bits",
        "refused with a sentence, and later ran",
    )
    return outcomes[ended.status], wrong and f"{told}\n{wrong}"


def _full_disk(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """A file system of its own that is too small, where one can be mounted."""
    system = ctypes.CDLL(None, use_errno=True)
    run = place / "run"
    run.mkdir()
    size = chance.randint(8, 60) * 4096
    if system.mount(b"none", bytes(run), b"tmpfs", 0, f"size={size}".encode()):
        run.rmdir()
        return _error_of_writing(place, chance, expected)
    try:
        ended = child.run(place, *WORDS)
        again = child.run(place, *WORDS)
        with tempfile.TemporaryDirectory(dir=place) as kept:
            shutil.copytree(run, kept, dirs_exist_ok=True)
            system.umount(bytes(run))
            shutil.copytree(kept, run, dirs_exist_ok=True)
    finally:
        system.umount(bytes(run))
    for each in (ended, again):
        if "Traceback" in each.output or each.status not in (0, 1, 2):
            return "", f"status {each.status}\n{each.output}"
        if each.status == 2 and not each.refusal:
            return "", f"status {each.status}\n{each.output}"
    given_back = child.run(place, *WORDS)
    if given_back.status != 0:
        return "", f"{ended.output}\nand again {given_back.status}\n{given_back.output}"
    wrong = difference(run, expected)
    return "failed with a sentence, and went on to the same bits", wrong and (
        f"{size} bytes\n{ended.output}\n{again.output}\n{given_back.output}\n{wrong}"
    )


def _error_of_writing(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """The system's answers of a full or broken disk, from some write on."""
    number = chance.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
    name = chance.choice(["fsync", "replace"])
    after = chance.randint(1, 25)
    made = [0]

    def fault() -> None:
        real = getattr(os, name)

        def failing(*arguments, **options):
            made[0] += 1
            if made[0] >= after:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        setattr(os, name, failing)

    return _disturbed(place, fault, expected)


def _file_size(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    size = chance.randint(200, 40_000)

    def fault() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return _disturbed(place, fault, expected)


def _file_handles(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    spare = chance.randint(0, 6)

    def fault() -> None:
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, used + spare))

    return _disturbed(place, fault, expected)


def _memory(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    megabytes = chance.choice([1, 4, 16, 64])

    def fault() -> None:
        # From the first epoch on, since Hydra would be refused it as well.
        batches = trainer.Trainer._remaining_batches

        def limited(self, epoch):
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + megabytes * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            return batches(self, epoch)

        trainer.Trainer._remaining_batches = limited

    words = ("trainer.batch_size=72", "model.widths=[64,128]")
    ended = child.run(place, *WORDS, *words, fault=fault)
    if "Traceback" in ended.output or ended.status not in (0, 1):
        return "", f"{megabytes} MB: status {ended.status}\n{ended.output}"
    again = child.run(place, *WORDS, *words)
    if again.status != 0:
        return "", f"{megabytes} MB: {ended.output}\nand again {again.status}\n{again.output}"
    if ended.status == 0:
        return "finished all the same", None
    return "failed with a sentence, and went on", None


def _clock(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """A wall clock that jumps by up to a day, back or on, at every look."""

    def fault() -> None:
        real = time.time
        time.time = lambda: real() + chance.uniform(-86400, 86400)

    process = child.Child(place, *WORDS, fault=fault)
    time.sleep(chance.uniform(0, 0.6))
    process.send(signal.SIGKILL)
    process.wait()
    return _disturbed(place, fault, expected)


def _slow_disk(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    def fault() -> None:
        real = os.fsync

        def slow(descriptor: int) -> None:
            time.sleep(0.05)
            real(descriptor)

        os.fsync = slow
        trainer.CHECKPOINT_SECONDS = 0.02

    return _disturbed(place, fault, expected)


def _no_locks(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """A file system without locks, on which a killed process's heartbeat goes stale."""

    def fault() -> None:
        def flock(*arguments) -> None:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        fcntl.flock = flock

    process = child.Child(place, *WORDS, fault=fault)
    time.sleep(chance.uniform(0.2, 0.6))
    process.send(signal.SIGKILL)
    process.wait()
    ended = child.run(place, *WORDS, fault=fault)
    if ended.status not in (0, 2) or (ended.status == 2 and not ended.refusal):
        return "", ended.output

    def later() -> None:
        fault()
        record.STALE_SECONDS = 0.0

    again = child.run(place, *WORDS, fault=later)
    wrong = again.output if again.status else difference(place / "run", expected)
    return "refused with a sentence, and later ran", wrong


def _two_processes(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """Two or three at once: one trains, the others are refused or find it done."""
    processes = []
    for number in range(chance.choice([2, 3])):
        processes.append(child.Child(place, *WORDS, printed=f"printed{number}.txt"))
        time.sleep(chance.choice([0.0, 0.01, 0.1, 0.3]))
    ended = [process.wait() for process in processes]
    for each in ended:
        if each.status not in (0, 2) or (each.status == 2 and not each.refusal):
            return "", f"status {each.status}\n{each.output}"
    trained = sum("epoch 4/4" in each.output for each in ended)
    if trained != 1:
        return "", f"{trained} of them trained"
    return "one trained, the others were refused or found it done", difference(
        place / "run", expected
    )


def _read_only(place: Path, chance: random.Random, expected: dict) -> tuple[str, str | None]:
    """A process without rights, in a directory that isn't its own, from before or from an epoch."""
    at_start = chance.random() < 0.5

    def fault() -> None:
        if os.geteuid() == 0:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        if at_start:
            return
        batches = trainer.Trainer._remaining_batches

        def spoiled(self, epoch):
            if len(self.rows) == 2:
                (place / "run" / "checkpoints").chmod(0o555)
            return batches(self, epoch)

        trainer.Trainer._remaining_batches = spoiled

    if at_start:
        place.chmod(0o555)
    (place / "printed.txt").touch(mode=0o666)
    (place / "printed.txt").chmod(0o666)
    ended = child.run(place, *WORDS, fault=fault)
    place.chmod(0o777)
    with suppress(FileNotFoundError):
        (place / "run" / "checkpoints").chmod(0o755)
    good = ended.refusal if at_start else "hydra.run.dir=" in ended.output and ended.status == 1
    if "Traceback" in ended.output or not good:
        return "", f"status {ended.status}\n{ended.output}"
    again = child.run(place, *WORDS)
    wrong = again.output if again.status else difference(place / "run", expected)
    if at_start:
        return "refused with a sentence, and later ran", wrong
    return "failed with a sentence, and went on to the same bits", wrong
