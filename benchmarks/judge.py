"""Measure how often a loop of changes without effect adopts one of them.

python -m benchmarks.judge [--table TABLE.csv.gz] [--loops 1000] [--changes 50] [--max-replicates 8]
python -m benchmarks.judge --digits DIRECTORY [--changes 20] [--max-replicates 8]

A loop tries changes one after another, and compares each with the same baseline. Here, no change
has an effect.

The first command simulates loops from the noise of recorded runs, see
`benchmarks.recorded_curves`.

The second command trains on digits. There, each change shifts the random numbers of the
augmentation, so it changes the runs, but not their distribution. The subcommand `judge` answers
each question. The same command resumes after an interruption.
"""

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from benchmarks.processes import LOG, start_python
from benchmarks.recorded_curves import RECORDED, Curves
from resnet_sweep.compare.paired_test import ERROR_RATE
from resnet_sweep.compare.replication import ReplicationRule
from resnet_sweep.sweeps.manifest import RESULTS_CSV

# The baseline on digits: the augmentation begins with random numbers that aren't used.
BASELINE = (
    "experiment=quickstart",
    # Longer runs reach the same accuracy more often.
    "trainer.epochs=3",
    "logger=csv",
    "trainer.device=cpu",
    "trainer.threads=1",
    "augmentation=none",
    "+augmentation.skip._target_=benchmarks.judge.SkipRandomNumbers",
    "+augmentation.skip.count=0",
    "+augmentation.random_crop._target_=resnet_sweep.augmentation.RandomCrop",
)


class SkipRandomNumbers:
    """An augmentation that draws random numbers and doesn't use them.

    Args:
        count: how many numbers it draws for each batch.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        torch.rand(self.count, generator=generator, device=generator.device)
        return images, labels


class Habit(NamedTuple):
    """The result of a way to decide which changes to adopt.

    Attributes:
        name: what it does.
        loops: the share of the loops that adopt at least one change.
        changes: the share of the changes that are adopted.
        seeds: the mean number of seeds of a change.
    """

    name: str
    loops: float
    changes: float
    seeds: float


def noise_of(values: np.ndarray) -> np.ndarray:
    """Return the noise of runs, of shape (variants, seeds).

    The mean of each variant and the mean of each seed are subtracted. A factor corrects the
    variance for the degrees of freedom that are lost.
    """
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    return rest * np.sqrt(values.size / np.prod(np.array(values.shape) - 1))


def draw(noise: np.ndarray, loops: int, runs: int, generator: np.random.Generator) -> np.ndarray:
    """Return noise of shape (loops, runs); all runs of a loop have the spread of one variant."""
    spread = noise.std(1)
    scaled = noise / spread[:, None]
    chosen = generator.choice(spread, (loops, 1))
    return chosen * generator.choice(scaled.ravel(), (loops, runs))


def simulate(
    noise: np.ndarray, loops: int, changes: int, maximum: int, generator: np.random.Generator
) -> list[Habit]:
    """Return the results of loops with changes that have no effect."""
    runs = draw(noise, loops, (changes + 1) * maximum, generator)
    runs = runs.reshape(loops, changes + 1, maximum)
    # The runs of the baseline are the same for all changes of a loop.
    differences = runs[:, 1:] - runs[:, :1]
    habits = []
    for seeds in (1, 3):
        adopted = differences[:, :, :seeds].mean(2) > 0
        name = f"{seeds} seed{'s' * (seeds > 1)}, adopt if higher"
        habits.append(_habit(name, adopted, np.full(adopted.shape, seeds)))
    for questions in (1, changes):
        rule = ReplicationRule(maximum, level=ERROR_RATE / questions)
        name = "judge" if questions == 1 else f"judge --questions {questions}"
        habits.append(_habit(name, *judge(differences, rule)))
    return habits


def judge(differences: np.ndarray, rule: ReplicationRule) -> tuple[np.ndarray, np.ndarray]:
    """Return which changes are better, and the number of seeds of each.

    Args:
        differences: between the change and the baseline, of shape (loops, changes, seeds).
        rule: the rule of the product, without a margin.
    """
    better = np.zeros(differences.shape[:-1], dtype=bool)
    used = np.full(better.shape, rule.maximum)
    remaining = np.ones(better.shape, dtype=bool)
    for seeds in rule.looks:
        seen = differences[..., :seeds]
        quantile = stats.t.isf(rule.error_rate / 2, seeds - 1)
        mean, half = seen.mean(-1), quantile * stats.sem(seen, axis=-1)
        decided = remaining & (np.abs(mean) > half)
        better |= decided & (mean > 0)
        used[decided] = seeds
        remaining &= ~decided
    return better, used


def _habit(name: str, adopted: np.ndarray, seeds: np.ndarray) -> Habit:
    return Habit(name, adopted.any(1).mean(), adopted.mean(), seeds.mean())


def table(habits: Sequence[Habit]) -> str:
    """Return a Markdown table of the results."""
    lines = [table_header("how", "loops that adopt a change", "changes adopted", "seeds")]
    lines += [
        table_row(name, f"{loops:.1%}", f"{changes:.2%}", f"{seeds:.2f}")
        for name, loops, changes, seeds in habits
    ]
    return "\n".join(lines)


def judge_digits(directory: Path, changes: int, maximum: int) -> str:
    """Ask `judge` about changes without effect on digits; return a Markdown table.

    Raises:
        SystemExit: a question has no answer.
    """
    lines = [table_header("change", "verdict", "difference", "seeds", "higher with one seed")]
    adopted, higher = 0, 0
    for count in range(1, changes + 1):
        # More numbers than a batch uses, so that no two changes have random numbers in common.
        change = f"augmentation.skip.count={1000 * count}"
        arguments = ["-m", "resnet_sweep", "judge", change, "--baseline", " ".join(BASELINE)]
        arguments += ["--json", "--max-replicates", str(maximum)]
        status = start_python(arguments, directory).wait()
        output = (directory / LOG).read_text()
        if status not in (0, 1, 3):
            print(output, file=sys.stderr)
            raise SystemExit(f"judge {change} ended with exit status {status}")
        answer = json.loads(output.splitlines()[-1])
        with (directory / answer["directory"] / RESULTS_CSV).open(newline="") as file:
            values = [float(row["best_val_acc"]) for row in csv.DictReader(file)]
        # The jobs of the baseline come first.
        first = values[ReplicationRule(maximum).looks[0]] - values[0]
        adopted += answer["verdict"] == "better"
        higher += first > 0
        lines.append(
            table_row(
                f"`{change}`",
                answer["verdict"],
                f"{answer['difference']:+.2f}",
                str(answer["seeds"]),
                "yes" if first > 0 else "no",
            )
        )
        print(lines[-1], file=sys.stderr)
    lines += ["", f"adopted: {adopted} of {changes} by judge, {higher} of {changes} with one seed"]
    return "\n".join(lines)


def main() -> None:
    parser = make_parser("judge", __doc__)
    parser.add_argument("--table", type=Path, default=RECORDED)
    parser.add_argument("--digits", metavar="DIRECTORY", type=Path)
    parser.add_argument("--loops", type=int, default=1000)
    parser.add_argument("--changes", type=int)
    parser.add_argument("--max-replicates", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.digits:
        changes = arguments.changes or 20
        print(judge_digits(arguments.digits, changes, arguments.max_replicates))
        return
    noise = noise_of(Curves.read(arguments.table).best)
    changes = arguments.changes or 50
    generator = np.random.default_rng(0)
    habits = simulate(noise, arguments.loops, changes, arguments.max_replicates, generator)
    print(table(habits))


if __name__ == "__main__":
    main()
