"""Runs that are resumed after a file in their directory was damaged."""

import os
import random
import re
import shutil
import signal
import traceback
from pathlib import Path

from faults import child, recipes
from faults.results import difference, results, without_times
from faults.tally import Tally
from resnet_sweep.compare.comparison import Comparison
from resnet_sweep.compare.loaded_run import BrokenRun, load_run
from resnet_sweep.config.restore import restore
from resnet_sweep.errors import ConfigError
from resnet_sweep.training.checkpoint import BEST, digest, read_checkpoint

KINDS = ("flip", "truncate", "empty", "delete", "swap", "foreign")
ARGUMENTS = (*recipes.SMALL, "augmentation=cutmix", "trainer.ema_decay=0.9", "hydra.run.dir=run")


def damage(count: int, seed: int, folder: Path) -> Tally:
    """Damage a file in each of `count` run directories, and repeat the command of the run.

    Before the damage, the run was finished, stopped or killed.
    """
    tally = Tally(
        "a file in a run directory is damaged: bits flipped, truncated, emptied, deleted, swapped "
        "with another file, or replaced by the file of another run"
    )
    rng = random.Random(seed)
    runs = {state: folder / state for state in ("finished", "stopped", "killed")}
    make_runs(runs, folder / "other")
    expected = results(runs["finished"] / "run")
    for number in range(count):
        state = rng.choice(list(runs))
        trial = folder / f"{number}"
        shutil.copytree(runs[state], trial)
        damaged = damage_file(trial / "run", folder / "other" / "run", rng)
        outcome, failure = _outcome(trial, state, expected)
        if failure is not None:
            failure = f"{damaged} in a {state} run (seed {seed}, trial {number}): {failure}"
        tally.add(outcome, failure)
        shutil.rmtree(trial)
    return tally


def make_runs(runs: dict[str, Path], other: Path) -> None:
    """Train a run for each state, and another one with another seed."""
    child.run(other, *ARGUMENTS, "seed=1")
    child.run(runs["finished"], *ARGUMENTS)
    for state, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        child.run(runs[state], *ARGUMENTS, fault=lambda number=number: _stop_after_epoch(2, number))


def _stop_after_epoch(epoch: int, number: int) -> None:
    from resnet_sweep.training.callbacks.progress import ProgressLog

    original = ProgressLog.on_epoch_end

    def on_epoch_end(self, row, layers, step) -> None:
        original(self, row, layers, step)
        if row["epoch"] == epoch:
            os.kill(os.getpid(), number)

    ProgressLog.on_epoch_end = on_epoch_end


def damage_file(directory: Path, other: Path, rng: random.Random) -> str:
    """Damage a file in a run directory, and return the kind of damage and the name."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    path = rng.choice(paths)
    name = path.relative_to(directory)
    kind = rng.choice(KINDS)
    content = bytearray(path.read_bytes())
    if kind == "flip" and content:
        for _ in range(rng.choice([1, 1, 3])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "truncate" and content:
        path.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        second = rng.choice([candidate for candidate in paths if candidate != path])
        path.write_bytes(second.read_bytes())
        second.write_bytes(content)
        return f"swap {name} with {second.relative_to(directory)}"
    elif kind == "foreign" and (other / name).exists():
        path.write_bytes((other / name).read_bytes())
    else:
        kind = "empty"
        path.write_bytes(b"")
    return f"{kind} {name}"


def _outcome(trial: Path, state: str, expected: dict) -> tuple[str, str | None]:
    """Repeat the command of a damaged run; returns the outcome and a failure, if any."""
    if failure := _reading_failure(trial / "run", state == "finished", expected):
        return "", failure
    result = child.run(trial, *ARGUMENTS)
    if result.refusal:
        return "refused with one error message", None
    if result.status != 0 or "Traceback" in result.output:
        return "", f"status {result.status}\n{result.output}"
    failure = difference(trial / "run", expected)
    if failure is None:
        return "ended with bit-identical results", None
    if BEST in result.output and difference(trial / "run", expected, {BEST}) is None:
        failure = _reading_failure(trial / "run", True, expected)
        return "reported that the best weights are lost", failure
    if not re.search("^epoch ", result.output, re.MULTILINE):
        # Nothing was trained, since the run was finished, so the file is still damaged.
        failure = _reading_failure(trial / "run", True, expected)
        return "reported by the commands that read the file", failure
    return "", f"{failure}\n{result.output}"


def _reading_failure(directory: Path, finished: bool, expected: dict) -> str | None:
    """Return a wrong result that a command would show, or the traceback of an error, if any."""
    try:
        return _wrong_result(directory, finished, expected)
    except Exception:
        return traceback.format_exc()


def _wrong_result(directory: Path, finished: bool, expected: dict) -> str | None:
    """Read a run as the commands do; returns a wrong result that isn't found, if any."""
    run = load_run(directory, "run")
    if isinstance(run, BrokenRun) or run.record.signature != expected["run.json"]["signature"]:
        # The damage is found, or the signature shows that the record is of another run.
        return None
    ended = run.record.state == expected["run.json"]["state"]
    for name in ("best", "final", "gap"):
        if ended and getattr(run.record, name) != expected["run.json"][name]:
            return f"{name} is {getattr(run.record, name)}"
    if finished and not ended:
        return f"the state is {run.record.state}"
    rows, error = run.metrics
    # Until the end of a run, its record has no digest of metrics.csv.
    running = run.record.state == "running"
    if (
        not running
        and error is None
        and without_times(rows) != expected["metrics.csv"][: len(rows)]
    ):
        return "metrics.csv has wrong rows"
    if finished and error is None and len(rows) != len(expected["metrics.csv"]):
        return "metrics.csv has missing rows"
    Comparison([run, run]).json()
    try:
        restored = restore(directory)
    except ConfigError:
        return None
    if finished and restored.val_acc != expected["run.json"]["best"]["val_acc"]:
        return f"the accuracy of the best checkpoint is {restored.val_acc}"
    if finished and digest(read_checkpoint(directory / "checkpoints" / BEST)) != expected[BEST]:
        return "the best checkpoint is of another run"
    return None
