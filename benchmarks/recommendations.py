"""Run each row of docs/reference/recommendations.md, and write the results into the last column.

python -m benchmarks.recommendations [--jobs 2]
"""

import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.command_line import make_parser
from benchmarks.processes import temporary_folder
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record, duration

DOCUMENT = Path(__file__).parents[1] / "docs" / "reference" / "recommendations.md"
OVERRIDES = (
    "model=resnet8v2 data.limit_train=256 data.limit_test=100 trainer.batch_size=64 "
    "trainer.threads=1 trainer.precision=float32 logger=csv"
)


def cells(line: str) -> list[str]:
    """Return the cells of a row of a table."""
    return [cell.strip() for cell in line.split("|")[1:-1]]


def is_run(line: str) -> bool:
    """Return whether a line is a row of a table whose last column describes a run."""
    return line.startswith("| ") and len(cells(line)) == 4 and cells(line)[3] != "this run"


def override_of(line: str) -> str:
    """Return the override of a row; empty for the recipe without a change."""
    return cells(line)[1].strip("`")


def run(override: str, directory: Path) -> str:
    """Train with an override, and return the result for the last column."""
    command = [sys.executable, "-m", "resnet_sweep", *shlex.split(f"{OVERRIDES} {override}")]
    process = subprocess.run(
        [*command, f"hydra.run.dir={directory}"], capture_output=True, text=True, check=False
    )
    if process.returncode:
        output = f"{process.stdout}{process.stderr}"
        raise SystemExit(f"{override} failed with exit status {process.returncode}:\n{output}")
    record, rows = Record.read(directory), read_metrics(directory)
    parts = [f"best {record.best['val_acc']:.1f}% of epoch {record.best['epoch']}"]
    if record.state != "finished":
        parts.append(f"{record.state} after epoch {len(rows)}")
    parts.append(f"{record.parameters:,} parameters")
    parts.append(duration(record.seconds))
    parts += [note for note in record.notes if note.startswith("progressive resizing")]
    return ", ".join(parts)


def main() -> None:
    """Run all rows, and write their results."""
    parser = make_parser("recommendations", __doc__)
    parser.add_argument("--jobs", type=int, default=2, help="runs at once (default: 2)")
    jobs = parser.parse_args().jobs
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [number for number, line in enumerate(lines) if is_run(line)]
    with temporary_folder() as folder, ThreadPoolExecutor(jobs) as pool:
        results = pool.map(
            lambda number: run(override_of(lines[number]), folder / str(number)), rows
        )
        for number, result in zip(rows, results, strict=True):
            recommendation, _, record = cells(lines[number])[:3]
            print(f"{recommendation}: {result}", flush=True)
            override = override_of(lines[number])
            code = f"`{override}` " if override else ""
            lines[number] = f"| {recommendation} | {code}| {record} | {result} |"
            DOCUMENT.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
