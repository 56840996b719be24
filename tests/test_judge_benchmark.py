"""The benchmark of the subcommand judge, on simulated runs."""

import numpy as np
import torch

from benchmarks.judge import SkipRandomNumbers, noise_of, simulate

SIGMA = 0.7


def values(variants: int, seeds: int) -> np.ndarray:
    """Return values with large effects of the variants and of the seeds."""
    generator = np.random.default_rng(3)
    means = generator.normal(70, 5, (variants, 1)) + generator.normal(0, 3, seeds)
    return means + generator.normal(0, SIGMA, (variants, seeds))


def test_the_noise_has_the_spread_of_the_runs_without_the_effects() -> None:
    noise = noise_of(values(40, 25))
    assert noise.shape == (40, 25)
    # The standard error of a standard deviation is about sigma / sqrt(2 * degrees of freedom).
    assert abs(noise.std() - SIGMA) < 4 * SIGMA / np.sqrt(2 * 39 * 24)


def test_without_effect_one_seed_adopts_nearly_always_and_judge_rarely() -> None:
    noise = noise_of(values(16, 20))
    loops, changes = 1000, 50
    one, _, judge, divided = simulate(noise, loops, changes, 8, np.random.default_rng(0))
    # The baseline is the best of 51 equal runs in 1 of 51 loops.
    assert abs(one.loops - changes / (changes + 1)) < 4 * np.sqrt(0.02 / loops)
    assert abs(one.changes - 0.5) < 0.05
    # Of the 5% wrong verdicts, half say better.
    assert judge.changes < 0.03
    assert divided.loops < 0.05
    assert divided.loops < judge.loops < one.loops


def test_the_change_on_digits_only_shifts_the_random_numbers() -> None:
    images, labels = torch.rand(2, 3, 4, 4), torch.tensor([0, 1])
    shifted, plain = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    assert SkipRandomNumbers(5)(images, labels, shifted) == (images, labels)
    torch.rand(5, generator=plain)
    assert torch.equal(torch.rand(3, generator=shifted), torch.rand(3, generator=plain))
