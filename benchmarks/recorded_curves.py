"""Apply the rules for verdicts to recorded runs, and record them.

python -m benchmarks.recorded_curves [--table TABLE.csv.gz] [--rounds 1000]
python -m benchmarks.recorded_curves --train DIRECTORY [--seeds 8] [OVERRIDE ...]
python -m benchmarks.recorded_curves --collect DIRECTORY [--table TABLE.csv.gz]

The first command prints Markdown tables about data/recorded_curves.csv.gz. The runs are 16 variants
of a short training: resnet8v2 on 2,500 images of CIFAR-100, validated on 2,500 others, for 12
epochs in batches of 32. The table has the columns variant, seed, epoch, train_loss, val_loss and
val_acc. A value is the best validation accuracy of a run, in percent.

The second command trains the runs as a sweep in DIRECTORY; the same command resumes. The third one
writes the table from the finished runs of that sweep.
"""

import csv
import gzip
import io
import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from scipy.stats import false_discovery_control

from benchmarks.command_line import add_overrides, make_parser
from benchmarks.intervals import Bools, Differences, Floats, decide, package, plain
from benchmarks.markdown import table_header, table_row
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.paired_test import ERROR_RATE
from resnet_sweep.compare.replication import ReplicationRule
from resnet_sweep.runs.files import write_atomically

RECORDED = Path(__file__).with_name("data") / "recorded_curves.csv.gz"
BASELINE = "baseline"
COLUMNS = ("train_loss", "val_loss", "val_acc")
# The settings in which each variant differs from the baseline.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    BASELINE: {},
    "clip": {"trainer": {"clip_grad_norm": 1.0}},
    "constant": {"defaults": [{"override /schedule": "constant"}]},
    "cutout": {"defaults": [{"override /augmentation": "cutout"}]},
    "dropout_0.3": {"model": {"dropout": 0.3}},
    "ema": {"trainer": {"ema_decay": 0.99}},
    "label_smoothing": {"defaults": [{"override /loss": "label_smoothing"}]},
    "lr_0.05": {"optim": {"lr": 0.05}},
    "lr_0.2": {"optim": {"lr": 0.2}},
    "mixup": {"defaults": [{"override /augmentation": "mixup"}]},
    "momentum_0.8": {"optim": {"momentum": 0.8}},
    "nesterov": {"optim": {"nesterov": True}},
    "one_cycle": {"defaults": [{"override /schedule": "one_cycle"}]},
    "se_attention": {"model": {"attention": "se"}},
    "step": {"defaults": [{"override /schedule": "step"}]},
    "weight_decay_2e-3": {"optim": {"weight_decay": 2e-3}},
}
# The names of the experiments begin with this, so that none has the name of another experiment.
PREFIX = "small_"
SMALL = (
    *("model=resnet8v2", "data.limit_train=2500", "data.holdout=2500"),
    *("trainer.batch_size=32", "trainer.epochs=12", "trainer.precision=float32"),
    *("trainer.threads=1", "logger=csv", "hydra/launcher=pool", "hydra.launcher.workers=2"),
)
# A rule of `benchmarks.intervals`, and whether its verdicts allow for the number of variants.
RULES = {"single": (plain, False), "adjusted": (plain, True), "shared": (package, True)}
# With more seeds, all choices of three of them would be too many.
MAX_CHOICES = 500


class Curves(NamedTuple):
    """Recorded runs.

    Attributes:
        variants: the names, the baseline first.
        seeds: the seeds that all variants have.
        accuracy: validation accuracy in percent, of shape (variants, seeds, epochs).
    """

    variants: list[str]
    seeds: list[int]
    accuracy: Floats

    @property
    def best(self) -> Floats:
        """The best accuracies of the runs, of shape (variants, seeds)."""
        best: Floats = self.accuracy.max(axis=2)
        return best

    @classmethod
    def read(cls, path: Path = RECORDED) -> "Curves":
        """Read a table; seeds that a variant lacks are left out.

        Raises:
            SystemExit: there are fewer than two variants or two seeds.
        """
        runs: dict[str, dict[int, list[float]]] = {}
        with gzip.open(path, "rt", newline="") as file:
            for row in csv.DictReader(file):
                curve = runs.setdefault(row["variant"], {}).setdefault(int(row["seed"]), [])
                curve.append(float(row["val_acc"]))
        seeds = sorted(set.intersection(*map(set, runs.values()))) if runs else []
        if min(len(runs), len(seeds)) < 2:
            raise SystemExit(f"{path} needs two variants or more with two seeds in common or more")
        names = sorted(runs, key=lambda name: (name != BASELINE, name))
        curves = [[runs[name][seed] for seed in seeds] for name in names]
        return cls(names, seeds, np.array(curves))


def collect(directory: Path) -> bytes:
    """Return the compressed table of the finished runs of a sweep."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "epoch", *COLUMNS])
    runs = [
        (run.choices["experiment"].removeprefix(PREFIX), run.record.seed, run)
        for run in find_runs([directory])
        if isinstance(run, LoadedRun) and run.state in COMPLETE
    ]
    for variant, seed, run in sorted(runs, key=lambda entry: entry[:2]):
        for row in run.metrics.rows:
            values = (f"{row[name]:.6g}" for name in COLUMNS)
            writer.writerow([variant, seed, int(row["epoch"]), *values])
    # Without a time, equal tables are equal files.
    return gzip.compress(text.getvalue().encode(), mtime=0)


def train(directory: Path, seeds: int, overrides: Sequence[str]) -> int:
    """Train the runs in a sweep, and return its exit status."""
    configs = directory / "variants"
    (configs / "experiment").mkdir(parents=True, exist_ok=True)
    for name, settings in VARIANTS.items():
        text = f"# @package _global_\n{yaml.safe_dump(dict(settings))}"
        (configs / "experiment" / f"{PREFIX}{name}.yaml").write_text(text)
    experiments = ",".join(PREFIX + name for name in VARIANTS)
    command = [sys.executable, "-m", "resnet_sweep", "--config-dir", str(configs), "--multirun"]
    command += [f"seed={','.join(map(str, range(seeds)))}", f"experiment={experiments}", *SMALL]
    command += [f"baseline='experiment == \"{PREFIX}{BASELINE}\"'"]
    command += [f"hydra.sweep.dir={directory / 'table'}", *overrides]
    return subprocess.run(command).returncode


def verdicts(differences: Differences, adjusted: bool) -> Floats:
    """Return 1 for better, -1 for worse and 0 for other variants, of shape (sweeps, variants)."""
    p_values = differences.p_values(np.zeros_like(differences.mean))
    if adjusted:
        p_values = false_discovery_control(p_values, axis=1)
    decided: Floats = np.where(p_values <= ERROR_RATE, np.sign(differences.mean), 0.0)
    return decided


class Agreement(NamedTuple):
    """How verdicts from a few seeds agree with those from all seeds, as means over the choices.

    Attributes:
        decided: number of variants that are called better or worse.
        found: share of the variants with a verdict from all seeds that have the same one.
        beyond: number of variants that have a verdict here, and none from all seeds.
        opposite: number of variants with a verdict whose mean over all seeds has the other sign.
    """

    decided: float
    found: float
    beyond: float
    opposite: float


def choices(seeds: int, size: int, generator: np.random.Generator) -> list[tuple[int, ...]]:
    """Return all choices of some seeds, or MAX_CHOICES random ones."""
    every = list(itertools.combinations(range(seeds), size))
    if len(every) <= MAX_CHOICES:
        return every
    chosen = generator.choice(len(every), MAX_CHOICES, replace=False)
    return [every[index] for index in chosen]


def agreement(best: Floats, rule: str, chosen: Sequence[tuple[int, ...]]) -> Agreement:
    """Compare the verdicts of a rule from a few seeds with those of `shared` from all seeds."""
    estimate, adjusted = RULES[rule]
    few = verdicts(estimate(np.stack([best[:, seeds] for seeds in map(list, chosen)])), adjusted)
    every = package(best[None])
    reference, sign = verdicts(every, adjusted=True), np.sign(every.mean)
    known = reference != 0
    return Agreement(
        decided=float((few != 0).sum(axis=1).mean()),
        found=float(((few == reference) & known).sum() / (known.sum() * len(few))),
        beyond=float(((few != 0) & ~known).sum(axis=1).mean()),
        opposite=float(((few != 0) & (few != sign)).sum(axis=1).mean()),
    )


def without_effects(
    best: Floats, seeds: int, rounds: int, generator: np.random.Generator
) -> Floats:
    """Return sweeps whose variants have no effect, of shape (rounds, variants, seeds).

    Each value is the difference between two runs of the same variant with different seeds. So the
    true means are 0, and the noise is that of the recorded runs, with twice the variance.
    """
    orders = generator.permuted(np.tile(np.arange(best.shape[1]), (rounds, 1)), axis=1)
    differences = best[:, orders[:, :seeds]] - best[:, orders[:, seeds : 2 * seeds]]
    return np.moveaxis(differences, 1, 0)


def correlation(values: Floats) -> float:
    """Return the mean correlation between the baseline and the variants over the seeds."""
    return float(np.corrcoef(values)[0, 1:].mean())


def seed_share(values: Floats) -> float:
    """Return the share of the effect of the seed in the variance within a variant."""
    variants, seeds = values.shape
    rest = values - values.mean(axis=1, keepdims=True)
    between = variants * (rest.mean(axis=0) ** 2).sum() / (seeds - 1)
    noise = ((rest - rest.mean(axis=0)) ** 2).sum() / ((variants - 1) * (seeds - 1))
    effect = max(0.0, (between - noise) / variants)
    return float(effect / (effect + noise))


def answers(curves: Curves) -> str:
    """Return a table of the variants with their differences from the baseline and verdicts."""
    found = package(curves.best[None])
    named = {1.0: "better", -1.0: "worse", 0.0: "within noise"}
    half = found.half()[0]
    lines = [table_header("variant", "best accuracy", "difference", "interval", "verdict")]
    rows = [(BASELINE, curves.best[0], "", "", "baseline")]
    for index, sign in enumerate(verdicts(found, adjusted=True)[0]):
        mean = found.mean[0, index]
        ends = f"[{mean - half[index]:+.2f}, {mean + half[index]:+.2f}]"
        name, values = curves.variants[index + 1], curves.best[index + 1]
        rows.append((name, values, f"{mean:+.2f}", ends, named[float(sign)]))
    for name, values, *cells in sorted(rows, key=lambda row: -row[1].mean()):
        accuracy = f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"
        lines.append(table_row(f"`{name}`", accuracy, *cells))
    return "\n".join(lines)


def agreement_table(best: Floats, size: int, generator: np.random.Generator) -> str:
    """Return a table of how the verdicts from some seeds agree with those from all."""
    count = best.shape[1]
    chosen = choices(count, size, generator)
    lines = [f"Verdicts from {size} of {count} seeds, {len(chosen)} choices:\n"]
    lines.append(table_header("rule", *Agreement._fields))
    for rule in RULES:
        row = agreement(best, rule, chosen)
        numbers = (f"{row.decided:.2f}", f"{row.found:.0%}")
        lines.append(table_row(rule, *numbers, f"{row.beyond:.2f}", f"{row.opposite:.2f}"))
    return "\n".join(lines)


def errors_table(best: Floats, rounds: int, generator: np.random.Generator) -> str:
    """Return a table of the errors in sweeps without effects."""
    lines = [f"Sweeps without effects, {rounds} rounds:\n"]
    lines.append(table_header("rule", "seeds", "missed", "false_sweeps"))
    for seeds, rule in itertools.product(range(3, best.shape[1] // 2 + 1), RULES):
        estimate, adjusted = RULES[rule]
        simulated = estimate(without_effects(best, seeds, rounds, generator))
        false: Bools = verdicts(simulated, adjusted) != 0
        numbers = (f"{simulated.missed():.1%}", f"{false.any(axis=1).mean():.1%}")
        lines.append(table_row(rule, str(seeds), *numbers))
    return "\n".join(lines)


def replicates_auto(best: Floats, rounds: int, generator: np.random.Generator) -> str:
    """Return a sentence about sweeps with `replicates=auto`, whose seeds are in a random order."""
    variants, count = best.shape
    rule = ReplicationRule(min(8, count))
    orders = generator.permuted(np.tile(np.arange(count), (rounds, 1)), axis=1)
    values = np.moveaxis(best[:, orders[:, : rule.maximum]], 1, 0)
    decided, used = decide(values, rule)
    # The mean differences when the verdicts were decided.
    means = np.cumsum(values[:, 1:] - values[:, :1], axis=2) / np.arange(1, rule.maximum + 1)
    when = np.take_along_axis(means, used[..., None] - 1, axis=2)[..., 0]
    opposite = decided & (np.sign(when) != np.sign(package(best[None]).mean))
    return (
        f"replicates=auto with max_replicates={rule.maximum}, {rounds} orders of the seeds: "
        f"{decided.sum(axis=1).mean():.2f} of {variants - 1} variants are decided, with "
        f"{used.mean():.2f} seeds on average; {opposite.sum(axis=1).mean():.3f} have the opposite "
        "sign of the mean over all seeds."
    )


def replay(curves: Curves, rounds: int) -> str:
    """Return the tables about the rules, in Markdown."""
    generator = np.random.default_rng(0)
    best = curves.best
    parts = [
        f"{len(best)} variants, {len(curves.seeds)} seeds. Verdicts from all seeds:",
        answers(curves),
        *(agreement_table(best, size, generator) for size in (3, 5)),
        errors_table(best, rounds, generator),
        replicates_auto(best, rounds, generator),
        "Correlation of the best accuracies of the baseline and of a variant over the seeds: "
        f"{correlation(best):.2f} on average. Share of the seed's effect in the variance within a "
        f"variant: {seed_share(best):.2f}.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Train, collect, or print the tables."""
    parser = make_parser("recorded_curves", __doc__)
    parser.add_argument("--train", metavar="DIRECTORY", type=Path)
    parser.add_argument("--seeds", type=int, default=8, help="with --train: number of seeds")
    parser.add_argument("--collect", metavar="DIRECTORY", type=Path)
    parser.add_argument(
        "--table", type=Path, default=RECORDED, help="read or written (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=1000)
    add_overrides(parser)
    arguments = parser.parse_args()
    if arguments.train:
        sys.exit(train(arguments.train.resolve(), arguments.seeds, arguments.overrides))
    if arguments.collect:
        write_atomically(arguments.table, collect(arguments.collect))
        return
    print(replay(Curves.read(arguments.table), arguments.rounds))


if __name__ == "__main__":
    main()
