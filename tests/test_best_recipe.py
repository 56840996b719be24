"""The factorial design that chooses recommendations, and the settings of its factors."""

import numpy as np
import pytest
from small_run import composed

from benchmarks.best_recipe import DESIGN, RECOMMENDATIONS, baseline_filter, effects, settings
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.runs.signature import flatten


def overrides(chosen: list[bool]) -> list[str]:
    return [f"{key}={value}" for key, value in settings(chosen).items()]


def test_every_pair_of_factors_has_all_four_combinations_equally_often() -> None:
    for first in range(11):
        assert DESIGN[:, first].sum() == 6
        for second in range(first):
            pairs = (2 * DESIGN[:, first] + DESIGN[:, second]).tolist()
            assert [pairs.count(combination) for combination in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("index", range(len(RECOMMENDATIONS)), ids=str)
def test_a_recommendation_sets_what_its_experiment_sets(index: int) -> None:
    only = [position == index for position in range(len(RECOMMENDATIONS))]
    assert composed(*overrides(only)) == composed(f"experiment={RECOMMENDATIONS[index].name}")


def test_without_recommendations_it_is_the_default_recipe() -> None:
    assert composed(*overrides([False] * len(RECOMMENDATIONS))) == composed()


@pytest.mark.parametrize("index", range(len(RECOMMENDATIONS)), ids=str)
def test_the_baseline_filter_matches_the_recipe_and_not_the_choice(index: int) -> None:
    recipe, choice = (
        settings([on and position == index for position in range(len(RECOMMENDATIONS))])
        for on in (False, True)
    )
    condition = FilterExpression(baseline_filter(recipe, choice))
    for chosen, expected in ((recipe, True), (choice, False)):
        config = composed(*(f"{key}={value}" for key, value in chosen.items()))
        fields = {name: value for name, value in flatten(config)} | {
            key: value for key, value in chosen.items() if "." not in key
        }
        assert condition.matches(fields) is expected


def test_an_effect_is_the_difference_of_the_means_with_and_without_the_factor() -> None:
    switches = np.vstack([DESIGN[:, :10]] * 2)
    values = np.random.default_rng(0).normal(20, 2, len(switches))
    for factor, effect in zip(switches.T, effects(switches, values), strict=True):
        assert effect.mean == pytest.approx(values[factor].mean() - values[~factor].mean())


def test_the_95_percent_interval_covers_the_true_effect_in_95_percent_of_cases() -> None:
    rng, switches, covered = np.random.default_rng(1), np.vstack([DESIGN[:, :10]] * 2), 0
    truth = np.linspace(-2, 2, 10)
    for _ in range(200):
        values = 20 + switches @ truth + rng.normal(0, 0.5, len(switches))
        found = effects(switches, values)
        covered += sum(
            abs(effect.mean - true) < effect.margin
            for effect, true in zip(found, truth, strict=True)
        )
    assert covered / 2000 == pytest.approx(0.95, abs=0.02)
