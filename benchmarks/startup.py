"""Measure how long a command takes to its first training step.

python -m benchmarks.startup [--turns 5] [--model resnet8v2] [OVERRIDE...]

Three waits are measured, each in fresh processes: from the command to the end of `--cfg job`; from
the command to the end of the first training step of a run; and in a sweep, from the end of a job,
after its plots are drawn, to the end of the first training step of the next job in the same
process. A first turn, which warms up the disk cache, isn't counted.
"""

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.markdown import median_and_range, table_header, table_row
from benchmarks.processes import run_python, temporary_folder
from benchmarks.timestamps import TIMESTAMPS_OVERRIDE, read_timestamps

# Only the first step is timed, so a run makes no other.
ONE_STEP = ("trainer.max_steps=1", "data.limit_test=100", TIMESTAMPS_OVERRIDE)
JOBS = 4


def time_config(overrides: Sequence[str]) -> list[float]:
    """Return the seconds that `--cfg job` takes."""
    with temporary_folder() as folder:
        start = time.monotonic()
        run_python(["-m", "resnet_sweep", *overrides, "--cfg", "job"], folder)
        return [time.monotonic() - start]


def time_first_step(overrides: Sequence[str]) -> list[float]:
    """Return the seconds from the command to the end of the first training step."""
    with temporary_folder() as folder:
        start = time.monotonic()
        run_python(["-m", "resnet_sweep", *overrides, *ONE_STEP, "hydra.run.dir=run"], folder)
        return [read_timestamps(folder / "run")["first_step"] - start]


def time_next_jobs(overrides: Sequence[str]) -> list[float]:
    """Return the seconds from the end of each job of a sweep to the next job's first step."""
    with temporary_folder() as folder:
        sweep = ["--multirun", f"seed=range(0,{JOBS})", "hydra.sweep.dir=sweep"]
        run_python(["-m", "resnet_sweep", *overrides, *ONE_STEP, *sweep], folder)
        jobs = [read_timestamps(folder / "sweep" / str(number)) for number in range(JOBS)]
    return [job["first_step"] - previous["ended"] for previous, job in pairwise(jobs)]


WAITS = {
    "`--cfg job`": time_config,
    "first training step of a run": time_first_step,
    "first training step of the next job": time_next_jobs,
}


def main() -> None:
    """Run all turns, and print a table in Markdown."""
    parser = make_parser("startup", __doc__)
    parser.add_argument("--turns", type=int, default=5, help="turns that count (default: 5)")
    parser.add_argument("--model", default="resnet8v2", help="default: resnet8v2")
    add_overrides(parser)
    arguments = parser.parse_args()
    overrides = [f"model={arguments.model}", *arguments.overrides]
    times: dict[str, list[float]] = {wait: [] for wait in WAITS}
    for turn in range(arguments.turns + 1):
        for wait, measure in WAITS.items():
            seconds = measure(overrides)
            print(json.dumps([turn, wait, *seconds]), file=sys.stderr, flush=True)
            if turn:
                times[wait] += seconds
    print(table_header("wait for", "times", "median, s", "from", "to"))
    for wait, seconds in times.items():
        print(table_row(wait, str(len(seconds)), *median_and_range(seconds, 2)))


if __name__ == "__main__":
    main()
