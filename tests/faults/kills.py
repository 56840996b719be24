"""Runs that are killed at any moment, until they are let finish."""

import mmap
import os
import random
import shutil
import signal
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from faults import child, recipes
from faults.results import difference, results
from faults.tally import Tally
from resnet_sweep.training import trainer

# Where a file is made, written, renamed or removed.
CALLS = (
    (tempfile, "mkstemp"),
    (os, "fsync"),
    (os, "replace"),
    (os, "unlink"),
    (os, "mkdir"),
)
# Of one run, before it is let finish.
KILLS = 5


class Moments:
    """The moments around all writing of a child, counted there and known here."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        """How many there were in the last child."""
        return struct.unpack("q", self._shared[:])[0]

    def fault(self, at: int | None, saving: float) -> Callable[[], None]:
        """A fault that kills the child at one of its moments, or at none.

        Args:
            at: the number of the moment, from 1.
            saving: seconds between checkpoints within an epoch.
        """

        def pass_by() -> None:
            count = self.count + 1
            self._shared[:] = struct.pack("q", count)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

        def around(function):
            def called(*arguments, **options):
                pass_by()
                result = function(*arguments, **options)
                pass_by()
                return result

            return called

        def half_written(fdopen):
            def opened(*arguments, **options):
                file = fdopen(*arguments, **options)
                write = file.write

                class Halves:
                    def __enter__(self):
                        return self

                    def __exit__(self, *exception):
                        file.close()

                    def __getattr__(self, name):
                        return getattr(file, name)

                    def write(self, content) -> None:
                        half = len(content) // 2
                        write(content[:half])
                        file.flush()
                        pass_by()
                        write(content[half:])

                return Halves()

            return opened

        def install() -> None:
            self._shared[:] = struct.pack("q", 0)
            trainer.CHECKPOINT_SECONDS = saving
            for module, name in CALLS:
                setattr(module, name, around(getattr(module, name)))
            os.fdopen = half_written(os.fdopen)

        return install


def kills(count: int, seed: int, folder: Path) -> Tally:
    """Kill runs of all recipes so many times, half of them around a write, and let each go on."""
    tally = Tally("a run is killed (SIGKILL) at a random moment, half of them around a write")
    chance = random.Random(seed)
    names = list(recipes.RECIPES)
    chance.shuffle(names)
    calm: dict[str, tuple[dict, float, int]] = {}
    moments = Moments()
    number = 0
    while tally.tried < count:
        name = names[number % len(names)]
        words = (*recipes.SMALL, *recipes.RECIPES[name], "hydra.run.dir=run")
        saving = chance.choice([0.01, 300.0])
        if name not in calm:
            place = folder / f"calm{number}"
            ended = child.run(place, *words, fault=moments.fault(None, 0.01))
            if ended.status != 0:
                raise RuntimeError(f"{name} doesn't run: {ended.output}")
            calm[name] = (results(place / "run"), ended.seconds, moments.count)
        expected, seconds, points = calm[name]
        place = folder / f"killed{number}"
        number += 1
        killed = 0
        while killed < min(KILLS, count - tally.tried):
            at = chance.randint(1, points) if chance.random() < 0.5 else None
            process = child.Child(place, *words, fault=moments.fault(at, saving))
            if at is None:
                time.sleep(chance.uniform(0, seconds))
                process.send(signal.SIGKILL)
            ended = process.wait()
            if ended.status != -signal.SIGKILL:
                break
            killed += 1
        ended = child.run(place, *words, fault=moments.fault(None, saving))
        wrong = ended.output if ended.status != 0 else difference(place / "run", expected)
        for _ in range(max(killed, 1)):
            told = wrong and f"{name}, killed {killed} times (seed {seed}, run {number}): {wrong}"
            tally.add("went on to the same bits", told)
        shutil.rmtree(place)
    return tally
