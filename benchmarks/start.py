"""How long one waits for training to begin.

python -m benchmarks.start [--turns 5] [--model resnet8v2] [WORD...]

From the command to the end of `--cfg job`; from the command to the end of the first training step
of a run; and in a sweep, from the moment when one job has drawn its plots to the first training
step of the next in the same process. Each turn is in fresh processes; the times of an unloaded disk
are found by the first turn, which isn't counted.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.processes import carry_out
from benchmarks.stopwatch import WORD, read_moments

# A run that makes one step: the first one is all that is waited for.
BRIEF = ("trainer.max_steps=1", "data.limit_test=100", WORD)
JOBS = 4


def show_config(words: Sequence[str]) -> list[float]:
    """Seconds of `--cfg job`."""
    with tempfile.TemporaryDirectory() as name:
        begun = time.monotonic()
        carry_out(["-m", "resnet_sweep", *words, "--cfg", "job"], Path(name))
        return [time.monotonic() - begun]


def begin_run(words: Sequence[str]) -> list[float]:
    """Seconds from the command to the end of the first training step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begun = time.monotonic()
        carry_out(["-m", "resnet_sweep", *words, *BRIEF, "hydra.run.dir=run"], folder)
        return [read_moments(folder / "run")["stepped"] - begun]


def begin_next(words: Sequence[str]) -> list[float]:
    """Seconds from the end of each job of a sweep to that of the next one's first step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        several = ["--multirun", f"seed=range(0,{JOBS})", "hydra.sweep.dir=sweep"]
        carry_out(["-m", "resnet_sweep", *words, *BRIEF, *several], folder)
        moments = [read_moments(folder / "sweep" / str(number)) for number in range(JOBS)]
    return [later["stepped"] - earlier["ended"] for earlier, later in pairwise(moments)]


WAITS = {
    "`--cfg job`": show_config,
    "first training step of a run": begin_run,
    "first training step of the next job": begin_next,
}


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start", description="Time the way to the first training step."
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--model", default="resnet8v2")
    parser.add_argument("words", nargs="*", help="overrides of all runs, such as data=digits")
    told = parser.parse_args()
    words = [f"model={told.model}", *told.words]
    found: dict[str, list[float]] = {wait: [] for wait in WAITS}
    for turn in range(told.turns + 1):
        for wait, measure in WAITS.items():
            seconds = measure(words)
            print(json.dumps([turn, wait, *seconds]), file=sys.stderr, flush=True)
            if turn:
                found[wait] += seconds
    print("| wait for | times | median, s | from | to |\n|---|---|---|---|---|")
    for wait, seconds in found.items():
        figures = " | ".join(f"{of(seconds):.2f}" for of in (median, min, max))
        print(f"| {wait} | {len(seconds)} | {figures} |")


if __name__ == "__main__":
    main()
