"""Commands carried out in fresh processes, and the memory that they take."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE_SECONDS = 0.25


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of a process that finds this package and trusts its callbacks."""
    found = os.environ | {"PYTHONPATH": str(ROOT), "RESNET_SWEEP_TRUSTED_PACKAGES": "benchmarks"}
    return found | dict(changes or {})


def carry_out(
    words: Sequence[str], folder: Path, changes: Mapping[str, str] | None = None
) -> float:
    """Run `python` with these words in a folder; returns the most memory that it had, MB.

    Args:
        words: from `-m` on.
        folder: made if need be; what is printed goes to output.log in it.
        changes: of the environment.

    Raises:
        SystemExit: the command failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "output.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder, env=environment(changes), stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    most, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(SAMPLE_SECONDS):
            most = max(most, sum(map(proportional_memory, tree(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        done.set()
        watcher.join()
    if status:
        print(log.read_text(), file=sys.stderr)
        raise SystemExit(f"python {' '.join(words)} ended with status {status}")
    return most


def tree(process: int) -> Iterator[int]:
    """A process and all that descend from it."""
    yield process
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from tree(int(child))
    except OSError:
        # It has ended.
        return


def proportional_memory(process: int) -> float:
    """A process's memory in MB (proportional set size): what n processes share counts 1/n in each,
    so that the sum over processes is what they take together. 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)
