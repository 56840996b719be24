"""Measure the error rates and the power of the verdicts on simulated sweeps.

python -m benchmarks.intervals [--sweeps 10000] [--noise equal ...] [--variants 3 ...]
                               [--seeds 3 ... | --max-replicates 8]

A simulated sweep has a baseline and several variants, which share their seeds. A value is the sum
of an effect of the seed, an effect of the variant and noise. Three rules are compared:

- single: the paired t interval of each variant, without regard to the other variants. The verdict
  is `better` or `worse` if 0 is outside of the interval.
- adjusted: the same intervals, and verdicts that allow for the number of variants.
- package: the intervals and verdicts of `resnet_sweep.compare.paired_test`, which allow for the
  number of variants and share the noise of the variants.

The columns of the table are percentages:

- missed: intervals that don't contain the true difference.
- false sweeps: sweeps with a false verdict, if no variant has an effect.
- false share: the mean share of false verdicts among the verdicts of a sweep, if a third of the
  variants have an effect. The effect is two standard deviations of a difference between two runs.
- power: variants with this effect that are called better.

With `--max-replicates`, the sweeps have `replicates=auto`: they get more seeds while a verdict is
undecided. The columns are then false_sweeps, false_share, power and the mean number of seeds of a
variant, for the sweeps in which a third of the variants have an effect.

The standard error of a percentage p of N sweeps is sqrt(p (100 - p) / N), which is 0.22 for 5% of
10,000 sweeps.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit
from scipy.stats import false_discovery_control

from benchmarks.command_line import make_parser
from benchmarks.markdown import table_header, table_row
from resnet_sweep.compare.moderated_t import MIN_SEEDS, MIN_VARIANTS, moderate
from resnet_sweep.compare.paired_test import ERROR_RATE
from resnet_sweep.compare.replication import ReplicationRule

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
IntArray = NDArray[np.int64]

VARIANTS = (1, 2, 3, 5, 15)
SEEDS = (2, 3, 4, 5, 8)
# Size of an effect in standard deviations of a difference between two runs.
EFFECT = 2.0
# Standard deviation of the effect of a seed, in standard deviations of the noise.
SEED_EFFECT = 2.0


def _equal(generator: np.random.Generator, groups: int) -> Floats:
    return np.ones(groups)


def _one_is(index: int, spread: float) -> Callable[[np.random.Generator, int], Floats]:
    def spreads(generator: np.random.Generator, groups: int) -> Floats:
        return np.where(np.arange(groups) == index, spread, 1.0)

    return spreads


def _inverse_chi(generator: np.random.Generator, groups: int) -> Floats:
    """Return spreads whose squares have the distribution that Smyth's prior assumes."""
    return np.sqrt(4 / generator.chisquare(4, groups))


def _half(generator: np.random.Generator, groups: int) -> Floats:
    return np.where(np.arange(groups) % 2 == 1, 4.0, 1.0)


class Noise(NamedTuple):
    """How the noise of a simulated sweep is drawn.

    Attributes:
        description: what differs from equal normal noise.
        spreads: returns the standard deviation of the noise of each group; the first group is the
            baseline.
        shape: the distribution of the noise.
        missing: probability that a run of a variant is missing.
        images: number of test images, so that values are multiples of 1 / images; None for
            values that aren't rounded. The standard deviation of the noise is then 0.5%.
    """

    description: str
    spreads: Callable[[np.random.Generator, int], Floats] = _equal
    shape: str = "normal"
    missing: float = 0.0
    images: int | None = None


NOISE = {
    "equal": Noise("equal for all groups"),
    "inverse_chi": Noise("variances 4 / chi-squared with 4 degrees of freedom", _inverse_chi),
    "half_4": Noise("half of the variants have 4 times the spread", _half),
    "variant_3": Noise("one variant has 3 times the spread", _one_is(1, 3.0)),
    "variant_10": Noise("one variant has 10 times the spread", _one_is(1, 10.0)),
    "baseline_0.5": Noise("the baseline has 0.5 times the spread", _one_is(0, 0.5)),
    "baseline_1.5": Noise("the baseline has 1.5 times the spread", _one_is(0, 1.5)),
    "baseline_2": Noise("the baseline has twice the spread", _one_is(0, 2.0)),
    "heavy_tails": Noise("Student's distribution with 3 degrees of freedom", shape="t3"),
    "skewed": Noise("exponential distribution", shape="exponential"),
    "missing": Noise("a fifth of the runs of variants are missing", missing=0.2),
    "500_images": Noise("accuracies on 500 images, spread 0.5%", images=500),
}


class Sweeps(NamedTuple):
    """Simulated sweeps without effects.

    Attributes:
        values: sweeps x groups x seeds; the first group is the baseline; a missing run is nan.
        deviation: standard deviations of the differences from the baseline, sweeps x variants.
    """

    values: Floats
    deviation: Floats


def simulate(
    noise: Noise, sweeps: int, variants: int, seeds: int, generator: np.random.Generator
) -> Sweeps:
    """Return simulated sweeps in which no variant has an effect."""
    shape = (sweeps, variants + 1, seeds)
    draw = {
        "normal": lambda: generator.normal(size=shape),
        "t3": lambda: generator.standard_t(3, size=shape) / math.sqrt(3),
        "exponential": lambda: generator.exponential(size=shape) - 1,
    }[noise.shape]
    spreads = np.stack([noise.spreads(generator, variants + 1) for _ in range(sweeps)])
    values = draw() * spreads[..., None]
    values += generator.normal(0, SEED_EFFECT, (sweeps, 1, seeds))
    deviation = np.sqrt(spreads[:, 1:] ** 2 + spreads[:, :1] ** 2)
    if noise.images:
        # The values are in standard deviations of 0.5%.
        step = 100 / noise.images / 0.5
        values = np.round(values / step) * step
    if noise.missing:
        gone = generator.random(shape) < noise.missing
        # Each variant keeps two runs, so that it can be compared.
        gone[:, 0] = gone[:, :, :2] = False
        values[gone] = np.nan
    return Sweeps(values, deviation)


class Differences(NamedTuple):
    """Mean differences with their precision, sweeps x variants."""

    mean: Floats
    error: Floats
    freedom: Floats

    def p_values(self, effect: Floats) -> Floats:
        """Return the p values after an effect was added to the differences."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(self.mean + effect) / self.error
        # Equal values have no standard error, and get no verdict.
        return np.where(self.error < 1e-9, 1.0, 2 * stdtr(self.freedom, -ratio))

    def half(self) -> Floats:
        """Return half of the lengths of the 95% intervals."""
        half: Floats = stdtrit(self.freedom, 1 - ERROR_RATE / 2) * self.error
        return half

    def missed(self) -> float:
        """Return the share of 95% intervals that don't contain 0."""
        known = self.error > 1e-9
        return float((np.abs(self.mean)[known] > self.half()[known]).mean())


def plain(values: Floats) -> Differences:
    """Return the differences with the standard errors of paired t tests."""
    differences = values[:, 1:] - values[:, :1]
    n = np.count_nonzero(~np.isnan(differences), axis=2)
    error = np.nanstd(differences, axis=2, ddof=1) / np.sqrt(n)
    return Differences(np.nanmean(differences, axis=2), error, n - 1.0)


def package(values: Floats) -> Differences:
    """Return the differences with the standard errors of the package."""
    result = plain(values)
    for sweep, table in enumerate(values):
        enough = np.flatnonzero(result.freedom[sweep] >= MIN_SEEDS - 1)
        if len(enough) >= MIN_VARIANTS:
            found = moderate(table[[0, *(enough + 1)]])
            result.error[sweep, enough] = found.standard_error
            result.freedom[sweep, enough] = found.freedom
    return result


class Rates(NamedTuple):
    """The rates of a rule, see the columns of the table."""

    missed: float
    false_sweeps: float
    false_share: float
    power: float


def rates(differences: Differences, deviation: Floats, adjusted: bool) -> Rates:
    """Return the rates of a rule.

    Args:
        differences: differences without effects.
        deviation: as in `Sweeps`.
        adjusted: whether the verdicts allow for the number of variants.
    """
    variants = deviation.shape[1]
    changed = np.arange(variants) >= variants - max(1, variants // 3)
    effect = EFFECT * deviation * changed

    def verdicts(effects: Floats) -> Bools:
        p_values = differences.p_values(effects)
        return (false_discovery_control(p_values, axis=1) if adjusted else p_values) <= ERROR_RATE

    decided = verdicts(effect)
    false = (decided & ~changed).sum(axis=1)
    return Rates(
        missed=differences.missed(),
        false_sweeps=float(verdicts(np.zeros_like(effect)).any(axis=1).mean()),
        false_share=float((false / np.maximum(1, decided.sum(axis=1))).mean()),
        power=float(decided[:, changed].mean()),
    )


def decide(values: Floats, rule: ReplicationRule) -> tuple[Bools, IntArray]:
    """Return which variants of sweeps with `replicates=auto` are better or worse, and their seeds.

    Args:
        values: as in `Sweeps`, with the largest number of seeds.
        rule: the rule of the sweeps, without a margin.
    """
    sweeps, groups, _ = values.shape
    decided = np.zeros((sweeps, groups - 1), dtype=bool)
    used = np.full(decided.shape, rule.maximum)
    seen = np.full_like(values, np.nan)
    for before, seeds in itertools.pairwise((0, *rule.looks)):
        # The baseline and the variants that are still undecided get more seeds.
        trains = np.column_stack([~decided.all(axis=1), ~decided])
        new = slice(before, seeds)
        seen[..., new] = np.where(trains[..., None], values[..., new], np.nan)
        p_values = package(seen).p_values(np.zeros(decided.shape))
        adjusted = false_discovery_control(np.minimum(1, p_values * len(rule.looks)), axis=1)
        now = ~decided & (adjusted <= rule.level)
        used[now] = seeds
        decided |= now
    return decided, used


def measure_auto(noise: str, sweeps: int, variants: int, maximum: int) -> list[float]:
    """Return the rates of sweeps with `replicates=auto`, and the mean number of seeds."""
    rule = ReplicationRule(maximum)
    generator = np.random.default_rng([variants, maximum, list(NOISE).index(noise)])
    values, deviation = simulate(NOISE[noise], sweeps, variants, maximum, generator)
    none, _ = decide(values, rule)
    changed = np.arange(variants) >= variants - max(1, variants // 3)
    values[:, 1:] += (EFFECT * deviation * changed)[..., None]
    found, used = decide(values, rule)
    false = (found & ~changed).sum(axis=1) / np.maximum(1, found.sum(axis=1))
    return [none.any(axis=1).mean(), false.mean(), found[:, changed].mean(), used.mean()]


def measure(noise: str, sweeps: int, variants: int, seeds: int) -> tuple[Rates, Rates, Rates]:
    """Return the rates of the three rules."""
    generator = np.random.default_rng([variants, seeds, list(NOISE).index(noise)])
    values, deviation = simulate(NOISE[noise], sweeps, variants, seeds, generator)
    return (
        rates(plain(values), deviation, adjusted=False),
        rates(plain(values), deviation, adjusted=True),
        rates(package(values), deviation, adjusted=True),
    )


def main() -> None:
    """Print a table for each kind of noise, and the largest rates."""
    parser = make_parser("intervals", __doc__)
    parser.add_argument("--sweeps", type=int, default=10_000)
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=list(NOISE))
    parser.add_argument("--variants", nargs="+", type=int, default=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--max-replicates", type=int)
    arguments = parser.parse_args()
    if arguments.max_replicates:
        print(table_header("noise", "variants", *Rates._fields[1:], "seeds"))
        for noise, variants in itertools.product(arguments.noise, arguments.variants):
            maximum = arguments.max_replicates
            *found, seeds = measure_auto(noise, arguments.sweeps, variants, maximum)
            cells = (f"{100 * rate:.1f}" for rate in found)
            print(table_row(noise, str(variants), *cells, f"{seeds:.2f}"), flush=True)
        return
    print(f"{arguments.sweeps} sweeps a row; single / adjusted / package\n")
    largest = {}
    for noise in arguments.noise:
        print(f"Noise `{noise}`: {NOISE[noise].description}.\n")
        print(table_header("variants", "seeds", *Rates._fields))
        measured = []
        for variants in arguments.variants:
            for seeds in arguments.seeds:
                rules = measure(noise, arguments.sweeps, variants, seeds)
                measured.append(rules[-1])
                cells = (
                    " / ".join(f"{100 * rate:.1f}" for rate in column)
                    for column in zip(*rules, strict=True)
                )
                print(table_row(str(variants), str(seeds), *cells), flush=True)
        largest[noise] = [max(column) for column in zip(*measured, strict=True)]
        print()
    print("The largest rates of the package:\n")
    print(table_header("noise", *Rates._fields[:3]))
    for noise, values in largest.items():
        print(table_row(noise, *(f"{100 * value:.1f}" for value in values[:3])))


if __name__ == "__main__":
    main()
