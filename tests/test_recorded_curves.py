"""The rules for verdicts on recorded runs, and the table of these runs."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.recorded_curves import (
    BASELINE,
    RECORDED,
    RULES,
    VARIANTS,
    Curves,
    agreement,
    answers,
    choices,
    correlation,
    seed_share,
    without_effects,
)

EPOCHS = 12


def made_up(effects: list[float], seeds: int, seed_effect: float = 0.0) -> np.ndarray:
    """Return values with noise of the standard deviation 1."""
    generator = np.random.default_rng(1)
    noise = generator.normal(size=(len(effects), seeds))
    return noise + np.array(effects)[:, None] + generator.normal(0, seed_effect, seeds)


def write_table(path: Path, rows: list[tuple[str, int, int, float]]) -> Path:
    lines = [f"{name},{seed},{epoch},1,1,{accuracy}" for name, seed, epoch, accuracy in rows]
    header = "variant,seed,epoch,train_loss,val_loss,val_acc"
    path.write_bytes(gzip.compress("\n".join([header, *lines, ""]).encode()))
    return path


def test_the_recorded_table_has_all_variants_with_whole_curves() -> None:
    curves = Curves.read(RECORDED)
    assert curves.variants[0] == BASELINE
    assert set(curves.variants) == set(VARIANTS)
    assert curves.accuracy.shape == (len(VARIANTS), len(curves.seeds), EPOCHS)
    assert len(curves.seeds) >= 6
    assert np.all((curves.accuracy > 0) & (curves.accuracy < 100))


def test_a_seed_that_a_variant_lacks_is_left_out(tmp_path: Path) -> None:
    rows = [(name, seed, 1, 5.0) for name in ("a", BASELINE) for seed in range(4)]
    curves = Curves.read(write_table(tmp_path / "t.csv.gz", rows[1:]))
    assert (curves.variants, curves.seeds) == ([BASELINE, "a"], [1, 2, 3])


def test_a_table_without_variants_is_refused(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.csv.gz", [(BASELINE, seed, 1, 5.0) for seed in range(4)])
    with pytest.raises(SystemExit, match="two variants"):
        Curves.read(path)


@pytest.mark.parametrize("rule", RULES)
def test_large_effects_are_found_from_three_seeds_and_have_the_right_sign(rule: str) -> None:
    best = made_up([0, 100, -100, 100, 100], 6)
    chosen = choices(6, 3, np.random.default_rng(0))
    assert len(chosen) == 20
    assert agreement(best, rule, chosen) == (4.0, 1.0, 0.0, 0.0)


def test_differences_of_equal_runs_have_no_effect_and_twice_the_variance() -> None:
    best = made_up([0, 50, -20, 10], 400, seed_effect=3.0)
    found = without_effects(best, 200, 50, np.random.default_rng(0))
    assert found.shape == (50, 4, 200)
    assert np.abs(found.mean(axis=(0, 2))).max() < 0.5
    variance = found.var(axis=2).mean()
    assert variance == pytest.approx(2 * (1 + 3.0**2), rel=0.15)


def test_the_share_of_the_seed_is_the_intraclass_correlation() -> None:
    best = made_up([0.0] * 30, 300, seed_effect=2.0)
    assert seed_share(best) == pytest.approx(4 / 5, abs=0.05)
    assert correlation(best) == pytest.approx(4 / 5, abs=0.05)
    assert seed_share(made_up([0.0] * 30, 300)) < 0.02


def test_the_table_of_answers_has_the_mean_differences_of_scipy() -> None:
    best = made_up([10, 20, 5], 8)
    curves = Curves([BASELINE, "a", "b"], list(range(8)), best[..., None])
    table = answers(curves)
    # With two variants, the rule is the paired t test.
    for name, values in zip("ab", best[1:], strict=True):
        low, high = stats.ttest_rel(values, best[0]).confidence_interval()
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert f"[{low:+.2f}, {high:+.2f}]" in row
