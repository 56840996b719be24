"""Compare sweeps whose jobs share their first epochs with sweeps that train each job alone.

python -m benchmarks.shared_epochs [--sweep NAME]... [--rounds 1] [--epochs 20] [--images 10000]
    [OVERRIDE ...]

Each sweep runs twice in a round, in turn: with `share_epochs=true` and with `share_epochs=false`.
Both use the launcher `pool`, with one thread for each job. The epochs are counted from the run
directories. The time counts from the start of the command to its end, so it includes the plan of
the sweep and the start of its processes. At the end of a round, the metrics of each job are
compared with those of the job that was trained alone. They must be equal, except for times.

`OVERRIDE` applies to all jobs, for example `data=cifar100 model=resnet8v2`.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import LOG, start_python, temporary_folder
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record

TIMES = ("seconds", "images_per_second")


def sweeps(epochs: int) -> dict[str, tuple[str, ...]]:
    """Return the overrides of each sweep by its name.

    Args:
        epochs: number of epochs of the longest job.
    """
    last = f"trainer.epochs={epochs}"
    lengths = ",".join(str(max(1, epochs * tenth // 10)) for tenth in range(1, 11))
    stops = ",".join(str(max(1, epochs * tenth // 10)) for tenth in (2, 4, 6, 8))
    return {
        "how_long": ("sweep=how_long", last),
        "milestones_gammas": (
            *(last, "schedule=step", "schedule.gamma=0.1,0.2,0.5"),
            "schedule.milestones=[0.5,0.75],[0.5,0.9],[0.7,0.9]",
        ),
        "lengths_constant": ("schedule=constant", f"trainer.epochs={lengths}"),
        "lengths_trapezoid": ("schedule=trapezoid", f"trainer.epochs={lengths}"),
        "cooldowns": (
            *(last, "schedule=trapezoid"),
            *("schedule.cooldown=0.05,0.1,0.2,0.4", "schedule.shape=linear,1-sqrt"),
        ),
        "mixing_off": (
            *(last, "augmentation=cutmix", "schedule=step"),
            "augmentation.cutmix.until=0.6,0.7,0.8,0.9,1",
        ),
        "early_stops": (last, f"trainer.early_stopping.epoch={stops},null"),
    }


class Measurement(NamedTuple):
    """The result of a sweep.

    Attributes:
        jobs: number of jobs.
        reported: epochs of all jobs.
        trained: epochs that were trained.
        seconds: time of the command.
        metrics: the metrics of each job by its overrides, without times.
    """

    jobs: int
    reported: int
    trained: int
    seconds: float
    metrics: Mapping[str, Sequence[Mapping[str, float]]]


def measure(overrides: Sequence[str], folder: Path, share: bool) -> Measurement:
    """Run a sweep in an empty folder."""
    arguments = ("-m", "resnet_sweep", "--multirun", *overrides, "hydra/launcher=pool")
    settings = ("trainer.threads=1", "logger=csv", "hydra.sweep.dir=sweep")
    started = time.monotonic()
    process = start_python(
        [*arguments, *settings, f"share_epochs={str(share).lower()}", "reuse=false"], folder
    )
    try:
        status = process.wait()
    except BaseException:
        process.terminate()
        raise
    if status:
        print((folder / LOG).read_text(), file=sys.stderr)
        raise SystemExit(f"the sweep failed with exit status {status}")
    seconds = time.monotonic() - started
    metrics, reported, shared = {}, 0, 0
    for path in (folder / "sweep").glob("*/run.json"):
        record = Record.read(path.parent)
        rows = read_metrics(path.parent)
        metrics[" ".join(record.overrides)] = [
            {name: value for name, value in row.items() if name not in TIMES} for row in rows
        ]
        reported += len(rows)
        shared += record.shared_epochs["epochs"] if record.shared_epochs else 0
    return Measurement(len(metrics), reported, reported - shared, seconds, metrics)


def main() -> None:
    """Measure the sweeps, and print the table; exit with 1 if a job differs."""
    parser = make_parser("shared_epochs", __doc__)
    names = [*sweeps(10)]
    parser.add_argument("--sweep", action="append", choices=names, help="(default: all)")
    parser.add_argument("--rounds", type=int, default=1, help="repetitions (default: 1)")
    parser.add_argument("--epochs", type=int, default=20, help="of the longest job (default: 20)")
    parser.add_argument("--images", type=int, default=10_000, help="to train on (default: 10000)")
    add_overrides(parser)
    arguments = parser.parse_intermixed_args()
    columns = (
        "Sweep",
        "Jobs",
        "Epochs reported",
        "Epochs trained",
        "Alone, s",
        "Shared, s",
        "Ratio",
    )
    print(table_header(*columns), flush=True)
    differ = False
    for name in arguments.sweep or names:
        overrides = (
            *sweeps(arguments.epochs)[name],
            f"data.limit_train={arguments.images}",
            *arguments.overrides,
        )
        results: dict[bool, list[Measurement]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for share in (False, True):
                with temporary_folder() as folder:
                    results[share].append(measure(overrides, folder, share))
            if results[True][-1].metrics != results[False][-1].metrics:
                differ = True
                print(f"{name}: the metrics of a job differ", file=sys.stderr, flush=True)
        alone, shared = (
            median(found.seconds for found in results[share]) for share in (False, True)
        )
        found = results[True][0]
        cells = (found.jobs, found.reported, found.trained, f"{alone:.0f}", f"{shared:.0f}")
        print(table_row(f"`{name}`", *map(str, cells), f"{shared / alone:.2f}"), flush=True)
    sys.exit(int(differ))


if __name__ == "__main__":
    main()
