"""Images a second beside the loops that a user would otherwise run.

python -m benchmarks.throughput [--device cpu|cuda] [--models ...] [--rounds 5] [--images N]
    [--epochs E] [--pool [K ...]] [--keep | --check]

The same network is trained by the same recipe on the same images of CIFAR-100 by the plain loop
(`benchmarks.plain_loop`), by Lightning's Trainer (`benchmarks.lightning_loop`) and by `python -m
resnet_sweep`, each in a fresh process, in turn: A B C A B C; on a GPU ours once more, with
`trainer.compile=max-autotune`. With `--pool`, it is one run of ours with all threads, and K (2)
side by side by `hydra/launcher=pool`, which share the cores, or the GPU, where all are compiled.

The time is taken alike in all of them: from right before the first batch is fetched to the moment
when the last epoch is validated, logged and saved. So it has in it whatever a loop does between
its first step and its last, and not the start of Python, of the data or of a GPU, nor what ours
draws when a run has ended. Two runs count from the first one's beginning to the last one's end.
Validation is on a fifth as many images as training, as in CIFAR-100. What a loop is worth is the
ratio of its images a second to those of the first loop in the same round; seconds depend on the
machine, and on what else it does.

`--keep` writes the ratios into throughput_ratios.json; `--check` compares with these, and exits
with 1 if a ratio of ours fell by more than `--tolerance`. Nothing else is written.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.plain_loop import words_of
from benchmarks.processes import carry_out
from benchmarks.stopwatch import FILE, WORD, read_moments

# To train on in an epoch, on a CPU: some ten seconds on two cores. A GPU has all 50,000.
IMAGES = {
    "resnet44v2": 640,
    "resnet44v2_3stage": 640,
    "resnet20v2": 1536,
    "resnet8v2": 4096,
}
RATIOS = Path(__file__).with_name("throughput_ratios.json")


class Loop(NamedTuple):
    """A way to train.

    Attributes:
        name: in the table.
        module: that is run.
        runs: how many networks it trains.
        words: beside those of the recipe, if it is the command line of ours; empty if it isn't.
        variables: of its environment, as name=value.
    """

    name: str
    module: str
    runs: int = 1
    words: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


PLAIN = Loop("plain", "benchmarks.plain_loop")
LIGHTNING = Loop("lightning", "benchmarks.lightning_loop")
OURS = Loop("ours", "resnet_sweep", words=(WORD,))
COMPILED = Loop("ours, compiled", "resnet_sweep", words=(WORD, "trainer.compile=max-autotune"))


def loops_of(device: str, pool: Sequence[int] | None) -> tuple[Loop, ...]:
    """What is compared on a device: whole loops, or ours with so many runs at once (two, if none
    are named)."""
    ours = (OURS,) if device == "cpu" else (OURS, COMPILED)
    if pool is None:
        return (PLAIN, LIGHTNING, *ours)
    one = ours[-1]
    return (one, *(side_by_side(one, count) for count in pool or (2,)))


def side_by_side(loop: Loop, runs: int) -> Loop:
    """Several runs at once."""
    words = ["--multirun", f"seed=range(0,{runs})", "hydra/launcher=pool"]
    words += [f"hydra.launcher.{name}={runs}" for name in ("workers", "jobs_per_gpu")]
    return loop._replace(name=f"{runs} at once", runs=runs, words=(*words, *loop.words))


class Measured(NamedTuple):
    """What came of a loop in one round.

    Attributes:
        speed: training images a second.
        memory: at its highest, of the process and its children, MB.
    """

    speed: float
    memory: float


def measure(loop: Loop, model: str, images: int, epochs: int, device: str) -> Measured:
    """Train by a loop in a fresh process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if loop.words:
            place = "hydra.sweep.dir=." if loop.runs > 1 else "hydra.run.dir=run"
            words = [*loop.words, place, *words_of(model, images, epochs, device)]
        else:
            settings = {"model": model, "images": images, "epochs": epochs, "device": device}
            words = [f"--{name}={value}" for name, value in settings.items()]
        variables = dict(each.split("=", 1) for each in loop.variables)
        memory = carry_out(["-m", loop.module, *words], folder, variables)
        moments = [read_moments(path.parent) for path in folder.rglob(FILE)]
    if len(moments) != loop.runs:
        raise SystemExit(f"{loop.name}: {len(moments)} of {loop.runs} runs were timed")
    return Measured(speed_of(moments, images * epochs), memory)


def compare(
    loops: Sequence[Loop],
    models: Sequence[str],
    rounds: int,
    images: int | None,
    epochs: int,
    device: str,
) -> dict[str, dict[str, list[Measured]]]:
    """The rounds of each loop by model, carried out in turn; told on stderr as they come."""
    found: dict[str, dict[str, list[Measured]]] = {}
    for model in models:
        count = images or (IMAGES[model] if device == "cpu" else 50_000)
        found[model] = {loop.name: [] for loop in loops}
        for number in range(rounds):
            for loop in loops:
                one = measure(loop, model, count, epochs, device)
                found[model][loop.name].append(one)
                print(
                    f"{model}, round {number + 1}, {loop.name}: {one.speed:.1f} images/s",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
    return found


def speed_of(moments: Sequence[Mapping[str, float]], images: int) -> float:
    """Images a second of some runs together, each of which trained on `images`."""
    seconds = max(each["epoch_ended"] for each in moments) - min(
        each["started"] for each in moments
    )
    return len(moments) * images / seconds


def ratios(rounds: Mapping[str, Sequence[Measured]]) -> dict[str, list[float]]:
    """Of each loop but the first, its speed by that of the first, round by round."""
    first, *others = rounds
    return {
        name: [
            one.speed / base.speed for one, base in zip(rounds[name], rounds[first], strict=True)
        ]
        for name in others
    }


def table(found: Mapping[str, Mapping[str, Sequence[Measured]]]) -> str:
    """Medians and ranges in Markdown; `found` has the rounds of each loop by model."""
    first = next(iter(next(iter(found.values()))))
    lines = [
        f"| model | loop | images/s | ratio to {first} | from | to | memory, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, rounds in found.items():
        compared = ratios(rounds)
        for name, each in rounds.items():
            by = compared.get(name)
            told = ["1", "", ""] if by is None else [f"{of(by):.2f}" for of in (median, min, max)]
            speed = f"{median(one.speed for one in each):,.0f}"
            memory = f"{max(one.memory for one in each):,.0f}"
            lines.append(f"| {' | '.join([f'`{model}`', name, speed, *told, memory])} |")
    return "\n".join(lines)


def fallen(
    found: Mapping[str, Mapping[str, float]],
    kept: Mapping[str, Mapping[str, float]],
    tolerance: float,
) -> list[str]:
    """A sentence for each ratio of ours that fell by more than the tolerance, a share of it.

    Args:
        found, kept: medians by model and loop, now and then; what only one has isn't compared.
    """
    return [
        f"{model}, {name}: the ratio fell from {before[name]:.2f} to {value:.2f}, by more than "
        f"{tolerance:.0%}"
        for model, before in kept.items()
        for name, value in found.get(model, {}).items()
        # Lightning's isn't ours to answer for.
        if name != LIGHTNING.name and name in before
        if value < before[name] * (1 - tolerance)
    ]


def main() -> None:
    """Measure, print a table in Markdown, and check it if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Compare the training speed with that of other loops.",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=[*IMAGES], metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, help="to train on in an epoch")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--pool", type=int, nargs="*", metavar="K", help="so many runs at once (2), beside one"
    )
    parser.add_argument("--keep", action="store_true", help="write the ratios, to check later")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a ratio fell")
    parser.add_argument("--tolerance", type=float, default=0.1, help="of --check (default: 0.1)")
    told = parser.parse_args()
    kept = json.loads(RATIOS.read_text()) if RATIOS.exists() else {}
    if told.check and told.device not in kept:
        parser.error(f"{RATIOS.name} has no ratios of --device {told.device}: --keep writes them")
    loops = loops_of(told.device, told.pool)
    found = compare(loops, told.models, told.rounds, told.images, told.epochs, told.device)
    print(f"{told.device}, {torch.get_num_threads()} threads, {told.rounds} rounds\n")
    print(table(found))
    medians = {
        model: {name: round(median(each), 3) for name, each in ratios(rounds).items()}
        for model, rounds in found.items()
    }
    if told.check and (sentences := fallen(medians, kept[told.device], told.tolerance)):
        sys.exit("\n".join(sentences))
    if told.keep:
        known = kept.setdefault(told.device, {})
        for model, each in medians.items():
            known[model] = known.get(model, {}) | each
        RATIOS.write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
