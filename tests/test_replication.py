"""Sweeps with replicates=auto: when the rule decides, and which jobs it adds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Command
from made_up_results import SMALL, MakeUp, Result
from processes import assert_refused
from run_directories import write_run
from scipy import stats
from small_sweep import (
    TINY,
    assert_same_runs,
    finish,
    kill,
    manifest,
    numbers,
    records,
    start,
    wait_for,
)

from resnet_sweep.__main__ import main
from resnet_sweep.api.sweep import Sweep
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.filter_expression import FilterExpression
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.compare.replication import ReplicationRule
from resnet_sweep.training.checkpoint import BEST, read_checkpoint

AUTO = ("--multirun", *SMALL, "hydra.sweep.dir=sweep", "replicates=auto")
SWEEP = (*AUTO, "max_replicates=5", "optim.lr=0.1,0.2,0.3", "baseline=optim.lr == 0.1")
# The differences of a variant without effect, by seed, in points.
NOISE = [1.0, -1.0, 0.5, -0.5, 0.2]


def accuracy(lr: float, seed: int) -> float:
    """Return a result: 0.2 is much better than 0.1, and 0.3 differs by noise only."""
    if lr == 0.2:
        return 70 + 0.01 * NOISE[seed]
    return 50 + NOISE[seed] * (lr == 0.3)


def decide(folder: Path, differences: list[float], rule: ReplicationRule) -> str:
    """Write a variant and a baseline with these differences, and return the verdict."""
    for seed, difference in enumerate(differences):
        write_run(folder / f"a{seed}", {"optim.lr": 0.1, "seed": seed}, 70 + seed)
        write_run(folder / f"b{seed}", {"optim.lr": 0.2, "seed": seed}, 70 + seed + difference)
    condition = FilterExpression("optim.lr == 0.1")
    ranking = Ranking(find_runs([folder]), condition, rule=rule)
    (verdict,) = (found for found in ranking.verdicts if found != "baseline")
    return verdict


class TestRule:
    @pytest.mark.parametrize(
        ("maximum", "looks"), [(3, (3,)), (4, (3, 4)), (8, (3, 5, 8)), (20, (3, 5, 8, 13, 20))]
    )
    def test_each_look_has_more_seeds_up_to_the_maximum(
        self, maximum: int, looks: tuple[int, ...]
    ) -> None:
        assert ReplicationRule(maximum).looks == looks

    @pytest.mark.parametrize(
        ("differences", "margin", "verdict"),
        [
            ([5.0, 5.1, 4.9], None, "better"),
            ([-5.0, -5.1, -4.9], None, "worse"),
            ([1.0, -1.0, 0.1], None, "undecided"),
            ([0.01, -0.01, 0.0], 0.3, "within margin"),
            ([1.0, 1.01, 0.99], 3, "within margin"),
            ([1.0, -1.0, 0.1], 0.3, "undecided"),
        ],
    )
    def test_the_interval_gives_the_verdict(
        self, tmp_path: Path, differences: list[float], margin: float | None, verdict: str
    ) -> None:
        assert decide(tmp_path, differences, ReplicationRule(8, margin)) == verdict

    @pytest.mark.parametrize("level", [0.05, 0.001])
    def test_without_effect_a_verdict_is_rare_over_all_looks(self, level: float) -> None:
        rule, count = ReplicationRule(8, level=level), 100_000
        differences = np.random.default_rng(1).normal(size=(count, 8))
        wrong = np.zeros(count, dtype=bool)
        for seeds in rule.looks:
            seen = differences[:, :seeds]
            half = stats.t.isf(rule.error_rate / 2, seeds - 1) * stats.sem(seen, axis=1)
            wrong |= np.abs(seen.mean(1)) > half
        # Four standard errors of the simulation.
        assert wrong.mean() < level + 4 * np.sqrt(level / count)


class TestSweep:
    def test_only_the_open_variants_and_the_baseline_get_more_seeds(
        self, call: Command, make_up: MakeUp, tmp_path: Path
    ) -> None:
        launcher = make_up(accuracy)
        result = call(main, *SWEEP)
        assert result.returncode == 0, result.stderr
        assert launcher.launched == [
            [(lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (0, 1, 2)],
            [(lr, seed) for lr in (0.1, 0.3) for seed in (3, 4)],
        ]
        assert [job["number"] for job in manifest(tmp_path / "sweep")] == [*range(13)]
        rows = [line.split() for line in result.stdout.splitlines()]
        seeds_and_verdicts = {
            row[0]: (row[1], row[-1]) for row in rows if row[:1] and row[0][:2] == "0."
        }
        assert seeds_and_verdicts == {
            "0.1": ("5", "baseline"),
            "0.2": ("3", "better"),
            "0.3": ("5", "undecided"),
        }

    @pytest.mark.parametrize("values", ["0.1,0.2,0.3", "0.1,0.1,0.2,0.3"])
    def test_each_seed_can_have_starting_weights_of_its_own(
        self, call: Command, make_up: MakeUp, tmp_path: Path, values: str
    ) -> None:
        """A value that is listed twice is one variant."""
        call(main, *SMALL, "trainer.max_steps=1", "hydra.run.dir=run")
        weights = read_checkpoint(tmp_path / "run/checkpoints" / BEST)["model"]
        for seed in range(5):
            other = {name: weight + seed for name, weight in weights.items()}
            torch.save(other, tmp_path / f"weights{seed}.pth")
        launcher = make_up(accuracy)
        sweep = [*SWEEP, "init_from=weights${seed}.pth"]
        sweep[sweep.index("optim.lr=0.1,0.2,0.3")] = f"optim.lr={values}"
        result = call(main, *sweep)
        assert result.returncode == 0, result.stderr
        assert launcher.launched == [
            [(lr, seed) for lr in (0.1, 0.2, 0.3) for seed in (0, 1, 2)],
            [(lr, seed) for lr in (0.1, 0.3) for seed in (3, 4)],
        ]
        lines = call(main, "runs", "sweep").stdout.splitlines()
        assert len(lines) == 4
        assert "init_from" not in lines[0]
        other = (*SWEEP, "hydra.sweep.dir=other", "optim.weight_decay=${seed}")
        assert_refused(call(main, *other), "optim.weight_decay", "seed")

    def test_the_same_command_trains_nothing_more(self, call: Command, make_up: MakeUp) -> None:
        make_up(accuracy)
        call(main, *SWEEP)
        launcher = make_up(accuracy)
        assert call(main, *SWEEP).returncode == 0
        assert launcher.launched == []

    @pytest.mark.parametrize("stop", [(0.2, 1), (0.3, 3)])
    def test_a_stopped_sweep_continues_as_if_it_hadnt_been_stopped(
        self, call: Command, make_up: MakeUp, tmp_path: Path, stop: tuple[float, int]
    ) -> None:
        whole = make_up(accuracy)
        call(main, *SWEEP, "hydra.sweep.dir=whole")

        def until_stop(lr: float, seed: int) -> float:
            if (lr, seed) == stop:
                raise KeyboardInterrupt
            return accuracy(lr, seed)

        # The runs of the undisturbed sweep must not be reused.
        first = make_up(until_stop)
        assert call(main, *SWEEP, "reuse=false").returncode == 130
        second = make_up(accuracy)
        assert call(main, *SWEEP, "reuse=false").returncode == 0
        trained = [job for batch in (*first.launched, *second.launched) for job in batch]
        assert trained == [job for batch in whole.launched for job in batch]
        both = [
            {name: (run["config"]["optim"]["lr"], run["seed"]) for name, run in found.items()}
            for found in (records(tmp_path / "whole"), records(tmp_path / "sweep"))
        ]
        assert both[0] == both[1]

    def test_a_variant_with_a_failed_job_gets_more_seeds_only_after_the_retry(
        self, call: Command, make_up: MakeUp
    ) -> None:
        launcher = make_up(
            lambda lr, seed: "failed" if (lr, seed) == (0.3, 2) else accuracy(lr, seed)
        )
        assert call(main, *SWEEP).returncode == 1
        assert len(launcher.launched) == 1
        launcher = make_up(accuracy)
        assert call(main, *SWEEP).returncode == 0
        more = [(lr, seed) for lr in (0.1, 0.3) for seed in (3, 4)]
        assert launcher.launched == [[(0.3, 2)], more]

    def test_runs_that_a_new_margin_makes_unnecessary_stay_part_of_the_sweep(
        self, call: Command, make_up: MakeUp, tmp_path: Path
    ) -> None:
        make_up(accuracy)
        call(main, *SWEEP)
        result = call(main, *SWEEP, "margin=10")
        assert result.returncode == 0, result.stderr
        assert "within margin" in result.stdout
        assert len(manifest(tmp_path / "sweep")) == len(records(tmp_path / "sweep")) == 13

    def test_a_diverged_seed_decides_and_a_diverged_baseline_ends_the_sweep(
        self, call: Command, make_up: MakeUp
    ) -> None:
        def diverging(bad: float) -> Result:
            return lambda lr, seed: "diverged" if lr == bad else accuracy(lr, seed)

        launcher = make_up(diverging(0.3))
        assert call(main, *SWEEP).returncode == 1
        assert len(launcher.launched) == 1
        launcher = make_up(diverging(0.1))
        assert call(main, *SWEEP, "hydra.sweep.dir=other").returncode == 1
        assert len(launcher.launched) == 1

    def test_a_variant_has_no_verdict_before_all_seeds_of_a_look_have_ended(
        self, call: Command, make_up: MakeUp, tmp_path: Path
    ) -> None:
        """The difference is clear with two seeds already, but they aren't a planned reading."""
        sweep = (*AUTO, "max_replicates=5", "optim.lr=0.1,0.2,0.3,0.4,0.5", *SWEEP[-1:])
        for failed, folder in (((0.1, 2), "one"), ((0.2, 2), "two")):

            def result(lr: float, seed: int, failed: tuple = failed) -> float | str:
                if (lr, seed) == failed:
                    return "failed"
                return 50 + 20 * (lr == 0.2) + 0.01 * NOISE[seed] * lr

            make_up(result)
            output = call(main, *sweep, f"hydra.sweep.dir={folder}", "reuse=false").stdout
            rows = [row.split() for row in output.splitlines()]
            assert "better" not in [row[-1] for row in rows if row[:1] == ["0.2"]]
            assert "better" not in Sweep(tmp_path / folder).table.verdicts

    def test_a_verdict_stays_as_it_was_decided(
        self, call: Command, make_up: MakeUp, tmp_path: Path
    ) -> None:
        """After the first look the other variants get noisy, and the variants share their noise."""

        def result(lr: float, seed: int) -> float:
            if lr == 0.2:
                return 51 + 0.3 * NOISE[seed]
            return 50 + NOISE[seed] * (lr > 0.2) * (0.1 if seed < 3 else 10)

        make_up(result)
        sweep = (*AUTO, "max_replicates=5", "optim.lr=0.1,0.2,0.3,0.4,0.5", *SWEEP[-1:])
        output = call(main, *sweep).stdout
        verdicts = {row.split()[0]: row.split()[-1] for row in output.splitlines() if "0." in row}
        assert verdicts["0.2"] == "better"
        rule = ReplicationRule(5)
        again = Ranking(
            find_runs([tmp_path]), FilterExpression(SWEEP[-1].split("=", 1)[1]), rule=rule
        )
        table = Sweep(tmp_path / "sweep").table
        rows = [
            (group.runs[0].settings["optim.lr"], verdict)
            for group, verdict in zip(table.groups, table.verdicts, strict=True)
        ]
        assert dict(rows)[0.2] == "better"
        assert "better" not in again.verdicts

    def test_finished_runs_of_other_sweeps_are_reused(self, call: Command, make_up: MakeUp) -> None:
        make_up(accuracy)
        call(main, *SWEEP, "hydra.sweep.dir=multirun/first")
        launcher = make_up(accuracy)
        assert call(main, *SWEEP).returncode == 0
        assert launcher.launched == []

    def test_the_dry_run_has_the_jobs_of_the_first_look_and_the_largest_number(
        self, call: Command, tmp_path: Path
    ) -> None:
        result = call(main, *SWEEP, "dry_run=true")
        *_, first, largest = result.stdout.splitlines()
        assert numbers(first)[0] == 9
        assert numbers(largest) == [15, 5]
        assert not list(tmp_path.iterdir())

    def test_a_combination_that_is_excluded_counts_with_its_first_seeds(
        self, call: Command
    ) -> None:
        result = call(main, *SWEEP, "sweep_filter=optim.lr < 0.25", "dry_run=true")
        (line,) = (line for line in result.stdout.splitlines() if "sweep_filter" in line)
        assert numbers(line)[0] == 3


@pytest.mark.slow
def test_a_sweep_that_is_killed_between_two_looks_ends_like_one_that_isnt(tmp_path: Path) -> None:
    auto = ("replicates=auto", "max_replicates=4", "baseline=optim.lr == 0.1", "reuse=false")
    sweep = ("--multirun", *TINY, *auto, "optim.lr=0.1,0.1001")
    undisturbed = start(tmp_path, *sweep, "hydra.sweep.dir=undisturbed")
    output = finish(undisturbed)
    assert undisturbed.returncode == 0, output
    assert len(records(tmp_path / "undisturbed")) == 8
    killed = start(tmp_path, *sweep, "hydra.sweep.dir=killed")
    wait_for(killed, tmp_path / "killed" / "6" / "run.json")
    kill(killed)
    resumed = start(tmp_path, *sweep, "hydra.sweep.dir=killed")
    output = finish(resumed)
    assert resumed.returncode == 0, output
    assert_same_runs(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["optim.lr=0.1,0.2"], ["replicates=auto", "baseline"]),
        (["optim.lr=0.1,0.2", "baseline=optim.lr == 3"], ["optim.lr == 3", "0"]),
        (["optim.lr=0.1,0.2", "baseline=seed == 0"], ["seed == 0", "2"]),
        (["optim.lr=0.1", "baseline=optim.lr == 0.1"], ["replicates=auto", "baseline"]),
        (["optim.lr=0.1,0.2", "seed=0,1", "baseline=optim.lr == 0.1"], ["seed", "0, 1"]),
        (["max_replicates=2", "baseline=optim.lr == 0.1"], ["max_replicates", "2", "3"]),
        (
            ["optim.lr=0.1,0.2", "baseline=optim.lr == 0.1", "sweep_filter=seed < 4"],
            ["sweep_filter", "up to 8 seeds"],
        ),
        (["margin=0", "baseline=optim.lr == 0.1"], ["margin", "0"]),
        (["replicates=3", "margin=0.5"], ["margin=0.5", "replicates=auto"]),
        (["replicates=3", "max_replicates=5"], ["max_replicates=5", "replicates=auto"]),
        (["replicates=automatic"], ["replicates", "automatic", "auto"]),
        (["hydra/sweeper=optuna", "optim.lr=interval(0.1,1)"], ["replicates=auto", "study"]),
    ],
)
def test_a_sweep_that_cant_add_seeds_is_refused(
    call: Command, tmp_path: Path, overrides: list[str], facts: list[str]
) -> None:
    assert_refused(call(main, *AUTO, *overrides), *facts)
    assert not list(tmp_path.iterdir())
