"""Inject faults into runs, and print the table of docs/explanation/reliability.md.

python -m benchmarks.reliability [--all] [--part kills [--count 50]]
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

# The number of trials of each kind of fault, by default and with --all.
PARTS = {
    "kills": (15, 200),
    "sweep_kills": (10, 200),
    "shared_epochs": (10, 200),
    "signals": (6, 100),
    "damage": (30, 1000),
    "resources": (10, 100),
    "numbers": (18, 300),
    "command_line": (250, 10_000),
    "hostility": (10, 250),
    "determinism": (1, 13),
}
HEADER = "| Fault | Trials | Outcomes | Failures |\n|---|---|---|---|"


def main() -> None:
    """Run one kind of fault or all, print a table row for each, and exit with 1 after a failure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description="Inject faults into runs, and count the outcomes. A failure is a trial that "
        "lost data, showed a wrong result, executed code of a file, or crashed.",
    )
    parser.add_argument(
        "--all", action="store_true", help="run the full number of trials, which takes hours"
    )
    parser.add_argument("--part", choices=PARTS, help="run only this kind of fault")
    parser.add_argument("--count", type=int, help="the number of trials of each kind of fault")
    parser.add_argument(
        "--seed", type=int, default=0, help="the seed of the random choices (default: 0)"
    )
    arguments = parser.parse_args()
    # The package `faults` is part of the tests, and imports their helpers.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    print(HEADER, flush=True)
    failures = 0
    for part in [arguments.part] if arguments.part else PARTS:
        run_trials = getattr(importlib.import_module(f"faults.{part}"), part)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            count = arguments.count or PARTS[part][arguments.all]
            tally = run_trials(count, arguments.seed, Path(folder))
        print(tally.row(), flush=True)
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        for failure in tally.failures:
            print(failure, file=sys.stderr, flush=True)
        failures += len(tally.failures)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
