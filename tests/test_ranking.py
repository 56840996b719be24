"""The ranking of variants, and their confidence intervals against the baseline."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from run_directories import write_run
from scipy import stats

from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.compare.group import Group, group_replicates
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.moderated_t import moderate
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.paired_test import (
    MeanDifference,
    adjust_for_number,
    compare_with_baseline,
    verdicts,
)
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.compare.replication import ReplicationRule

BASELINE = FilterExpression("optim.lr == 0.1")


def accuracy(run: LoadedRun) -> float | None:
    return run.best_accuracy


def write_replicates(
    folder: Path, lr: float, values: dict[int, float], settings: dict | None = None, **changes
) -> None:
    for seed, value in values.items():
        write_run(
            folder / f"{lr}-{seed}",
            {"optim.lr": lr, "seed": seed} | (settings or {}),
            value,
            **{"overrides": [f"optim.lr={lr}", f"seed={seed}", "sweep=x"]} | changes,
        )


def groups(folder: Path) -> dict[float, Group]:
    return {
        group.runs[0].settings["optim.lr"]: group for group in group_replicates(find_runs([folder]))
    }


def difference(
    folder: Path, variant: dict[int, float], baseline: dict[int, float]
) -> MeanDifference | None:
    """Write two variants, given by the accuracy of each seed, and compare them."""
    write_replicates(folder, 0.2, variant)
    write_replicates(folder, 0.1, baseline)
    by_lr = groups(folder)
    return MeanDifference.between(by_lr[0.2], by_lr[0.1], accuracy)


class TestMeanDifference:
    @pytest.mark.parametrize("n", [2, 3, 10])
    def test_shared_seeds_have_scipys_paired_interval(self, tmp_path: Path, n: int) -> None:
        generator = np.random.default_rng(n)
        # Most of the spread is common to both runs of a seed, so it cancels.
        common = generator.normal(70, 3, n)
        variant, baseline = (
            common + generator.normal(0.5, 0.2, n),
            common + generator.normal(0, 0.2, n),
        )
        result = difference(tmp_path, dict(enumerate(variant)), dict(enumerate(baseline)))
        expected = stats.ttest_rel(variant, baseline).confidence_interval(0.95)
        assert result.mean == pytest.approx(np.mean(variant - baseline))
        assert result.interval() == pytest.approx([expected.low, expected.high], rel=1e-6)
        assert (result.n, result.paired) == (n, True)

    def test_only_shared_seeds_are_compared(self, tmp_path: Path) -> None:
        variant, baseline = {0: 71.0, 2: 73.5, 5: 10.0}, {2: 73.0, 0: 70.0, 1: 99.0}
        result = difference(tmp_path, variant, baseline)
        expected = stats.ttest_rel([71.0, 73.5], [70.0, 73.0]).confidence_interval(0.95)
        assert result.mean == pytest.approx(0.75)
        assert result.interval() == pytest.approx([expected.low, expected.high])
        assert result.n == 2

    @pytest.mark.parametrize("first", [2, 3], ids=["one shared", "none shared"])
    def test_without_enough_shared_seeds_the_interval_is_scipys_welch_interval(
        self, tmp_path: Path, first: int
    ) -> None:
        variant = {0: 71.0, 1: 72.5, 2: 70.1}
        baseline = dict(enumerate([69.0, 69.5, 68.1, 69.3], start=first))
        result = difference(tmp_path, variant, baseline)
        expected = stats.ttest_ind(
            [*variant.values()], [*baseline.values()], equal_var=False
        ).confidence_interval(0.95)
        assert result.interval() == pytest.approx([expected.low, expected.high], rel=1e-9)
        assert (result.n, result.paired) == (3, False)

    @pytest.mark.parametrize(
        ("variant", "baseline", "mean", "paired"),
        [
            ({0: 71.0}, {0: 70.0}, 1.0, True),
            ({0: 71.0}, {0: 70.0, 1: 60.0}, 1.0, True),
            ({0: 71.0}, {1: 70.0}, 1.0, False),
            ({0: 71.0}, {1: 70.0, 2: 68.0}, 2.0, False),
        ],
    )
    def test_a_single_run_has_no_interval(
        self, tmp_path: Path, variant: dict, baseline: dict, mean: float, paired: bool
    ) -> None:
        result = difference(tmp_path, variant, baseline)
        assert (result.mean, result.n, result.paired) == (mean, 1, paired)
        assert (result.standard_error, result.interval(), result.p_value) == (None, None, None)
        assert verdicts([result], Objective("val_acc").gain) == ["too few runs"]

    @pytest.mark.parametrize("seeds", [(0, 1), (2, 3)], ids=["paired", "welch"])
    def test_runs_without_spread_have_an_interval_only_if_the_means_are_equal(
        self, tmp_path: Path, seeds: tuple[int, int]
    ) -> None:
        baseline = dict.fromkeys(seeds, 70.1)
        same = difference(tmp_path / "a", {0: 70.1, 1: 70.1}, baseline)
        assert (same.mean, same.interval()) == (0.0, (0.0, 0.0))
        assert verdicts([same], Objective("val_acc").gain) == ["within noise"]
        shifted = difference(tmp_path / "b", {0: 71.4, 1: 71.4}, baseline)
        assert shifted.mean == pytest.approx(1.3)
        assert shifted.interval() is None

    @pytest.mark.parametrize(
        ("mean", "up", "down"),
        [
            (2.1, "better", "worse"),
            (-2.1, "worse", "better"),
            (1.9, "within noise", "within noise"),
            (-1.9, "within noise", "within noise"),
        ],
    )
    def test_a_single_verdict_follows_from_the_interval(
        self, mean: float, up: str, down: str
    ) -> None:
        # The 97.5% quantile of Student's distribution with 60 degrees of freedom is 2.0003.
        result = MeanDifference(mean, 1.0, 60, 61, True)
        low, high = result.interval()
        assert (low <= 0 <= high) == (up == "within noise")
        assert verdicts([result], Objective("val_acc").gain) == [up]
        assert verdicts([result], Objective("val_loss").gain) == [down]

    def test_the_p_value_is_scipys(self, tmp_path: Path) -> None:
        variant, baseline = [71.0, 73.5, 72.2, 70.9], [70.0, 73.0, 72.4, 70.1]
        result = difference(tmp_path, dict(enumerate(variant)), dict(enumerate(baseline)))
        assert result.p_value == pytest.approx(stats.ttest_rel(variant, baseline).pvalue)

    def test_the_interval_has_the_asked_error_rate(self, tmp_path: Path) -> None:
        variant, baseline = [71.0, 73.5, 72.2], [70.0, 73.0, 72.4]
        result = difference(tmp_path, dict(enumerate(variant)), dict(enumerate(baseline)))
        expected = stats.ttest_rel(variant, baseline).confidence_interval(0.99)
        assert result.interval(0.01) == pytest.approx([expected.low, expected.high])

    def test_a_variant_with_a_diverged_seed_is_unstable(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 74.0, 1: 74.2, 2: 74.1})
        write_replicates(tmp_path, 0.4, {0: 74.6, 1: 74.81})
        write_replicates(tmp_path, 0.4, {2: 1.0}, state="diverged")
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        table = "\n".join(ranking.lines(None))
        assert "+0.60 [+0.54, +0.67]" in table
        assert "unstable" in table
        assert "better" not in table
        (warning,) = (note for note in ranking.notes() if "diverged" in note)
        rule = ReplicationRule(3)
        assert "unstable" in Ranking(find_runs([tmp_path]), BASELINE, rule=rule).verdicts
        # The diverged seed has a finished run now.
        write_replicates(tmp_path / "later", 0.4, {2: 74.7})
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        assert "unstable" not in ranking.verdicts
        assert "unstable" not in Ranking(find_runs([tmp_path]), BASELINE, rule=rule).verdicts
        assert warning not in ranking.notes()

    def test_a_note_says_that_the_means_are_over_different_seeds(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 74.0, 1: 74.2, 2: 74.1})
        write_replicates(tmp_path, 0.2, {0: 74.5, 1: 74.9, 2: 74.8})
        assert "different seeds" not in " ".join(Ranking(find_runs([tmp_path]), BASELINE).notes())
        write_replicates(tmp_path, 0.1, {3: 60.0})
        assert "different seeds" in " ".join(Ranking(find_runs([tmp_path]), BASELINE).notes())

    def test_the_note_on_comparisons_leaves_out_unstable_variants(self, tmp_path: Path) -> None:
        for lr, value in ((0.1, 74.0), (0.2, 74.5), (0.3, 75.0), (0.4, 74.6)):
            write_replicates(tmp_path, lr, {0: value, 1: value + 0.2, 2: value + lr})
        write_replicates(tmp_path, 0.4, {3: 1.0}, state="diverged")
        notes = " ".join(Ranking(find_runs([tmp_path]), BASELINE).notes())
        assert "2 comparisons" in notes

    def test_a_variant_without_a_result_is_not_compared(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.2, {0: 1.0}, best=None, state="failed")
        write_replicates(tmp_path, 0.1, {0: 70.0})
        by_lr = groups(tmp_path)
        assert MeanDifference.between(by_lr[0.2], by_lr[0.1], accuracy) is None


def residual_variances(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of each row, and its degrees of freedom, from a fit with indicators."""
    rows, columns = np.nonzero(~np.isnan(table))
    design = np.zeros((len(rows), sum(table.shape)))
    design[np.arange(len(rows)), rows] = 1
    design[np.arange(len(rows)), len(table) + columns] = 1
    observed = table[rows, columns]
    residuals = observed - design @ np.linalg.lstsq(design, observed)[0]
    leverages = np.diag(design @ np.linalg.pinv(design))
    squares, freedom = np.zeros(len(table)), np.zeros(len(table))
    np.add.at(squares, rows, residuals**2)
    np.add.at(freedom, rows, 1 - leverages)
    return squares / freedom, freedom


def noisy_table(variants: int, seeds: int, spreads: dict[int, float] | None = None) -> np.ndarray:
    """Return groups x seeds; the effect of a seed is much larger than the noise of most groups."""
    generator = np.random.default_rng([variants, seeds])
    noise = generator.normal(size=(variants + 1, seeds))
    for group, spread in (spreads or {}).items():
        noise[group] *= spread
    return 70 + generator.normal(0, 5, seeds) + noise


class TestModerate:
    @pytest.mark.parametrize(("variants", "seeds"), [(3, 3), (5, 4), (15, 3), (8, 6)])
    def test_alike_groups_share_their_variances(self, variants: int, seeds: int) -> None:
        table = noisy_table(variants, seeds)
        own, freedom = residual_variances(table)
        weight = min(4, variants - 2)
        pooled = own.mean()
        others = (own.sum() - own) / variants
        unlike = stats.f.sf(own / others, freedom, freedom.sum() - freedom) < 0.2
        variance = np.maximum(own, (own + weight * pooled) / (1 + weight))
        result = moderate(table)
        alike = ~(unlike[1:] | unlike[0])
        assert list(result.moderated) == list(alike)
        expected = np.sqrt((variance[1:] + variance[0]) / seeds)
        assert result.standard_error[alike] == pytest.approx(expected[alike])

    def test_a_balanced_table_has_the_freedom_of_its_interaction(self) -> None:
        _, freedom = residual_variances(noisy_table(3, 5))
        assert freedom == pytest.approx([3.0] * 4)
        result = moderate(noisy_table(3, 5))
        assert all(result.freedom <= 3 * 4)
        assert all(result.freedom > 4)

    def test_missing_seeds_are_left_out(self) -> None:
        table = noisy_table(4, 6)
        table[2, 3:] = np.nan
        table[3, 0] = np.nan
        own, freedom = residual_variances(table)
        pooled = (own * freedom).sum() / freedom.sum()
        squares = own * freedom
        others = (squares.sum() - squares) / (freedom.sum() - freedom)
        unlike = stats.f.sf(own / others, freedom, freedom.sum() - freedom) < 0.2
        variance = np.where(unlike, own, np.maximum(own, (own + 2 * pooled) / 3))
        expected = np.sqrt((variance[1:] + variance[0]) / [6, 3, 5, 6])
        assert moderate(table).standard_error == pytest.approx(expected)

    def test_a_seed_that_shifts_all_groups_changes_nothing(self) -> None:
        table = noisy_table(5, 4)
        shifted = table + np.array([0.0, 100.0, -30.0, 7.0])
        for one, other in zip(moderate(table), moderate(shifted), strict=True):
            assert other == pytest.approx(one)

    def test_the_unit_of_the_values_changes_nothing(self) -> None:
        table = noisy_table(5, 4)
        result, scaled = moderate(table), moderate(table / 100)
        assert scaled.standard_error == pytest.approx(result.standard_error / 100)
        assert scaled.freedom == pytest.approx(result.freedom)

    def test_a_group_with_much_noise_keeps_its_own_variance(self) -> None:
        table = noisy_table(5, 4, {2: 30.0})
        result = moderate(table)
        own, _ = residual_variances(table)
        assert list(result.moderated) == [True, False, True, True, True]
        assert result.standard_error[1] >= np.sqrt(own[2] / 4)
        # The noise of this group is most of the noise of its difference.
        assert 3 <= result.freedom[1] < 5
        assert all(result.freedom[[0, 2, 3, 4]] > 10)

    def test_a_baseline_with_much_noise_is_compared_without_the_others(self) -> None:
        assert not any(moderate(noisy_table(5, 4, {0: 30.0})).moderated)

    def test_equal_values_have_no_error(self) -> None:
        assert list(moderate(np.full((5, 3), 70.0)).standard_error) == [0.0] * 4


class TestCompareWithBaseline:
    def compare(
        self, folder: Path, table: np.ndarray, **changes: dict[int, dict]
    ) -> list[MeanDifference | None]:
        """Write groups x seeds as runs, and compare the first group with the others."""
        for group, values in enumerate(table):
            known = {seed: value for seed, value in enumerate(values) if not np.isnan(value)}
            extra = changes.get(f"group_{group}", {})
            write_replicates(folder, 0.1 * (group + 1), known, **extra)
        by_lr = {round(lr * 10): group for lr, group in groups(folder).items()}
        baseline, *variants = [by_lr[number] for number in sorted(by_lr)]
        return compare_with_baseline(variants, baseline, accuracy)

    def test_three_variants_with_three_seeds_share_their_noise(self, tmp_path: Path) -> None:
        table = noisy_table(3, 3)
        found = self.compare(tmp_path, table)
        expected = moderate(table)
        assert [each.standard_error for each in found] == pytest.approx(expected.standard_error)
        assert [each.freedom for each in found] == pytest.approx(expected.freedom)
        assert [each.moderated for each in found] == list(expected.moderated)
        assert [each.mean for each in found] == pytest.approx((table[1:] - table[0]).mean(axis=1))

    @pytest.mark.parametrize(("variants", "seeds"), [(1, 5), (2, 5), (5, 2)])
    def test_fewer_variants_or_seeds_have_scipys_paired_intervals(
        self, tmp_path: Path, variants: int, seeds: int
    ) -> None:
        table = noisy_table(variants, seeds)
        for found, values in zip(self.compare(tmp_path, table), table[1:], strict=True):
            expected = stats.ttest_rel(values, table[0]).confidence_interval(0.95)
            assert found.interval() == pytest.approx([expected.low, expected.high])
            assert not found.moderated

    @pytest.mark.parametrize(
        "changes",
        [
            {"inputs": {"data": "other"}},
            {"settings": {"data.limit_train": 500}},
            {"settings": {"data.limit_test": 500}},
            {"settings": {"data.holdout": 500}},
        ],
        ids=str,
    )
    def test_a_variant_with_other_images_keeps_its_own_noise(
        self, tmp_path: Path, changes: dict[str, dict]
    ) -> None:
        table = noisy_table(4, 4)
        found = self.compare(tmp_path, table, group_2=changes)
        expected = stats.ttest_rel(table[2], table[0]).confidence_interval(0.95)
        assert found[1].interval() == pytest.approx([expected.low, expected.high])
        others = moderate(table[[0, 1, 3, 4]])
        assert [found[i].standard_error for i in (0, 2, 3)] == pytest.approx(others.standard_error)
        notes = Ranking(find_runs([tmp_path]), BASELINE).notes()
        assert any("other data" in note and ": 1;" in note for note in notes)

    def test_a_variant_with_a_diverged_seed_lends_no_noise(self, tmp_path: Path) -> None:
        table = noisy_table(4, 4)
        write_replicates(tmp_path / "diverged", 0.3, {9: 1.0}, state="diverged")
        found = self.compare(tmp_path, table)
        others = moderate(table[[0, 1, 3, 4]])
        assert [found[i].standard_error for i in (0, 2, 3)] == pytest.approx(others.standard_error)

    def test_equal_differences_have_no_interval_unless_others_vary(self, tmp_path: Path) -> None:
        table = noisy_table(4, 3)
        table[2] = table[0] + 1.5
        found = self.compare(tmp_path / "a", table)
        assert found[1].interval() is not None
        table[1:] = table[0] + np.arange(1.0, 5.0)[:, None]
        assert [each.interval() for each in self.compare(tmp_path / "b", table)] == [None] * 4


class TestVerdicts:
    def test_the_number_of_comparisons_counts(self) -> None:
        """A difference that is better by itself is within noise among many without effect."""
        clear = MeanDifference(2.2, 1.0, 60, 61, True)
        none = MeanDifference(0.1, 1.0, 60, 61, True)
        gain = Objective("val_acc").gain
        assert verdicts([clear], gain) == ["better"]
        assert verdicts([clear, *[none] * 9], gain) == ["within noise"] * 10
        assert verdicts([clear] * 10, gain) == ["better"] * 10

    def test_the_procedure_is_that_of_benjamini_and_hochberg(self) -> None:
        generator = np.random.default_rng(0)
        for count in (1, 2, 7, 30):
            p_values = generator.beta(0.2, 2, count)
            ordered = np.sort(p_values)
            passed = [i for i in range(count) if ordered[i] <= 0.05 * (i + 1) / count]
            limit = ordered[passed[-1]] if passed else -1.0
            adjusted = adjust_for_number(list(p_values))
            assert [p <= 0.05 for p in adjusted] == [p <= limit for p in p_values]

    def test_variants_without_a_comparison_dont_count(self) -> None:
        clear = MeanDifference(2.2, 1.0, 60, 61, True)
        single = MeanDifference(0.1, None, 0, 1, True)
        found = verdicts([None, clear, *[single] * 9], Objective("val_acc").gain)
        assert found == ["", "better", *["too few runs"] * 9]


class TestRanking:
    def test_variants_are_ranked_and_compared(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0, 1: 71.0, 2: 72.0}, seconds=60.0)
        write_replicates(tmp_path, 0.2, {0: 72.0, 1: 73.1, 2: 73.9}, seconds=90.0)
        write_replicates(tmp_path, 0.3, {0: 65.0, 1: 66.1, 2: 66.9}, seconds=90.0)
        write_replicates(tmp_path, 0.4, {0: 71.0, 1: 70.5, 2: 72.3})
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        header, *lines = ranking.lines(None)
        assert header.split() == ["optim.lr", "n", "best", "final", "time", "difference", "verdict"]
        better, none, _, worse = (
            "[{:+.2f}, {:+.2f}]".format(*found.interval()) if found else ""
            for found in ranking.differences
        )
        assert [" ".join(line.split()) for line in lines] == [
            f"0.2 3 73.00 ± 0.95% 73.00 ± 0.95% 1 min 30 s +2.00 {better} better",
            f"0.4 3 71.27 ± 0.93% 71.27 ± 0.93% 12.5 s +0.27 {none} within noise",
            "0.1 3 71.00 ± 1.00% 71.00 ± 1.00% 1 min 00 s baseline",
            f"0.3 3 66.00 ± 0.95% 66.00 ± 0.95% 1 min 30 s -5.00 {worse} worse",
        ]
        assert ranking.best is ranking.groups[0]
        # The command reproduces the best seed, without the preset of the sweep.
        assert ranking.command == "python -m resnet_sweep optim.lr=0.2 seed=2"
        means, *_, number = ranking.notes()
        assert "95%" in means
        assert "3" in number
        assert max(len(line) for text in ranking.lines(60) for line in text.split("\n")) <= 60

    def test_single_runs_are_ranked_without_a_verdict(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0})
        write_replicates(tmp_path, 0.2, {0: 71.0})
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        first, second = ranking.lines(None)[1:]
        assert first.split()[-4:] == ["+1.00", "too", "few", "runs"]
        assert second.split()[-1] == "baseline"
        (note,) = ranking.notes()
        assert "replicates=3" in note

    @pytest.mark.parametrize(
        ("variant", "baseline", "shared", "independent"),
        [
            ({0: 71.0, 1: 71.5}, {0: 70.0, 1: 70.7}, True, False),
            ({0: 71.0, 1: 71.5}, {1: 70.0, 2: 70.7}, False, True),
            ({0: 71.0}, {0: 70.0, 1: 60.0}, False, False),
            ({0: 71.0}, {1: 70.0, 2: 68.0}, False, True),
        ],
        ids=["paired", "one shared seed", "a single run with a shared seed", "no shared seed"],
    )
    def test_notes_describe_how_the_means_are_computed(
        self, tmp_path: Path, variant: dict, baseline: dict, shared: bool, independent: bool
    ) -> None:
        write_replicates(tmp_path, 0.1, baseline)
        write_replicates(tmp_path, 0.2, variant)
        notes = Ranking(find_runs([tmp_path]), BASELINE).notes()
        intervals = [note for note in notes if "95%" in note]
        assert len(intervals) == (len(variant) > 1)
        assert any("seeds shared" in note for note in intervals) is shared
        assert any("all seeds" in note for note in notes) is independent

    def test_unfinished_variants_are_last_and_show_their_states(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0, 1: 71.0})
        write_replicates(tmp_path, 0.2, {0: 72.0})
        write_replicates(tmp_path, 0.2, {1: 99.0}, state="interrupted")
        write_replicates(tmp_path, 0.3, {0: 98.0}, state="failed")
        write_replicates(tmp_path, 0.4, {0: 97.0}, state="diverged")
        write_replicates(tmp_path, 0.5, {0: 1.0}, state="running", best=None, final=None)
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged/run.json").write_text("{")
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        lines = [line.split() for line in ranking.lines(None)[1:]]
        assert [line[0] for line in lines] == ["0.2", "0.1", "0.3", "0.4", "0.5"]
        assert " ".join(lines[0]).endswith("1 finished, 1 interrupted")
        assert [line[-1] for line in lines[2:]] == ["failed", "diverged", "(stale)"]
        assert ranking.differences[2:] == [None, None, None]
        note = ranking.notes()[0]
        assert re.findall(r"\d+", note) == ["1"]
        (tmp_path / "empty").mkdir()
        (tmp_path / "empty/run.json").touch()
        assert Ranking(find_runs([tmp_path]), BASELINE).notes()[0] == note.replace("1", "2")
        readable = [run for run in find_runs([tmp_path]) if isinstance(run, LoadedRun)]
        assert Ranking(readable, BASELINE).notes() == ranking.notes()[1:]

    @pytest.mark.parametrize(
        ("condition", "variants"),
        [("optim.lr == 7", ""), ("no.such.thing == 7", ""), ("optim.lr > 0", "2")],
    )
    def test_a_baseline_that_is_not_exactly_one_variant_is_reported(
        self, tmp_path: Path, condition: str, variants: str
    ) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0, 1: 71.0})
        write_replicates(tmp_path, 0.2, {0: 71.0, 1: 71.5})
        ranking = Ranking(find_runs([tmp_path]), FilterExpression(condition))
        assert ranking.baseline is None
        assert ranking.lines(None)[0].split() == ["optim.lr", "n", "best", "final", "time"]
        (note,) = ranking.notes()
        before, _, after = note.partition(f"baseline={condition}")
        assert after
        # The note has the number of variants that the condition holds for, if there are several.
        assert "".join(re.findall(r"\d+", before + after)) == variants

    def test_nothing_is_compared_with_an_interrupted_baseline(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0}, state="interrupted")
        write_replicates(tmp_path, 0.2, {0: 71.0})
        ranking = Ranking(find_runs([tmp_path]), BASELINE)
        assert ranking.differences == [None, None]
        (note,) = ranking.notes()
        assert "baseline" in note
        write_replicates(tmp_path, 0.1, {0: 70.0})
        assert note not in Ranking(find_runs([tmp_path]), BASELINE).notes()

    def test_without_finished_runs_there_is_no_best(self, tmp_path: Path) -> None:
        assert Ranking([], BASELINE).best is None
        write_replicates(tmp_path, 0.1, {0: 70.0}, state="interrupted")
        ranking = Ranking(find_runs([tmp_path]))
        assert (ranking.best, ranking.command) == (None, None)

    def test_a_minimized_objective_ranks_the_smallest_value_first(self, tmp_path: Path) -> None:
        for lr, value in ((0.1, 70.0), (0.2, 74.0), (0.3, 71.0)):
            write_replicates(tmp_path, lr, {0: value, 1: value + 0.1})
        reference = str(tmp_path / "0.3-0")
        objective = Objective("distance_to_reference", reference)
        ranking = Ranking(find_runs([tmp_path]), BASELINE, objective)
        header, *lines = ranking.lines(None)
        assert header.split()[:4] == ["optim.lr", "n", "distance", "best"]
        assert [line.split()[0] for line in lines] == ["0.3", "0.1", "0.2"]
        assert ranking.command == "python -m resnet_sweep optim.lr=0.3 seed=0"
        near, none, far = ranking.differences
        assert none is None
        assert near.mean < 0 < far.mean
        root = math.sqrt(0.2)
        assert near.mean == pytest.approx(root * (0.0 + 0.1 - 1.0 - 0.9) / 2)

    def test_losses_have_four_decimals(self, tmp_path: Path) -> None:
        write_replicates(tmp_path, 0.1, {0: 70.0})
        write_replicates(tmp_path, 0.2, {0: 71.0})
        ranking = Ranking(find_runs([tmp_path]), BASELINE, Objective("val_loss"))
        header, first, _ = ranking.lines(None)
        assert "lowest loss" in header
        assert "1.5000" in first

    def test_variants_of_experiments_are_shown_by_the_name_of_the_experiment(
        self, tmp_path: Path
    ) -> None:
        runs = {
            "recipe": {},
            "wide": {"model.widths": [64], "model.stem_width": 8},
            "fast": {"optim.lr": 0.2},
            "se": {"model.attention": "se"},
        }
        for name, settings in runs.items():
            for momentum in (0.9, 0.95):
                write_run(
                    tmp_path / f"{name}-{momentum}",
                    settings | {"optim.momentum": momentum},
                    choices={"optim": "sgd", "experiment": name},
                    overrides=[f"experiment={name}", f"optim.momentum={momentum}"],
                )
        header, *lines = Ranking(find_runs([tmp_path])).lines(None)
        assert header.split()[:3] == ["experiment", "optim.momentum", "n"]
        assert {tuple(line.split()[:2]) for line in lines} == {
            (name, str(momentum)) for name in runs for momentum in (0.9, 0.95)
        }

    def test_an_override_beside_an_experiment_has_a_column(self, tmp_path: Path) -> None:
        for name, lr in (("a", 0.1), ("b", 0.2)):
            write_run(
                tmp_path / name,
                {"optim.lr": lr},
                choices={"experiment": name},
                overrides=[f"experiment={name}", f"optim.lr={lr}"],
            )
        header = Ranking(find_runs([tmp_path])).lines(None)[0]
        assert header.split()[:2] == ["experiment", "optim.lr"]
