"""Injects faults into runs and counts the losses, for docs/explanation/reliability.md.

python -m benchmarks.reliability [--all] [--part kills [--count 50]]
"""

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

# What can go wrong, with how many trials there are of it in a bounded part, and in all.
PARTS = {
    "kills": (15, 200),
    "sweep_kills": (10, 200),
    "signals": (6, 100),
    "damage": (30, 1000),
    "resources": (10, 100),
    "numbers": (18, 300),
    "command_line": (250, 10_000),
    "hostility": (10, 250),
    "determinism": (1, 13),
}
HEAD = "| What is done | Times | What came of it | Lost or let in |\n|---|---|---|---|"


def main() -> None:
    """Run all parts or one, print a row of each, and exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reliability",
        description="Kill runs, damage their files, starve them and mistype them, and count what "
        "came of it.",
    )
    parser.add_argument("--all", action="store_true", help="all trials, which take hours")
    parser.add_argument("--part", choices=PARTS, help="one kind of fault alone")
    parser.add_argument("--count", type=int, help="so many trials of each, instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    arguments = parser.parse_args()
    # The faults are part of the tests, and use what those have.
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    print(HEAD, flush=True)
    lost = 0
    for part in [arguments.part] if arguments.part else PARTS:
        trials = getattr(importlib.import_module(f"faults.{part}"), part)
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            count = arguments.count or PARTS[part][arguments.all]
            tally = trials(count, arguments.seed, Path(folder))
        print(tally.row(), flush=True)
        print(f"{part}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        for each in tally.lost:
            print(each, file=sys.stderr, flush=True)
        lost += len(tally.lost)
    sys.exit(1 if lost else 0)


if __name__ == "__main__":
    main()
