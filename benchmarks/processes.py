"""Python commands in fresh processes, and their memory use."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOG = "output.log"
SAMPLE_SECONDS = 0.25


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder, and delete it at the end of the block."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name).resolve()


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process by an exception, so that `run_python` ends its process, too."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def start_python(
    arguments: Sequence[str],
    folder: Path,
    variables: Mapping[str, str] | None = None,
    log: str = LOG,
) -> subprocess.Popen:
    """Start Python in a folder, with a search path that contains this repository.

    Args:
        arguments: of the Python interpreter, for example `-m resnet_sweep`.
        folder: the working directory, which is created if it is missing.
        variables: environment variables to set or replace.
        log: name of the file in the folder that receives all output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The config of a run may name callbacks only from trusted packages.
    environment = {"PYTHONPATH": str(ROOT), "RESNET_SWEEP_TRUSTED_PACKAGES": "benchmarks"}
    with (folder / log).open("w") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=os.environ | environment | dict(variables or {}),
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def run_python(
    arguments: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None
) -> float:
    """Run Python to its end as `start_python` does, and return its peak memory, MB.

    The memory is the largest sum over the process and its descendants.

    Raises:
        SystemExit: the command failed.
    """
    process = start_python(arguments, folder, variables)
    peak, ended = 0.0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.wait(SAMPLE_SECONDS):
            peak = max(peak, sum(map(proportional_memory, process_tree(process.pid))))

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        process.wait()
    except BaseException:
        process.terminate()
        raise
    finally:
        ended.set()
        sampler.join()
    check_success(process, folder)
    return peak


def check_success(process: subprocess.Popen, folder: Path) -> None:
    """Wait for a process from `start_python`.

    Raises:
        SystemExit: it failed. Its output is printed.
    """
    if status := process.wait():
        print((folder / LOG).read_text(), file=sys.stderr)
        raise SystemExit(f"python {' '.join(process.args[1:])} failed with exit status {status}")


def process_tree(process: int) -> Iterator[int]:
    """Yield a process ID and those of all its descendants."""
    yield process
    try:
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from process_tree(int(child))
    except OSError:
        # The process has ended.
        return


def proportional_memory(process: int) -> float:
    """Return the proportional set size of a process, MB; 0 if the process has ended.

    A page that n processes share counts 1/n in each. So the sum over processes counts it once.
    """
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)
