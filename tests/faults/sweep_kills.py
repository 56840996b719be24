"""Sweeps that are killed at random moments, or whose workers are killed."""

import os
import random
import signal
import time
from pathlib import Path

from small_sweep import (
    GRID,
    assert_same_runs,
    finish,
    kill,
    leftovers,
    manifest,
    records,
    results,
    start,
    workers,
)

from faults.tally import Tally

# The kill comes after a random time between these; an idle machine completes the sweep in it.
SECONDS = (0.5, 10)


def sweep_kills(count: int, seed: int, folder: Path) -> Tally:
    """Kill sweeps, or one of their workers, at random moments, and resume them.

    A sweep is resumed until it is complete, and then another one is started. Each is compared with
    an undisturbed sweep, bit for bit.
    """
    tally = Tally("a sweep, or one of its workers, is killed (SIGKILL) at a random moment")
    (folder / "undisturbed").mkdir()
    finish(start(folder / "undisturbed", *GRID))
    rng = random.Random(seed)
    sweeps = 0
    while tally.total < count:
        sweeps += 1
        sweep = folder / f"sweep{sweeps}"
        kills, failure = _kill_until_complete(sweep, rng, count - tally.total)
        if failure is None:
            try:
                assert_same_runs(sweep, folder / "undisturbed" / "sweep")
                assert [line["state"] for line in results(sweep)] == ["finished"] * 4
                assert [line["number"] for line in manifest(sweep)] == [0, 1, 2, 3]
                assert not leftovers(sweep)
            except AssertionError as error:
                failure = str(error) or "not the runs of the undisturbed sweep"
        for _ in range(kills):
            tally.add("resumed with bit-identical results", failure and f"seed {seed}: {failure}")
    return tally


def _kill_until_complete(sweep: Path, rng: random.Random, limit: int) -> tuple[int, str | None]:
    """Start a sweep until it is complete, and kill it up to `limit` times.

    Returns:
        The number of kills, and a description of a failure, if any.
    """
    arguments = (*GRID, f"hydra.sweep.dir={sweep.name}", "hydra/launcher=pool", "reuse=false")
    kills = 0
    finished: dict[str, int] = {}
    while True:
        process = start(sweep.parent, *arguments)
        kill_time = time.monotonic() + rng.uniform(*SECONDS)
        while process.poll() is None and time.monotonic() < kill_time:
            time.sleep(0.02)
        running = workers(process)
        if process.poll() is not None or kills >= limit:
            pass
        elif running and rng.random() < 0.5:
            os.kill(rng.choice(running), signal.SIGKILL)
            kills += 1
        else:
            kill(process)
            kills += 1
        output = finish(process) if process.returncode != -signal.SIGKILL else ""
        if process.returncode not in (0, 1, -signal.SIGKILL):
            return kills, f"status {process.returncode}: {output[-1000:]}"
        # A finished job must not be trained again.
        for name, record in records(sweep).items():
            if record["state"] == "finished":
                written = (sweep / name / "checkpoints" / "last_model.pth").stat().st_mtime_ns
                if finished.setdefault(name, written) != written:
                    return kills, f"job {name} was finished and trained again"
        if process.returncode == 0:
            return kills, None
