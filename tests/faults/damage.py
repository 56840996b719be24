"""Files of a run directory that are damaged, and what is made of it."""

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

KINDS = ("flip", "cut", "empty", "delete", "swap", "foreign")
# They are for people, and nothing reads them.
UNREAD = re.compile(r"\.hydra/|plots/|train\.log")
WORDS = (*recipes.SMALL, "augmentation=cutmix", "trainer.ema_decay=0.9", "hydra.run.dir=run")


def damage(count: int, seed: int, folder: Path) -> Tally:
    """Damage a file of a run directory so many times, go on with the run, and read the outcome.

    The run was finished, stopped, or killed.
    """
    tally = Tally(
        "a file of a run directory is damaged: bytes flipped, cut, emptied, deleted, swapped with "
        "another, or taken from another run"
    )
    chance = random.Random(seed)
    sound = {state: folder / state for state in ("finished", "stopped", "killed")}
    make_runs(sound, folder / "other")
    expected = results(sound["finished"] / "run")
    for number in range(count):
        state = chance.choice(list(sound))
        place = folder / f"{number}"
        shutil.copytree(sound[state], place)
        what = mutate(place / "run", folder / "other" / "run", chance)
        told = f"{what} of a run that was {state} (seed {seed}, trial {number})"
        tally.add(*_judge(place, state, what, told, expected))
        shutil.rmtree(place)
    return tally


def make_runs(sound: dict[str, Path], other: Path) -> None:
    """Make a run in each state, and one of another seed."""
    child.run(other, *WORDS, "seed=1")
    child.run(sound["finished"], *WORDS)
    for state, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        child.run(sound[state], *WORDS, fault=lambda number=number: _stop_after_epoch(2, number))


def _stop_after_epoch(epoch: int, number: int) -> None:
    from resnet_sweep.training.callbacks.progress import ProgressLog

    told = ProgressLog.on_epoch_end

    def on_epoch_end(self, row, layers, step) -> None:
        told(self, row, layers, step)
        if row["epoch"] == epoch:
            os.kill(os.getpid(), number)

    ProgressLog.on_epoch_end = on_epoch_end


def mutate(directory: Path, other: Path, chance: random.Random) -> str:
    """Damage one file of a run directory, and say how."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    path = chance.choice(paths)
    name = path.relative_to(directory)
    kind = chance.choice(KINDS)
    content = bytearray(path.read_bytes())
    if kind == "flip" and content:
        for _ in range(chance.choice([1, 1, 3])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    elif kind == "cut" and content:
        path.write_bytes(content[: chance.randrange(len(content))])
    elif kind == "delete":
        path.unlink()
    elif kind == "swap":
        second = chance.choice([each for each in paths if each != path])
        path.write_bytes(second.read_bytes())
        second.write_bytes(content)
        return f"swap {name} with {second.relative_to(directory)}"
    elif kind == "foreign" and (other / name).exists():
        path.write_bytes((other / name).read_bytes())
    else:
        kind = "empty"
        path.write_bytes(b"")
    return f"{kind} {name}"


def _judge(place: Path, state: str, what: str, told: str, expected: dict) -> tuple[str, str | None]:
    """What came of a mutation, and what is wrong with that."""
    if wrong := _misread(place / "run", state == "finished", expected):
        return "", f"{told}: {wrong}"
    ended = child.run(place, *WORDS)
    if ended.refusal:
        return "refused with one sentence", None
    if ended.status != 0 or "Traceback" in ended.output:
        return "", f"{told}: status {ended.status}\n{ended.output}"
    wrong = difference(place / "run", expected)
    if wrong is None:
        return "mended, to the same bits", None
    if BEST in ended.output and difference(place / "run", expected, {BEST}) is None:
        # Only the weights of the best epoch are lost.
        wrong = _misread(place / "run", True, expected)
        return "told: the best weights are lost", wrong and f"{told}: {wrong}"
    if not re.search("^epoch ", ended.output, re.MULTILINE):
        # Whoever looks at its files must find the damage.
        if UNREAD.search(what):
            return "of no consequence", None
        wrong = _misread(place / "run", True, expected)
        return "found by whoever reads the file", wrong and f"{told}: {wrong}"
    return "", f"{told}: {wrong}\n{ended.output}"


def _misread(directory: Path, finished: bool, expected: dict) -> str | None:
    """As `_mistaken`, of tools that mustn't fail either."""
    try:
        return _mistaken(directory, finished, expected)
    except Exception:
        return traceback.format_exc()


def _mistaken(directory: Path, finished: bool, expected: dict) -> str | None:
    """What the tools that read runs take for a result, though it isn't one."""
    entry = load_run(directory, "run")
    if isinstance(entry, BrokenRun) or entry.record.signature != expected["run.json"]["signature"]:
        # It says itself that it is of another run.
        return None
    known = entry.record.state == expected["run.json"]["state"]
    for name in ("best", "final", "gap"):
        if known and getattr(entry.record, name) != expected["run.json"][name]:
            return f"{name} is taken to be {getattr(entry.record, name)}"
    if finished and not known:
        return f"its state is taken to be {entry.record.state}"
    rows, why = entry.metrics
    unsettled = entry.record.state == "running"
    if (
        not unsettled
        and why is None
        and without_times(rows) != expected["metrics.csv"][: len(rows)]
    ):
        return "metrics.csv is taken to be sound"
    if finished and why is None and len(rows) != len(expected["metrics.csv"]):
        return "metrics.csv is taken to be whole"
    Comparison([entry, entry]).json()
    try:
        restored = restore(directory)
    except ConfigError:
        return None
    if finished and restored.val_acc != expected["run.json"]["best"]["val_acc"]:
        return f"its best is taken to be {restored.val_acc}"
    if finished and digest(read_checkpoint(directory / "checkpoints" / BEST)) != expected[BEST]:
        return "another best checkpoint is taken for its own"
    return None
