"""Compare precisions and modes of torch.compile: speed, and the losses of the first 100 steps.

python -m benchmarks.compile_modes DIRECTORY [--device cpu|cuda] [--model resnet44v2_3stage]
    [--images N] [--combinations float32/null bfloat16/max-autotune ...]

Each combination of `trainer.precision` and `trainer.compile` trains two epochs with seed 0 in a
fresh process. The speed is that of the second epoch, in which nothing is compiled. The losses are
compared with those of eager float32, float32/null, which is trained twice: on a GPU, even the same
step can be rounded in several ways. Finished runs in DIRECTORY aren't trained again, so the same
command resumes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.plain_loop import recipe_overrides
from benchmarks.processes import exit_on_sigterm, run_python
from benchmarks.timestamps import TIMESTAMPS_OVERRIDE, read_timestamps
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.training.callbacks import Callback, Step

STEPS, EPOCHS = 100, 2
FILE = "losses.json"
LOSSES_OVERRIDE = "+logger.losses={_target_:benchmarks.compile_modes.Losses}"
EAGER = "float32/null"
MODES = ("default", "reduce-overhead", "max-autotune")
COMBINATIONS = (
    EAGER,
    *(f"float32/{mode}" for mode in MODES),
    "bfloat16/null",
    *(f"bfloat16/{mode}" for mode in MODES),
)


class Losses(Callback):
    """Writes the losses of the first steps into `losses.json` in the run directory."""

    def on_train_start(self, directory: Path, step: int = 0) -> None:
        self.path = directory / FILE
        self.losses: list[float] = []

    def on_steps(self, steps: list[Step]) -> None:
        self.losses += [step.loss for step in steps]

    def on_train_end(self, record: Record) -> None:
        self.path.write_text(json.dumps(self.losses[:STEPS]), encoding="utf-8")


class Measurement(NamedTuple):
    """The result of a combination.

    Attributes:
        speed: training images per second in the last epoch.
        start: seconds from the start of the training to the first step, with the compilation.
        losses: of the first steps.
    """

    speed: float
    start: float
    losses: list[float]


def measure(directory: Path, combination: str, overrides: Sequence[str]) -> Measurement:
    """Train a combination in a directory, unless the directory has a finished run."""
    precision, mode = combination.split("/")
    run = directory / "run"
    if not (run / FILE).exists() or Record.read(run).state != "finished":
        settings = [f"trainer.precision={precision}", f"trainer.compile={mode}", "seed=0"]
        # The losses of the steps before an interruption would be missing.
        loggers = ["trainer.resume=false", "logger=csv", TIMESTAMPS_OVERRIDE, LOSSES_OVERRIDE]
        arguments = [*overrides, *settings, *loggers, "hydra.run.dir=run"]
        run_python(["-m", "resnet_sweep", *arguments], directory)
    times = read_timestamps(run)
    return Measurement(
        speed=read_metrics(run)[-1]["images_per_second"],
        start=times["first_step"] - times["started"],
        losses=json.loads((run / FILE).read_text(encoding="utf-8")),
    )


def compare(losses: Sequence[float], expected: Sequence[float]) -> tuple[int, float]:
    """Return the number of equal losses, and the largest difference relative to the expected."""
    pairs = list(zip(losses, expected, strict=True))
    differences = [abs(loss - other) / other for loss, other in pairs]
    return differences.count(0), max(differences)


def format_results(results: Sequence[tuple[str, Measurement]]) -> str:
    """Return a table in Markdown; the losses are compared with those of the first result."""
    (_, eager), *_ = results
    lines = [
        table_header("precision/mode", "images/s", "ratio", "to first step, s", "equal", "largest")
    ]
    for name, measured in results:
        equal, largest = compare(measured.losses, eager.losses)
        cells = (
            f"{measured.speed:,.0f}",
            f"{measured.speed / eager.speed:.2f}",
            f"{measured.start:.1f}",
            f"{equal} of {len(eager.losses)}",
            f"{largest:.2g}",
        )
        lines.append(table_row(name, *cells))
    return "\n".join(lines)


def main() -> None:
    """Train the combinations, and print a table in Markdown."""
    parser = make_parser("compile_modes", __doc__)
    parser.add_argument("directory", type=Path, help="directory of the runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--model", default="resnet44v2_3stage", help="default: resnet44v2_3stage")
    parser.add_argument(
        "--images", type=int, default=50_000, help="training images in an epoch (default: 50000)"
    )
    parser.add_argument(
        "--combinations",
        nargs="+",
        choices=COMBINATIONS,
        default=COMBINATIONS,
        metavar="PRECISION/MODE",
        help=f"default: all of {', '.join(COMBINATIONS)}",
    )
    arguments = parser.parse_args()
    exit_on_sigterm()
    overrides = recipe_overrides(arguments.model, arguments.images, EPOCHS, arguments.device)
    others = [name for name in arguments.combinations if name != EAGER]
    results = []
    for name, combination in (
        (EAGER, EAGER),
        (f"{EAGER}, again", EAGER),
        *((name, name) for name in others),
    ):
        folder = arguments.directory / name.replace("/", "_").replace(", ", "_")
        results.append((name, measure(folder, combination, overrides)))
    print(f"`{arguments.model}`, {arguments.device}, {arguments.images:,} images in an epoch\n")
    print(format_results(results))


if __name__ == "__main__":
    main()
