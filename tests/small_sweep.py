"""Small sweeps on digits, started as commands, and functions that read their directories."""

import csv
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import processes
import torch
from processes import Process

from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint

# The overrides of a run that takes a second and uses every source of randomness.
TINY = (
    "experiment=quickstart",
    "augmentation=standard",
    "model.dropout=0.1",
    "data.limit_train=100",
    "data.limit_test=50",
    "trainer.epochs=2",
    "trainer.threads=1",
    "trainer.device=cpu",
    "logger=csv",
)
# A sweep with four such runs.
GRID = ("--multirun", *TINY, "hydra.sweep.dir=sweep", "optim.lr=0.1,0.05", "seed=0,1")
# A sweep with four such runs, each of four epochs. Two to three of these are shared.
SHARED_GRID = (
    *("--multirun", *TINY, "hydra.sweep.dir=sweep", "trainer.epochs=4", "schedule=step"),
    *("schedule.warmup_epochs=0", "schedule.milestones=[0.5],[0.75]", "schedule.gamma=0.1,0.5"),
)
# A module with an augmentation that raises an error, or sends its process a signal once.
FAULTY_TRANSFORM = """
import os
import signal
from pathlib import Path


class Faulty:
    def __init__(self, by):
        self.by, self.batches = by, 0

    def __call__(self, images, labels, generator):
        # The validation before a job may use the first batch, and must succeed.
        self.batches += 1
        if self.by == "error" and self.batches > 1:
            raise ValueError("this one is broken")
        if self.by.startswith("SIG") and self.batches > 2 and not Path(self.by).exists():
            Path(self.by).touch()
            os.kill(os.getpid(), getattr(signal, self.by))
        return images, labels
"""
STATES = ("pending", "running", "interrupted", "finished", "failed", "diverged")


def start(folder: Path, *arguments: str, **environment: str) -> Process:
    """Start `python -m resnet_sweep` in a folder, in a new process group."""
    return processes.start(
        folder,
        *arguments,
        environment=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: Process, timeout: float = 300) -> str:
    """Wait until a process ends, and return its output."""
    output, _ = process.communicate(timeout=timeout)
    return output


def kill(process: Process) -> str:
    """Send SIGKILL to a process, and return its output."""
    process.send_signal(signal.SIGKILL)
    return finish(process)


def job_faults(*faults: str) -> tuple[str, ...]:
    """Return the overrides of a sweep with a fault in some of its jobs.

    Args:
        faults: the faults of the jobs with seed 0, 1, ...: "error", "none", or a signal's name.
    """
    return (
        "+augmentation.mine._target_=faulty.Faulty",
        f"+augmentation.mine.by={','.join(faults)}",
        f"seed=range(0,{len(faults)})",
        "zip=[seed,+augmentation.mine.by]",
    )


def write_faulty_transform(folder: Path) -> dict[str, str]:
    """Write the module that `job_faults` names, and return the variables to import it."""
    (folder / "faulty.py").write_text(FAULTY_TRANSFORM)
    return {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "faulty"}


def dry_run_jobs(output: str) -> list[tuple[int, str, list[str]]]:
    """Return the rows of a dry run: a job's number, its state, and the words after them."""
    rows = []
    for line in output.splitlines():
        words = line.split()
        if words[:1] == [str(len(rows))] and words[1:2] and words[1] in STATES:
            rows.append((len(rows), words[1], words[2:]))
        elif rows:
            # The table ends where the summary starts.
            break
    return rows


def numbers(line: str) -> list[int]:
    """Return the whole numbers in a line."""
    return [int(number) for number in re.findall(r"\d+", line)]


def commands(output: str) -> list[str]:
    """Return the `python -m resnet_sweep` commands in an output."""
    lines = map(str.strip, output.splitlines())
    return [line for line in lines if line.startswith("python -m resnet_sweep ")]


def wait_for(process: Process, path: Path) -> None:
    """Wait until a process has written a file. For run.json, wait until the run has started."""
    while not path.exists() or (path.name == "run.json" and _is_pending(path)):
        assert process.poll() is None, finish(process)
        time.sleep(0.02)


def _is_pending(path: Path) -> bool:
    return json.loads(path.read_text())["state"] == "pending"


def workers(process: Process) -> list[int]:
    """Return the IDs of the worker processes of a sweep's pool."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            words = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and b"spawn_main" in words:
            pids.append(int(path.parent.name))
    return pids


def records(sweep: Path) -> dict[str, dict]:
    """Return the records of a sweep's runs, with the names of their directories as keys."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))
    }


def manifest(sweep: Path) -> list[dict]:
    """Return the jobs in `sweep.json`."""
    return json.loads((sweep / "sweep.json").read_text())["jobs"]


def results(sweep: Path) -> list[dict[str, str]]:
    """Return the rows of `results.csv`."""
    with (sweep / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def leftovers(sweep: Path) -> list[Path]:
    """Return the temporary files and lock files that a killed process has left."""
    return [
        path
        for path in sweep.rglob("*")
        if path.name.endswith(".lock") or (path.name.startswith(".") and "-" in path.name)
    ]


def assert_same_runs(first_sweep: Path, second_sweep: Path) -> None:
    """Assert that two sweeps have the same runs, bit for bit."""
    first_records, second_records = records(first_sweep), records(second_sweep)
    assert first_records.keys() == second_records.keys()
    for name in first_records:
        assert first_records[name]["state"] == second_records[name]["state"] == "finished"
        first, second = (
            [
                {key: row[key] for key in row if key not in ("seconds", "images_per_second")}
                for row in read_metrics(sweep / name)
            ]
            for sweep in (first_sweep, second_sweep)
        )
        assert first == second
        for checkpoint in (BEST, LAST):
            first_model, second_model = (
                read_checkpoint(sweep / name / "checkpoints" / checkpoint)["model"]
                for sweep in (first_sweep, second_sweep)
            )
            assert all(torch.equal(first_model[key], second_model[key]) for key in first_model)


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    """Return the content and the modification time of every file in a directory."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), os.stat(path).st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }
