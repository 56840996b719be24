"""Compare the training speed of `resnet_sweep` with a plain PyTorch loop and Lightning's Trainer.

python -m benchmarks.throughput [--device cpu|cuda] [--models ...] [--rounds 5] [--images N]
    [--epochs E] [--pool [K ...]] [--compile MODE] [--keep | --check]

Three loops train the same network by the same recipe on the same images of CIFAR-100:
`benchmarks.plain_loop`, `benchmarks.lightning_loop` and `python -m resnet_sweep`. Each runs in a
fresh process, and the three take turns. On a GPU there is a fourth loop, `resnet_sweep` with the
mode of torch.compile in `--compile`. `--pool` compares one run of `resnet_sweep` that has all
threads with K runs side by side (default: 2) by `hydra/launcher=pool`, which share the cores or the
GPU. On a GPU all of these are compiled, unless `--compile null` is given.

The time counts from before the first batch is fetched until the last epoch is validated, logged and
saved. So it includes all work between the first step and the last. It excludes the start of Python,
loading the data, the start of the GPU, and the plots that `resnet_sweep` draws at the end of a run.
The time of several runs counts from the first start to the last end. Validation has a fifth as many
images as training, the proportion in CIFAR-100. A ratio divides the images per second of a loop by
those of the first loop in the same round, because seconds depend on the machine and its load.

`--keep` writes the median ratios into throughput_ratios.json. `--check` compares with that file,
and exits with 1 if a ratio of `resnet_sweep` fell by more than `--tolerance`.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.command_line import make_parser
from benchmarks.markdown import median_and_range, table_header, table_row
from benchmarks.plain_loop import recipe_overrides
from benchmarks.processes import exit_on_sigterm, run_python, temporary_folder
from benchmarks.timestamps import FILE, TIMESTAMPS_OVERRIDE, read_timestamps

# Training images in an epoch on a CPU, which take about ten seconds on two cores.
CPU_IMAGES = {
    "resnet44v2": 640,
    "resnet44v2_3stage": 640,
    "resnet20v2": 1536,
    "resnet8v2": 4096,
}
GPU_IMAGES = 50_000
RATIOS = Path(__file__).with_name("throughput_ratios.json")


class Loop(NamedTuple):
    """A command that trains.

    Attributes:
        name: in the table.
        module: which Python runs.
        runs: number of networks that it trains.
        arguments: before the overrides of the recipe; empty for a loop with options of its own.
        variables: environment variables, as name=value.
    """

    name: str
    module: str
    runs: int = 1
    arguments: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


PLAIN = Loop("plain", "benchmarks.plain_loop")
LIGHTNING = Loop("lightning", "benchmarks.lightning_loop")
RESNET_SWEEP = Loop("resnet_sweep", "resnet_sweep", arguments=(TIMESTAMPS_OVERRIDE,))


def select_loops(device: str, pool: Sequence[int] | None, mode: str) -> tuple[Loop, ...]:
    """Return the loops to compare on a device.

    Args:
        device: `cpu` or `cuda`.
        pool: numbers of runs side by side, to compare with one run; 2 if empty. None compares
            `resnet_sweep` with the other loops.
        mode: `trainer.compile` of the compiled loop on a GPU; "null" for no such loop.
    """
    own = [RESNET_SWEEP]
    if device != "cpu" and mode != "null":
        arguments = (*RESNET_SWEEP.arguments, f"trainer.compile={mode}")
        own.append(RESNET_SWEEP._replace(name="resnet_sweep, compiled", arguments=arguments))
    if pool is None:
        return (PLAIN, LIGHTNING, *own)
    single = own[-1]
    return (single, *(side_by_side(single, runs) for runs in pool or (2,)))


def side_by_side(loop: Loop, runs: int) -> Loop:
    """Return a loop that trains several networks at once, with different seeds."""
    arguments = ["--multirun", f"seed=range(0,{runs})", "hydra/launcher=pool"]
    arguments += [f"hydra.launcher.{name}={runs}" for name in ("workers", "jobs_per_gpu")]
    return loop._replace(name=f"{runs} at once", runs=runs, arguments=(*arguments, *loop.arguments))


class Measurement(NamedTuple):
    """The result of a loop in one round.

    Attributes:
        speed: training images per second.
        memory: peak of the process and its descendants, MB.
    """

    speed: float
    memory: float


# By model, then by name of the loop: a measurement per round.
Results = Mapping[str, Mapping[str, Sequence[Measurement]]]


def measure(loop: Loop, model: str, images: int, epochs: int, device: str) -> Measurement:
    """Train with a loop in a fresh process."""
    with temporary_folder() as folder:
        if loop.arguments:
            directory = "hydra.sweep.dir=." if loop.runs > 1 else "hydra.run.dir=run"
            overrides = recipe_overrides(model, images, epochs, device)
            arguments = [*loop.arguments, directory, *overrides]
        else:
            options = {"model": model, "images": images, "epochs": epochs, "device": device}
            arguments = [f"--{name}={value}" for name, value in options.items()]
        variables = dict(variable.split("=", 1) for variable in loop.variables)
        memory = run_python(["-m", loop.module, *arguments], folder, variables)
        timestamps = [read_timestamps(path.parent) for path in folder.rglob(FILE)]
    if len(timestamps) != loop.runs:
        raise SystemExit(f"{loop.name}: {len(timestamps)} of {loop.runs} runs wrote {FILE}")
    return Measurement(total_speed(timestamps, images * epochs), memory)


def measure_rounds(
    loops: Sequence[Loop],
    models: Sequence[str],
    rounds: int,
    images: int | None,
    epochs: int,
    device: str,
) -> Results:
    """Measure the loops round by round, and print each measurement to stderr."""
    results: dict[str, dict[str, list[Measurement]]] = {}
    for model in models:
        images_per_epoch = images or (CPU_IMAGES[model] if device == "cpu" else GPU_IMAGES)
        results[model] = {loop.name: [] for loop in loops}
        for number in range(rounds):
            for loop in loops:
                measurement = measure(loop, model, images_per_epoch, epochs, device)
                results[model][loop.name].append(measurement)
                message = f"{model}, round {number + 1}, {loop.name}: {measurement.speed:.1f}"
                print(f"{message} images/s", file=sys.stderr, flush=True)
    return results


def total_speed(timestamps: Sequence[Mapping[str, float]], images: int) -> float:
    """Return the training images per second of several runs together.

    Args:
        timestamps: of each run.
        images: number that each run trained on.
    """
    end = max(run["epoch_ended"] for run in timestamps)
    start = min(run["started"] for run in timestamps)
    return len(timestamps) * images / (end - start)


def speed_ratios(rounds: Mapping[str, Sequence[Measurement]]) -> dict[str, list[float]]:
    """Return the speed of each loop relative to the first loop, round by round."""
    first, *others = rounds
    return {
        name: [
            measurement.speed / base.speed
            for measurement, base in zip(rounds[name], rounds[first], strict=True)
        ]
        for name in others
    }


def format_results(results: Results) -> str:
    """Return a table in Markdown with the medians and ranges of all rounds."""
    first = next(iter(next(iter(results.values()))))
    lines = [
        table_header("model", "loop", "images/s", f"ratio to {first}", "from", "to", "memory, MB")
    ]
    for model, rounds in results.items():
        ratios = speed_ratios(rounds)
        for name, measurements in rounds.items():
            cells = median_and_range(ratios[name], 2) if name in ratios else ["1", "", ""]
            speed = f"{median(measurement.speed for measurement in measurements):,.0f}"
            memory = f"{max(measurement.memory for measurement in measurements):,.0f}"
            lines.append(table_row(f"`{model}`", name, speed, *cells, memory))
    return "\n".join(lines)


def find_regressions(
    measured: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, float]],
    tolerance: float,
) -> list[str]:
    """Return a message for each ratio of `resnet_sweep` that fell by more than the tolerance.

    Args:
        measured, kept: median ratios by model and loop. A ratio that only one of them contains
            isn't compared.
        tolerance: share of the kept ratio.
    """
    return [
        f"{model}, {name}: the ratio fell from {ratios[name]:.2f} to {ratio:.2f}, by more than "
        f"{tolerance:.0%}"
        for model, ratios in kept.items()
        for name, ratio in measured.get(model, {}).items()
        # Lightning's speed depends on its version, not on this package.
        if name != LIGHTNING.name and name in ratios
        if ratio < ratios[name] * (1 - tolerance)
    ]


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the models, the rounds and the images."""
    parser.add_argument(
        "--models",
        nargs="+",
        choices=CPU_IMAGES,
        default=[*CPU_IMAGES],
        metavar="MODEL",
        help=f"default: all of {', '.join(CPU_IMAGES)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--images", type=int, help="training images in an epoch")


def main() -> None:
    """Measure, print a table in Markdown, and keep or check the ratios."""
    parser = make_parser("throughput", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    add_size_arguments(parser)
    parser.add_argument("--epochs", type=int, default=1, help="default: 1")
    parser.add_argument(
        "--pool",
        type=int,
        nargs="*",
        metavar="K",
        help="compare one run with K runs side by side (default: 2)",
    )
    parser.add_argument("--keep", action="store_true", help=f"write the ratios into {RATIOS.name}")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a ratio fell")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.1,
        help="share by which a ratio may fall in --check (default: 0.1)",
    )
    parser.add_argument(
        "--compile",
        default="max-autotune",
        metavar="MODE",
        help="trainer.compile of the compiled loop on a GPU; null: no such loop (default: "
        "max-autotune)",
    )
    arguments = parser.parse_args()
    exit_on_sigterm()
    device = arguments.device
    kept = json.loads(RATIOS.read_text()) if RATIOS.exists() else {}
    if arguments.check and device not in kept:
        parser.error(
            f"{RATIOS.name} contains no ratios for --device {device}: write them with --keep"
        )
    results = measure_rounds(
        select_loops(device, arguments.pool, arguments.compile),
        arguments.models,
        arguments.rounds,
        arguments.images,
        arguments.epochs,
        device,
    )
    print(f"{device}, {torch.get_num_threads()} threads, {arguments.rounds} rounds\n")
    print(format_results(results))
    medians = {
        model: {name: round(median(ratios), 3) for name, ratios in speed_ratios(rounds).items()}
        for model, rounds in results.items()
    }
    if arguments.check:
        regressions = find_regressions(medians, kept[device], arguments.tolerance)
        if regressions:
            sys.exit("\n".join(regressions))
    if arguments.keep:
        kept_medians = kept.setdefault(device, {})
        for model, ratios in medians.items():
            kept_medians[model] = kept_medians.get(model, {}) | ratios
        RATIOS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
