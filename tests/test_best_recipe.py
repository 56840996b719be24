"""The design by which recommendations are chosen, and what it switches."""

import numpy as np
import pytest
from small_run import composed

from benchmarks.best_recipe import DESIGN, RECOMMENDATIONS, baseline_filter, effects, settings
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.runs.signature import flatten


def words(chosen: list[bool]) -> list[str]:
    return [f"{key}={value}" for key, value in settings(chosen).items()]


def test_every_pair_of_factors_meets_in_all_four_ways_equally_often() -> None:
    for one in range(11):
        assert DESIGN[:, one].sum() == 6
        for other in range(one):
            pairs = (2 * DESIGN[:, one] + DESIGN[:, other]).tolist()
            assert [pairs.count(way) for way in range(4)] == [3, 3, 3, 3]


@pytest.mark.parametrize("number", range(len(RECOMMENDATIONS)), ids=lambda each: f"{each}")
def test_a_recommendation_is_what_its_experiment_sets(number: int) -> None:
    only = [place == number for place in range(len(RECOMMENDATIONS))]
    assert composed(*words(only)) == composed(f"experiment={RECOMMENDATIONS[number].name}")


def test_none_is_the_recipe() -> None:
    assert composed(*words([False] * len(RECOMMENDATIONS))) == composed()


@pytest.mark.parametrize("number", range(len(RECOMMENDATIONS)), ids=lambda each: f"{each}")
def test_the_recipe_is_distinguished_from_the_choice(number: int) -> None:
    recipe, choice = (
        settings([on and place == number for place in range(len(RECOMMENDATIONS))])
        for on in (False, True)
    )
    condition = FilterExpression(baseline_filter(recipe, choice))
    for chosen, expected in ((recipe, True), (choice, False)):
        config = composed(*(f"{key}={value}" for key, value in chosen.items()))
        known = {name: value for name, value in flatten(config)} | {
            key: value for key, value in chosen.items() if "." not in key
        }
        assert condition.matches(known) is expected


def test_an_effect_is_the_difference_between_runs_with_and_without() -> None:
    switches = np.vstack([DESIGN[:, :10]] * 2)
    values = np.random.default_rng(0).normal(20, 2, len(switches))
    for factor, effect in zip(switches.T, effects(switches, values), strict=True):
        assert effect.mean == pytest.approx(values[factor].mean() - values[~factor].mean())


def test_its_interval_holds_the_true_effect_as_often_as_it_says() -> None:
    chance, switches, held = np.random.default_rng(1), np.vstack([DESIGN[:, :10]] * 2), 0
    truth = np.linspace(-2, 2, 10)
    for _ in range(200):
        values = 20 + switches @ truth + chance.normal(0, 0.5, len(switches))
        found = effects(switches, values)
        held += sum(
            abs(each.mean - true) < each.margin for each, true in zip(found, truth, strict=True)
        )
    assert held / 2000 == pytest.approx(0.95, abs=0.02)
