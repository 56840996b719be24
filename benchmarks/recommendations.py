"""Runs each row of docs/reference/recommendations.md, and writes what came of it into the row.

python -m benchmarks.recommendations [--jobs 2]
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record, duration

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "recommendations.md"
SETTING = (
    "model=resnet8v2 data.limit_train=256 data.limit_test=100 trainer.batch_size=64 "
    "trainer.threads=1 trainer.precision=float32 logger=csv"
)


def cells(line: str) -> list[str]:
    """What stands between the bars of a row of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def is_run(line: str) -> bool:
    """Whether a line is a row of a table whose last column tells of a run."""
    return line.startswith("| ") and len(cells(line)) == 4 and cells(line)[3] != "this run"


def override_of(line: str) -> str:
    """The override of a row; empty for the recipe as it is."""
    return cells(line)[1].strip("`")


def run(override: str, directory: Path) -> str:
    """Train with an override, and say in a few words what came of it."""
    command = [sys.executable, "-m", "resnet_sweep", *shlex.split(f"{SETTING} {override}")]
    done = subprocess.run(
        [*command, f"hydra.run.dir={directory}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{override}: status {done.returncode}\n{done.stdout}{done.stderr}")
    record, rows = Record.read(directory), read_metrics(directory)
    words = [f"best {record.best['val_acc']:.1f}% of epoch {record.best['epoch']}"]
    if record.state != "finished":
        words.append(f"{record.state} after epoch {len(rows)}")
    words.append(f"{record.parameters:,} parameters")
    words.append(duration(record.seconds))
    words += [note for note in record.notes if note.startswith("progressive resizing")]
    return ", ".join(words)


def main() -> None:
    """Run all rows, and write their outcomes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recommendations",
        description="Run each row of docs/reference/recommendations.md.",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side (default: 2)")
    jobs = parser.parse_args().jobs
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [number for number, line in enumerate(lines) if is_run(line)]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(jobs) as pool:
        found = pool.map(
            lambda number: run(override_of(lines[number]), Path(scratch) / str(number)), rows
        )
        for number, outcome in zip(rows, found, strict=True):
            recommendation, _, record = cells(lines[number])[:3]
            print(f"{recommendation}: {outcome}", flush=True)
            override = override_of(lines[number])
            shown = f"`{override}` " if override else ""
            lines[number] = f"| {recommendation} | {shown}| {record} | {outcome} |"
            DOCUMENT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
