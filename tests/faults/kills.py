"""Runs that are killed at random moments and resumed."""

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

# Functions that create, write, rename or remove a file.
CALLS = (
    (tempfile, "mkstemp"),
    (os, "fsync"),
    (os, "replace"),
    (os, "unlink"),
    (os, "mkdir"),
)
# The number of times that a run is killed before it may finish.
KILLS = 5


class KillPoints:
    """The points before, in and after each write of a child, at which it can be killed.

    The child counts them in memory that it shares with this process.
    """

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, 8)

    @property
    def count(self) -> int:
        """The number of points that the last child passed."""
        return struct.unpack("q", self._shared[:])[0]

    def fault(self, point: int | None, save_interval: float) -> Callable[[], None]:
        """Return a fault that kills the child at a point, or that only counts the points.

        Args:
            point: the number of the point, from 1, or None.
            save_interval: the seconds between checkpoints within an epoch.
        """

        def reach_point() -> None:
            count = self.count + 1
            self._shared[:] = struct.pack("q", count)
            if count == point:
                os.kill(os.getpid(), signal.SIGKILL)

        def with_points(function):
            def call(*arguments, **options):
                reach_point()
                result = function(*arguments, **options)
                reach_point()
                return result

            return call

        def with_point_within_writes(fdopen):
            def open_file(*arguments, **options):
                file = fdopen(*arguments, **options)
                write = file.write

                class SplitWrites:
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
                        reach_point()
                        write(content[half:])

                return SplitWrites()

            return open_file

        def install() -> None:
            self._shared[:] = struct.pack("q", 0)
            trainer.CHECKPOINT_SECONDS = save_interval
            for module, name in CALLS:
                setattr(module, name, with_points(getattr(module, name)))
            os.fdopen = with_point_within_writes(os.fdopen)

        return install


def kills(count: int, seed: int, folder: Path) -> Tally:
    """Kill runs of all recipes `count` times, half of them around a write, and resume them."""
    tally = Tally(
        "a run is killed (SIGKILL) at a random moment, in half of the trials around a write"
    )
    rng = random.Random(seed)
    names = list(recipes.RECIPES)
    rng.shuffle(names)
    undisturbed: dict[str, tuple[dict, float, int]] = {}
    kill_points = KillPoints()
    number = 0
    while tally.total < count:
        name = names[number % len(names)]
        arguments = (*recipes.SMALL, *recipes.RECIPES[name], "hydra.run.dir=run")
        save_interval = rng.choice([0.01, 300.0])
        if name not in undisturbed:
            trial = folder / f"undisturbed{number}"
            result = child.run(trial, *arguments, fault=kill_points.fault(None, 0.01))
            if result.status != 0:
                raise RuntimeError(f"{name} doesn't run: {result.output}")
            undisturbed[name] = (results(trial / "run"), result.seconds, kill_points.count)
        expected, seconds, points = undisturbed[name]
        trial = folder / f"killed{number}"
        number += 1
        killed = 0
        while killed < min(KILLS, count - tally.total):
            point = rng.randint(1, points) if rng.random() < 0.5 else None
            fault = kill_points.fault(point, save_interval)
            process = child.Child(trial, *arguments, fault=fault)
            if point is None:
                time.sleep(rng.uniform(0, seconds))
                process.send(signal.SIGKILL)
            if process.wait().status != -signal.SIGKILL:
                break
            killed += 1
        result = child.run(trial, *arguments, fault=kill_points.fault(None, save_interval))
        failure = result.output if result.status != 0 else difference(trial / "run", expected)
        if failure is not None:
            failure = f"{name}, killed {killed} times (seed {seed}, run {number}): {failure}"
        for _ in range(max(killed, 1)):
            tally.add("resumed with bit-identical results", failure)
        shutil.rmtree(trial)
    return tally
