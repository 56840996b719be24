"""Sweeps that are killed at random moments, or whose workers are killed."""

import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from small_sweep import (
    GRID,
    SHARED_GRID,
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
    kill_sweeps(tally, GRID, count, seed, folder / "undisturbed" / "sweep")
    return tally


def shared_epochs(count: int, seed: int, folder: Path) -> Tally:
    """Kill sweeps whose jobs share epochs; see `sweep_kills`.

    The undisturbed sweep trains each job from its first epoch.
    """
    tally = Tally(
        "a sweep whose jobs share epochs, or one of its workers, is killed (SIGKILL) at a random "
        "moment"
    )
    (folder / "undisturbed").mkdir()
    finish(start(folder / "undisturbed", *SHARED_GRID, "share_epochs=false"))
    kill_sweeps(tally, SHARED_GRID, count, seed, folder / "undisturbed" / "sweep")
    return tally


def kill_sweeps(
    tally: Tally, grid: Sequence[str], count: int, seed: int, undisturbed: Path
) -> None:
    """Kill sweeps at random moments until there were `count` kills, and compare their results.

    Args:
        tally: counts the kills.
        grid: the overrides of the sweeps.
        count: number of kills.
        seed: seed of the moments.
        undisturbed: the directory of a sweep with the same jobs.
    """
    folder = undisturbed.parents[1]
    jobs = len(manifest(undisturbed))
    rng = random.Random(seed)
    sweeps = 0
    while tally.total < count:
        sweeps += 1
        sweep = folder / f"sweep{sweeps}"
        kills, failure = _kill_until_complete(sweep, grid, rng, count - tally.total)
        if failure is None:
            try:
                assert_same_runs(sweep, undisturbed)
                assert [line["state"] for line in results(sweep)] == ["finished"] * jobs
                assert [line["number"] for line in manifest(sweep)] == [*range(jobs)]
                assert not leftovers(sweep)
                assert not [*sweep.rglob("epoch_*.pth")]
            except AssertionError as error:
                failure = str(error) or "not the runs of the undisturbed sweep"
        for _ in range(kills):
            tally.add("resumed with bit-identical results", failure and f"seed {seed}: {failure}")


def _kill_until_complete(
    sweep: Path, grid: Sequence[str], rng: random.Random, limit: int
) -> tuple[int, str | None]:
    """Start a sweep until it is complete, and kill it up to `limit` times.

    Returns:
        The number of kills, and a description of a failure, if any.
    """
    arguments = (*grid, f"hydra.sweep.dir={sweep.name}", "hydra/launcher=pool", "reuse=false")
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
