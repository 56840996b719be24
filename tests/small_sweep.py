"""Small sweeps on digits through the real command line, and what they leave."""

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

# A run of a second, with all that is random in one.
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
# Four of them.
GRID = ("--multirun", *TINY, "hydra.sweep.dir=sweep", "optim.lr=0.1,0.05", "seed=0,1")
# A transform for a job that breaks in its training: by an error, or, once, by a signal.
FAULTY_TRANSFORM = """
import os
import signal
from pathlib import Path


class Faulty:
    def __init__(self, by):
        self.by, self.batches = by, 0

    def __call__(self, images, labels, generator):
        # The first batch may be the one that is tried before any job begins.
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
    """Start `python -m resnet_sweep` in a folder, in a process group of its own."""
    return processes.start(
        folder,
        *arguments,
        environment=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: Process, timeout: float = 300) -> str:
    """All that a process prints until it ends."""
    output, _ = process.communicate(timeout=timeout)
    return output


def kill(process: Process) -> str:
    """End a process as the system does when memory runs out; returns what it had printed."""
    process.send_signal(signal.SIGKILL)
    return finish(process)


def job_faults(*ways: str) -> tuple[str, ...]:
    """Return the overrides with which each job of a sweep breaks in its way, or in none.

    Args:
        ways: of the jobs with the seeds 0, 1, ...: "error", the name of a signal, or "none".
    """
    return (
        "+augmentation.mine._target_=faulty.Faulty",
        f"+augmentation.mine.by={','.join(ways)}",
        f"seed=range(0,{len(ways)})",
        "zip=[seed,+augmentation.mine.by]",
    )


def write_faulty_transform(folder: Path) -> dict[str, str]:
    """Write the module that `job_faults` names; returns the variables with which it is found."""
    (folder / "faulty.py").write_text(FAULTY_TRANSFORM)
    return {"PYTHONPATH": str(folder), "RESNET_SWEEP_TRUSTED_PACKAGES": "faulty"}


def dry_run_jobs(output: str) -> list[tuple[int, str, list[str]]]:
    """Return the table of a preview: of each job its number, its state and the rest of its line."""
    rows = []
    for line in output.splitlines():
        words = line.split()
        if words[:1] == [str(len(rows))] and words[1:2] and words[1] in STATES:
            rows.append((len(rows), words[1], words[2:]))
        elif rows:
            # The summary is below the table.
            break
    return rows


def numbers(line: str) -> list[int]:
    """Return the whole numbers in a line."""
    return [int(number) for number in re.findall(r"\d+", line)]


def commands(output: str) -> list[str]:
    """Return the commands that a process has printed, to be given next."""
    lines = map(str.strip, output.splitlines())
    return [line for line in lines if line.startswith("python -m resnet_sweep ")]


def wait_for(process: Process, path: Path) -> None:
    """Wait until a process has made a file; a run.json, until its run has started."""
    while not path.exists() or (path.name == "run.json" and _is_pending(path)):
        assert process.poll() is None, finish(process)
        time.sleep(0.02)


def _is_pending(path: Path) -> bool:
    return json.loads(path.read_text())["state"] == "pending"


def workers(process: Process) -> list[int]:
    """The processes of a sweep's pool."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            words = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process.pid and b"spawn_main" in words:
            found.append(int(path.parent.name))
    return found


def records(sweep: Path) -> dict[str, dict]:
    """The records of a sweep's runs, by the names of their directories."""
    return {
        path.parent.name: json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))
    }


def manifest(sweep: Path) -> list[dict]:
    """What `sweep.json` says of the jobs."""
    return json.loads((sweep / "sweep.json").read_text())["jobs"]


def results(sweep: Path) -> list[dict[str, str]]:
    """The lines of `results.csv`."""
    with (sweep / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def leftovers(sweep: Path) -> list[Path]:
    """Files that a killed process was about to write, or holds nothing with any more."""
    return [
        path
        for path in sweep.rglob("*")
        if path.name.endswith(".lock") or (path.name.startswith(".") and "-" in path.name)
    ]


def assert_same_runs(one: Path, other: Path) -> None:
    """Hold each run of a sweep against that of another, bit for bit."""
    ours, theirs = records(one), records(other)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name]["state"] == theirs[name]["state"] == "finished"
        first, second = (
            [
                {key: row[key] for key in row if key not in ("seconds", "images_per_second")}
                for row in read_metrics(sweep / name)
            ]
            for sweep in (one, other)
        )
        assert first == second
        for checkpoint in (BEST, LAST):
            model, twin = (
                read_checkpoint(sweep / name / "checkpoints" / checkpoint)["model"]
                for sweep in (one, other)
            )
            assert all(torch.equal(model[key], twin[key]) for key in model)


def snapshot(directory: Path) -> dict[str, tuple[bytes, int]]:
    """The content and the time of change of every file in a directory."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), os.stat(path).st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }
