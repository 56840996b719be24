"""The distance between learning curves, and the objectives of runs."""

import math
import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from conftest import ROOT
from run_directories import COLUMNS, write_run

from resnet_sweep.compare.collection import find_runs, read_run
from resnet_sweep.compare.loaded_run import load_run
from resnet_sweep.compare.objective import (
    COSTS,
    CURVES,
    OBJECTIVES,
    Objective,
    distance,
    read_reference,
)
from resnet_sweep.compare.ranking import NearestRuns
from resnet_sweep.config.check import AnyObjective
from resnet_sweep.errors import ConfigError

GENERATOR = np.random.default_rng(0)


def curve(epochs: int, *without: str) -> list[dict]:
    """Return random metrics rows without the named columns."""
    columns = {"train_acc": 100.0, "val_acc": 100.0, "train_loss": 4.0, "lr": 0.1}
    return [
        {"epoch": epoch}
        | {
            name: GENERATOR.uniform(0, highest)
            for name, highest in columns.items()
            if name not in without
        }
        for epoch in range(1, epochs + 1)
    ]


class TestDistance:
    def test_distance_follows_its_formula(self) -> None:
        first, second = curve(7), curve(7)
        columns = np.array(
            [
                [[row[name] for name in ("train_acc", "val_acc", "train_loss")] for row in rows]
                for rows in (first, second)
            ]
        )
        squares = ((columns[0] - columns[1]) * [1, 1, 100 / np.log(100)]) ** 2
        expected = np.sqrt(np.average(squares.mean(axis=0), weights=[2, 1, 2]))
        assert distance(first, second) == pytest.approx(expected, rel=1e-12)
        assert distance(second, first) == distance(first, second)
        assert distance(first, first) == 0

    def test_the_distance_between_the_worst_and_the_best_curve_is_100(self) -> None:
        worst = [{"epoch": 1, "train_acc": 0.0, "val_acc": 0.0, "train_loss": math.log(100)}]
        best = [{"epoch": 1, "train_acc": 100.0, "val_acc": 100.0, "train_loss": 0.0}]
        assert distance(worst, best) == pytest.approx(100)
        assert sum(column.weight for column in CURVES.values()) == pytest.approx(1)

    def test_the_scales_and_weights_are_those_of_the_document(self) -> None:
        document = (ROOT / "docs" / "explanation" / "statistics.md").read_text(encoding="utf-8")
        for name, (scale, weight) in CURVES.items():
            (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", document, re.MULTILINE)
            cells = row.split(" | ")
            assert float(cells[0]) == weight
            assert float(cells[1].split("=")[-1]) == pytest.approx(scale, abs=0.05)
        first, second = (read_reference(f"logged_run_{number}") for number in (1, 2))
        assert re.search(rf"\b{distance(first, second):.2f}\b", document)

    @pytest.mark.parametrize("column", list(CURVES))
    def test_the_weights_of_unknown_columns_are_given_to_the_others(self, column: str) -> None:
        others = [name for name in CURVES if name != column]
        first, second = curve(5), curve(5, *others)
        differences = [first[index][column] - second[index][column] for index in range(5)]
        expected = CURVES[column].scale * np.sqrt(np.mean(np.square(differences)))
        assert distance(first, second) == pytest.approx(expected)

    @pytest.mark.parametrize("epochs", [1, 3, 9])
    def test_only_the_epochs_of_the_shorter_run_count(self, epochs: int) -> None:
        first, second = curve(10), curve(10)
        assert distance(first[:epochs], second) == distance(first[:epochs], second[:epochs])
        assert distance(first, second[:epochs]) == distance(first[:epochs], second[:epochs])

    def test_curves_without_common_epochs_or_columns_have_no_distance(self) -> None:
        assert distance(curve(3), curve(5)[3:]) is None
        assert distance([], curve(5)) is None
        assert distance(curve(3, "train_acc"), curve(3, "val_acc", "train_loss")) is None


class TestReference:
    def test_a_reference_is_a_logged_run_a_directory_or_a_metrics_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = write_run(tmp_path / "a" / "run")
        rows = read_run(run).metrics.rows
        assert read_reference(str(run)) == rows
        assert read_reference(f"{run}/metrics.csv") == rows
        assert read_reference("a/run") == rows
        assert read_reference("a/run/metrics.csv") == rows
        logged = read_reference("logged_run_2")
        assert (len(logged), logged[-1]["val_acc"]) == (100, 74.7)

    def test_a_reference_needs_only_one_column_beside_the_epoch(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.csv").write_text("epoch,val_acc\n1,12.5\n2,20\n")
        rows = read_reference(str(tmp_path / "metrics.csv"))
        assert distance(rows, [{"epoch": 2, "val_acc": 23.0, "train_acc": 1.0}]) == 3

    @pytest.mark.parametrize(
        ("reference", "facts"),
        [
            ("nowhere", ["reference=nowhere", "logged_run_1", "logged_run_2"]),
            ("", ["reference=", "metrics.csv"]),
            ("curve.csv", ["reference=curve.csv", "logged_run_1", "logged_run_2"]),
            ("x" * 5000, ["reference=xxx", "logged_run_1", "logged_run_2"]),
            ("\0/metrics.csv", [r"reference=\x00/metrics.csv"]),
            ("nowhere/metrics.csv", ["reference=nowhere/metrics.csv"]),
            ("folder", ["reference=folder", "metrics.csv"]),
            ("curve.csv/metrics.csv", ["reference=curve.csv/metrics.csv", "Not a directory"]),
            ("linked", ["reference=linked", "metrics.csv", "symbolic link"]),
            ("pipe/metrics.csv", ["reference=pipe/metrics.csv", "file"]),
            ("text", ["reference=text", "metrics.csv", "column", "epoch"]),
            ("cut", ["reference=cut", "metrics.csv", "row"]),
            # These files can be read, but have no curve.
            ("empty", ["reference=empty", "metrics.csv", *CURVES]),
            ("other", ["reference=other", "metrics.csv", *CURVES]),
        ],
    )
    def test_a_wrong_reference_is_refused_in_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: str, facts: list[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "curve.csv").write_text("epoch,val_acc\n1,50\n")
        for name in ("folder", "linked", "pipe", "text", "cut", "empty", "other"):
            (tmp_path / name).mkdir()
        (tmp_path / "linked/metrics.csv").symlink_to(tmp_path / "curve.csv")
        os.mkfifo(tmp_path / "pipe/metrics.csv")
        (tmp_path / "text/metrics.csv").write_text("Once upon a time\nthere was a run\n")
        (tmp_path / "cut/metrics.csv").write_text("epoch,val_acc\n1,50\n2,6")
        (tmp_path / "empty/metrics.csv").write_text(f"{COLUMNS}\n")
        (tmp_path / "other/metrics.csv").write_text("epoch,lr\n1,0.1\n")
        with pytest.raises(ConfigError) as refusal:
            read_reference(reference)
        for fact in facts:
            assert fact in str(refusal.value)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 1000


def value_of(directory: Path, config: dict) -> float | None:
    return Objective.from_config(config).value(load_run(directory, "run"))


class TestObjective:
    def test_every_objective_of_the_config_has_a_direction(self) -> None:
        names, _ = get_args(AnyObjective)
        assert set(OBJECTIVES) == set(get_args(names))
        directions = {name: objective.direction for name, objective in OBJECTIVES.items()}
        assert directions["val_acc"] == "maximize"
        assert {directions["val_loss"], directions["distance_to_reference"]} == {"minimize"}

    def test_a_run_has_the_value_of_the_objective(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run", accuracy=61.5)
        text = (run / "metrics.csv").read_text()
        (run / "metrics.csv").write_text(text + "3,0.01,0.5,90.0,1.75,61.0,1.0,6.5,100.0\n")
        assert value_of(run, {}) == 61.5
        assert value_of(run, {"objective": "val_acc", "reference": "nowhere"}) == 61.5
        # The best epoch counts. The last epoch has 1.75.
        assert value_of(run, {"objective": "val_loss"}) == 1.5
        reference = write_run(tmp_path / "reference", accuracy=64.5)
        distance_config = {"objective": "distance_to_reference", "reference": str(reference)}
        # The validation accuracy differs by 3 points in both epochs, and has a fifth of the weight.
        assert value_of(run, distance_config) == pytest.approx(math.sqrt(0.2 * 9))
        assert value_of(run, distance_config | {"reference": str(run)}) == 0

    @pytest.mark.parametrize("objective", sorted({*OBJECTIVES} - {*COSTS}))
    @pytest.mark.parametrize(
        "changes",
        [{"state": "diverged"}, {"best": None, "final": None}],
        ids=["diverged", "without_epochs"],
    )
    def test_a_run_that_diverged_or_has_no_epochs_has_no_value(
        self, tmp_path: Path, objective: str, changes: dict
    ) -> None:
        run = write_run(tmp_path, **changes)
        if changes.get("state") != "diverged":
            (run / "metrics.csv").unlink()
        assert value_of(run, {"objective": objective, "reference": "logged_run_1"}) is None

    def test_a_run_without_the_epochs_of_the_reference_has_no_distance(
        self, tmp_path: Path
    ) -> None:
        run = write_run(tmp_path / "run")
        (tmp_path / "metrics.csv").write_text("epoch,val_acc\n50,60\n")
        config = {"objective": "distance_to_reference", "reference": str(tmp_path / "metrics.csv")}
        assert value_of(run, config) is None

    @pytest.mark.parametrize(
        ("config", "facts"),
        [
            ({"objective": "accuracy"}, ["objective=accuracy", *OBJECTIVES]),
            (
                {"objective": "distance_to_reference"},
                ["objective=distance_to_reference", "reference=logged_run_1"],
            ),
            (
                {"objective": "distance_to_reference", "reference": "x"},
                ["reference=x", "logged_run_1", "logged_run_2"],
            ),
        ],
    )
    def test_a_wrong_objective_is_refused(self, config: dict, facts: list[str]) -> None:
        with pytest.raises(ConfigError) as refusal:
            Objective.from_config(config)
        for fact in facts:
            assert fact in str(refusal.value)


class TestNearestRuns:
    def test_the_candidate_with_the_same_curve_comes_first(self, tmp_path: Path) -> None:
        for number, (lr, accuracy) in enumerate([(0.1, 70), (0.2, 73), (0.05, 66), (0.4, 50)]):
            write_run(tmp_path / "runs" / str(number), {"optim.lr": lr}, accuracy)
        runs = find_runs([tmp_path / "runs"])
        for number in range(4):
            curves = read_reference(f"{tmp_path}/runs/{number}/metrics.csv")
            nearest = NearestRuns(runs, {"mine": curves})
            assert nearest.groups[0].runs[0].directory.name == str(number)
            assert nearest.distances["mine"][0].mean == 0
            assert all(statistic.mean > 0 for statistic in nearest.distances["mine"][1:])
            header, first, *rest = nearest.lines(None)
            assert header.split() == ["mine", "n", "epochs", "optim.lr", "run"]
            assert first.split()[:3] == ["0.00", "1", "2"]
            assert len(rest) == 3

    def test_replicates_are_one_candidate_with_mean_and_standard_deviation(
        self, tmp_path: Path
    ) -> None:
        for seed, accuracy in enumerate((70.0, 71.0, 72.0)):
            write_run(tmp_path / f"a{seed}", {"seed": seed}, accuracy)
        write_run(tmp_path / "b", {"optim.lr": 0.2}, 76.0)
        curves = read_reference(str(tmp_path / "a0"))
        nearest = NearestRuns(find_runs([tmp_path]), {"mine": curves})
        values = np.sqrt(0.2) * np.array([0.0, 1.0, 2.0])
        statistic = nearest.distances["mine"][0]
        assert statistic.mean == pytest.approx(values.mean())
        assert statistic.sd == pytest.approx(values.std(ddof=1))
        assert nearest.lines(None)[1].split()[:4] == ["0.45", "±", "0.45", "3"]

    def test_every_reference_has_a_column_and_a_ranking(self, tmp_path: Path) -> None:
        for name, accuracy in (("a", 60), ("b", 70), ("c", 80)):
            write_run(tmp_path / name, {"optim.lr": accuracy / 1000}, accuracy)
        write_run(tmp_path / "d", {"optim.lr": 1}, 70, state="interrupted")
        references = {name: read_reference(str(tmp_path / name)) for name in ("a", "c")}
        nearest = NearestRuns(find_runs([tmp_path]), references)

        def ranked_names(reference: str) -> list[str]:
            return [group.runs[0].directory.name for group in nearest.ranked(reference)]

        # An interrupted run comes last, even if its curve is near.
        assert ranked_names("a") == ["a", "b", "c", "d"]
        assert ranked_names("c") == ["c", "b", "a", "d"]
        assert nearest.lines(None)[0].split()[:3] == ["a", "c", "n"]

    def test_a_candidate_without_curves_comes_last(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a")
        (write_run(tmp_path / "b", {"optim.lr": 0.2}) / "metrics.csv").unlink()
        (tmp_path / "c").mkdir()
        (tmp_path / "c/run.json").write_text("damaged")
        logged = {"logged_run_1": read_reference("logged_run_1")}
        nearest = NearestRuns(find_runs([tmp_path]), logged)
        assert [group.runs[0].directory.name for group in nearest.groups] == ["a", "b"]
        assert nearest.lines(None)[2].split()[0] == "unknown"
