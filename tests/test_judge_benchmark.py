"""The benchmark of the subcommand judge, on simulated tables of recorded runs."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.judge import SkipRandomNumbers, read_noise, simulate

SIGMA = 0.7


def write_table(path: Path, variants: int, seeds: int) -> Path:
    """Write values with large effects of the variants and of the seeds."""
    generator = np.random.default_rng(3)
    means = generator.normal(70, 5, (variants, 1)) + generator.normal(0, 3, seeds)
    values = means + generator.normal(0, SIGMA, (variants, seeds))
    rows = [f"v{v},{s},{values[v, s]}" for v in range(variants) for s in range(seeds)]
    path.write_text("\n".join(["variant,seed,value", *rows, ""]))
    return path


def test_the_noise_has_the_spread_of_the_runs_without_the_effects(tmp_path: Path) -> None:
    noise = read_noise(write_table(tmp_path / "table.csv", variants=40, seeds=25))
    assert noise.shape == (40, 25)
    # The standard error of a standard deviation is about sigma / sqrt(2 * degrees of freedom).
    assert abs(noise.std() - SIGMA) < 4 * SIGMA / np.sqrt(2 * 39 * 24)


def test_a_seed_that_a_variant_lacks_is_left_out(tmp_path: Path) -> None:
    path = write_table(tmp_path / "table.csv", variants=3, seeds=5)
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    assert read_noise(path).shape == (3, 4)


def test_without_effect_one_seed_adopts_nearly_always_and_judge_rarely(tmp_path: Path) -> None:
    noise = read_noise(write_table(tmp_path / "table.csv", variants=16, seeds=20))
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
