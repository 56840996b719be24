"""Sweeps killed at any moment, and their workers."""

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

# Within this time a sweep of the pool comes to its end on a machine that does nothing else.
SECONDS = (0.5, 10)


def sweep_kills(count: int, seed: int, folder: Path) -> Tally:
    """Kill sweeps, or a worker of theirs, at random moments; go on with each until it is done.

    When one is done, another is begun. Each is held against a sweep that nothing came in the way
    of, bit for bit.
    """
    tally = Tally("a sweep or a worker of it is killed (SIGKILL) at a random moment")
    (folder / "undisturbed").mkdir()
    finish(start(folder / "undisturbed", *GRID))
    chance = random.Random(seed)
    sweeps = 0
    while tally.tried < count:
        sweeps += 1
        sweep = folder / f"sweep{sweeps}"
        kills, wrong = _until_done(sweep, chance, count - tally.tried)
        if wrong is None:
            try:
                assert_same_runs(sweep, folder / "undisturbed" / "sweep")
                assert [line["state"] for line in results(sweep)] == ["finished"] * 4
                assert [line["number"] for line in manifest(sweep)] == [0, 1, 2, 3]
                assert not leftovers(sweep)
            except AssertionError as error:
                wrong = str(error) or "not the runs of the undisturbed sweep"
        for _ in range(kills):
            tally.add("gone on with, to the same bits", wrong and f"seed {seed}: {wrong}")
    return tally


def _until_done(sweep: Path, chance: random.Random, most: int) -> tuple[int, str | None]:
    """Start a sweep again and again, killing it up to `most` times.

    Returns:
        How often it was killed, and what went wrong.
    """
    words = (*GRID, f"hydra.sweep.dir={sweep.name}", "hydra/launcher=pool", "reuse=false")
    kills = 0
    ended: dict[str, int] = {}
    while True:
        process = start(sweep.parent, *words)
        moment = time.monotonic() + chance.uniform(*SECONDS)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.02)
        found = workers(process)
        if process.poll() is not None or kills >= most:
            pass
        elif found and chance.random() < 0.5:
            os.kill(chance.choice(found), signal.SIGKILL)
            kills += 1
        else:
            kill(process)
            kills += 1
        output = finish(process) if process.returncode != -signal.SIGKILL else ""
        if process.returncode not in (0, 1, -signal.SIGKILL):
            return kills, f"status {process.returncode}: {output[-1000:]}"
        # No finished result is lost, and none is trained again.
        for name, record in records(sweep).items():
            if record["state"] == "finished":
                written = (sweep / name / "checkpoints" / "last_model.pth").stat().st_mtime_ns
                if ended.setdefault(name, written) != written:
                    return kills, f"job {name} was finished and trained again"
        if process.returncode == 0:
            return kills, None
