"""Studies, run by the command line: pruning, resuming, replicates, search space and errors."""

import csv
import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import NamedTuple

import optuna
import processes
import pytest
import yaml
from conftest import Command, Once
from omegaconf import DictConfig
from optuna.exceptions import StorageInternalError
from processes import assert_refused, mentions
from run_directories import write_run
from small_sweep import commands, finish, snapshot, start, wait_for
from sqlalchemy.exc import SQLAlchemyError
from test_study_workers import SMALL, STUDY, check_complete, load, rows

from resnet_sweep.__main__ import main
from resnet_sweep.cli.report import report
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.objective import Objective
from resnet_sweep.errors import ConfigError
from resnet_sweep.studies.plots import plot_studies
from resnet_sweep.studies.results import StudyResults, TrialResult
from resnet_sweep.studies.search_space import SearchSpace, TrialSampler
from resnet_sweep.studies.trial_queue import TrialLock, TrialQueue
from resnet_sweep.sweeps.runner import new_sweep_directory
from resnet_sweep.training.signals import Interrupted


def trials(directory: Path) -> list[optuna.trial.FrozenTrial]:
    return load(f"sqlite:///{directory}/study.db").get_trials(deepcopy=False)


def record(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


SLOW = pytest.mark.slow
# A study of three trials, one of which the pruner may end.
COMPLETE = (*STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=3")


@pytest.fixture(scope="module")
def complete(once: Once) -> Path:
    """Return the folder of a complete study with three trials, which a test must not change."""

    def make(folder: Path) -> None:
        result = processes.run(folder, *COMPLETE)
        assert result.returncode == 0, result.stderr

    return once("complete_study", make)


class TestPruning:
    @pytest.mark.parametrize(
        ("pruner", "settings", "total"),
        [
            pytest.param(
                "hyperband",
                {"min_resource": 1, "max_resource": 3, "reduction_factor": 3},
                8,
                marks=SLOW,
            ),
            pytest.param(
                "successive_halving", {"min_resource": 1, "reduction_factor": 2}, 8, marks=SLOW
            ),
            ("median", {"n_startup_trials": 2}, 5),
            pytest.param("percentile", {"percentile": 40.0, "n_startup_trials": 2}, 8, marks=SLOW),
        ],
    )
    def test_trials_are_pruned_as_by_optuna_without_this_package(
        self, call: Command, tmp_path: Path, pruner: str, settings: dict, total: int
    ) -> None:
        overrides = [f"hydra.sweeper.pruner.{key}={value}" for key, value in settings.items()]
        result = call(
            main,
            *STUDY,
            f"hydra/sweeper/pruner={pruner}",
            *overrides,
            "hydra.sweep.dir=study",
            f"hydra.sweeper.n_trials={total}",
            "hydra.sweeper.sampler.seed=2",
        )
        assert result.returncode == 0, result.stderr
        trained = trials(tmp_path / "study")
        classes = {
            "hyperband": "HyperbandPruner",
            "successive_halving": "SuccessiveHalvingPruner",
            "median": "MedianPruner",
            "percentile": "PercentilePruner",
        }
        study = optuna.create_study(
            study_name="resnet_sweep",
            direction="maximize",
            pruner=getattr(optuna.pruners, classes[pruner])(**settings),
        )
        for trial in trained:
            curve = [float(row["val_acc"]) for row in metrics(tmp_path / f"study/{trial.number}")]
            reference, state = study.ask(), "COMPLETE"
            for epoch, value in enumerate(curve, start=1):
                reference.report(value, epoch)
                if epoch < 3 and reference.should_prune():
                    state = "PRUNED"
                    break
            assert (state, epoch) == (trial.state.name, len(curve))
            pruned = state == "PRUNED"
            study.tell(
                reference, None if pruned else max(curve), state=optuna.trial.TrialState[state]
            )
        assert {trial.state.name for trial in trained} == {"COMPLETE", "PRUNED"}
        check_complete(load(f"sqlite:///{tmp_path}/study/study.db"), tmp_path / "study", total)


def metrics(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def resuming_command(output: str) -> list[str]:
    """Return the arguments of the command that an interrupted study prints."""
    (printed,) = commands(output)
    return shlex.split(printed.removeprefix("python -m resnet_sweep "))


class TestResuming:
    @pytest.mark.parametrize(
        ("number", "status"),
        [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=SLOW)],
    )
    def test_an_interrupted_trial_is_resumed_and_the_study_grows(
        self, call: Command, tmp_path: Path, number: signal.Signals, status: int
    ) -> None:
        # The epochs are long enough for the signal to arrive before the last one.
        overrides = (
            *STUDY,
            "data.limit_train=200",
            "trainer.epochs=6",
            "hydra.sweep.dir=study",
            "hydra/sweeper/pruner=none",
        )
        process = start(tmp_path, *overrides, "hydra.sweeper.n_trials=1")
        run = tmp_path / "study" / "0"
        wait_for(process, run / "checkpoints" / "last_model.pth")
        process.send_signal(number)
        output = finish(process)
        assert process.returncode == status, output
        assert {*overrides} < {*resuming_command(output)}
        assert record(run)["state"] == "interrupted"
        (stopped,) = trials(tmp_path / "study")
        assert stopped.state.name == "RUNNING"
        curve = metrics(run)
        assert 0 < len(curve) < 6
        (row,) = rows(tmp_path / "study")
        assert row["state"] == "interrupted"

        result = call(main, *overrides, "hydra.sweeper.n_trials=2")
        assert result.returncode == 0, result.stdout
        # The summary has four digits of a number, and the command has all of them.
        assert re.search(rf"optim\.lr={stopped.params['optim.lr']:.4g}\b", result.stdout)
        # The rows are equal, including their times, so none of these epochs was trained again.
        assert metrics(run)[: len(curve)] == curve
        assert len(metrics(run)) == 6
        check_complete(load(f"sqlite:///{tmp_path}/study/study.db"), tmp_path / "study", 2)

    def test_the_same_parameters_are_trained_once(self, call: Command, tmp_path: Path) -> None:
        overrides = [override for override in STUDY if not override.startswith("optim.lr")]
        result = call(
            main,
            *overrides,
            "optim.lr=0.05,0.1",
            "hydra.sweep.dir=study",
            "hydra.sweeper.n_trials=4",
            "hydra/sweeper/pruner=none",
            "hydra/sweeper/sampler=random",
        )
        assert result.returncode == 0, result.stderr
        study = trials(tmp_path / "study")
        assert len(study) == 4
        values = {trial.params["optim.lr"]: trial.value for trial in study}
        assert len(list((tmp_path / "study").glob("*/run.json"))) == len(values)
        for trial, row in zip(study, rows(tmp_path / "study"), strict=True):
            assert trial.value == values[trial.params["optim.lr"]] == float(row["value"])
            run = record(tmp_path / "study" / row["directory"])
            assert run["best"]["val_acc"] == trial.value
            assert run["config"]["optim"]["lr"] == trial.params["optim.lr"]

    def test_a_warm_start_adds_finished_runs_before_the_current_config(
        self, command: Command, tmp_path: Path
    ) -> None:
        first = command(*SMALL, "trainer.epochs=1", "optim.lr=0.2", "hydra.run.dir=outputs/earlier")
        assert first.returncode == 0, first.stderr
        result = command(
            *STUDY,
            "trainer.epochs=1",
            "hydra.sweep.dir=study",
            "hydra.sweeper.n_trials=1",
            "hydra.sweeper.warm_start=true",
            "hydra.sweeper.enqueue=current_config",
        )
        assert result.returncode == 0, result.stderr
        earlier, current = trials(tmp_path / "study")
        assert earlier.params == {"optim.lr": 0.2}
        assert earlier.value == record(tmp_path / "outputs/earlier")["best"]["val_acc"]
        assert current.params == {"optim.lr": 0.1}
        assert rows(tmp_path / "study")[0]["directory"] == "0"
        assert record(tmp_path / "study/0")["reused_from"] == str(tmp_path / "outputs/earlier")

    @pytest.mark.parametrize("removed", [False, True])
    def test_a_finished_run_is_reused_unless_its_metrics_are_missing(
        self, call: Command, tmp_path: Path, removed: bool
    ) -> None:
        overrides = (*SMALL, "trainer.epochs=1")
        earlier = tmp_path / "outputs/earlier"
        first = call(main, *overrides, "optim.lr=0.1", f"hydra.run.dir={earlier}")
        assert first.returncode == 0, first.stderr
        best = record(earlier)["best"]["val_acc"]
        if removed:
            (earlier / "metrics.csv").unlink()
        result = call(
            main,
            *STUDY,
            *overrides,
            "hydra.sweep.dir=study",
            "hydra.sweeper.n_trials=1",
            "hydra.sweeper.enqueue=current_config",
        )
        assert result.returncode == 0, result.stdout + result.stderr
        reused_from = record(tmp_path / "study/0")["reused_from"]
        assert reused_from == (None if removed else str(earlier))
        # The pruner of the study gets the epochs of a reused run, too.
        (trial,) = trials(tmp_path / "study")
        assert trial.value == trial.intermediate_values[1] == best
        (row,) = rows(tmp_path / "study")
        assert (row["state"], row["directory"]) == ("finished", "0")
        shutil.rmtree(earlier)
        assert len(find_runs([tmp_path / "study"])) == 1


class TestReplicates:
    def test_the_value_of_a_trial_is_the_mean_over_its_seeds(
        self, call: Command, tmp_path: Path
    ) -> None:
        result = call(
            main,
            *STUDY,
            "replicates=2",
            "seed=5",
            "hydra.sweep.dir=study",
            "hydra.sweeper.n_trials=1",
            "hydra/sweeper/pruner=none",
        )
        assert result.returncode == 0, result.stderr
        (trial,) = trials(tmp_path / "study")
        runs = [record(tmp_path / f"study/0/{seed}") for seed in (5, 6)]
        assert [run["seed"] for run in runs] == [5, 6]
        assert trial.value == sum(run["best"]["val_acc"] for run in runs) / 2
        assert set(trial.params) == {"optim.lr"}
        # The command that reproduces the best trial has its seeds.
        assert "replicates=2 seed=5" in result.stdout

    @SLOW
    def test_reused_replicates_count_like_trained_ones(
        self, command: Command, tmp_path: Path
    ) -> None:
        first = command(
            *SMALL, "trainer.epochs=1", "optim.lr=0.1", "seed=5", "hydra.run.dir=outputs/earlier"
        )
        assert first.returncode == 0, first.stderr
        result = command(
            *STUDY,
            "trainer.epochs=1",
            "replicates=2",
            "seed=5",
            "hydra.sweep.dir=multirun/study",
            "hydra/sweeper/pruner=none",
            "hydra.sweeper.enqueue=current_config",
            "hydra.sweeper.n_trials=1",
        )
        assert result.returncode == 0, result.stderr
        runs = [record(tmp_path / "outputs/earlier"), record(tmp_path / "multirun/study/0/6")]
        copy = record(tmp_path / "multirun/study/0/5")
        assert copy["reused_from"] == str(tmp_path / "outputs/earlier")
        assert copy["best"] == runs[0]["best"]
        values = [run["best"]["val_acc"] for run in runs]
        (row,) = rows(tmp_path / "multirun/study")
        assert (row["directory"], row["n"]) == ("0", "2")
        assert float(row["value"]) == float(row["best_val_acc"]) == pytest.approx(fmean(values))
        assert float(row["sd"]) == pytest.approx(stdev(values))
        # A warm start of another study uses both replicates.
        result = command(
            *STUDY,
            "trainer.epochs=1",
            "replicates=2",
            "seed=5",
            "hydra.sweep.dir=next",
            "hydra.sweeper.n_trials=1",
            "hydra.sweeper.warm_start=true",
        )
        assert result.returncode == 0, result.stderr
        reused = rows(tmp_path / "next")[0]
        assert [reused[name] for name in ("value", "best_val_acc", "sd", "n")] == [
            row[name] for name in ("value", "best_val_acc", "sd", "n")
        ]

    @SLOW
    def test_a_trial_is_pruned_between_its_seeds_as_by_optuna_without_this_package(
        self, call: Command, tmp_path: Path
    ) -> None:
        result = call(
            main,
            *STUDY,
            "replicates=3",
            "hydra.sweep.dir=study",
            "hydra.sweeper.n_trials=8",
            "hydra/sweeper/pruner=median",
            "hydra.sweeper.pruner.n_startup_trials=2",
            # The three epochs of the first seed are ignored, but its result isn't.
            "hydra.sweeper.pruner.n_warmup_steps=3",
            "hydra.sweeper.sampler.seed=1",
        )
        assert result.returncode == 0, result.stderr
        study = optuna.create_study(
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
        )
        seeds = Counter()
        for trial in trials(tmp_path / "study"):
            top = tmp_path / f"study/{trial.number}"
            bests = [
                record(top / f"{seed}")["best"]["val_acc"]
                for seed in range(len(list(top.glob("*/"))))
            ]
            reference, state = study.ask(), "COMPLETE"
            curve = [float(row["val_acc"]) for row in metrics(top / "0")]
            reported = [*enumerate(curve, start=1), (6, fmean(bests[:2])), (9, fmean(bests))]
            for step, value in reported:
                reference.report(value, step)
                if step < 9 and reference.should_prune():
                    state = "PRUNED"
                    break
            assert (state, max(step // 3, 1)) == (trial.state.name, len(bests))
            seeds[len(bests)] += 1
            pruned = state == "PRUNED"
            study.tell(
                reference, None if pruned else fmean(bests), state=optuna.trial.TrialState[state]
            )
        # Some trials were pruned after the first seed, and others have all seeds.
        assert seeds[1] and seeds[3], seeds


def test_a_study_with_two_objectives_has_two_values_for_each_trial(
    call: Command, tmp_path: Path
) -> None:
    overrides = [
        override for override in STUDY if not override.startswith(("optim.lr", "model.widths"))
    ]
    result = call(
        main,
        *overrides,
        "objective=[val_acc,parameters]",
        "hydra.sweeper.direction=[maximize,minimize]",
        "model.widths=[4,8],[8,16]",
        "hydra.sweep.dir=study",
        "hydra.sweeper.n_trials=3",
    )
    assert result.returncode == 0, result.stderr
    for trial, row in zip(trials(tmp_path / "study"), rows(tmp_path / "study"), strict=True):
        run = record(tmp_path / "study" / row["directory"])
        assert trial.values == [run["best"]["val_acc"], run["parameters"]]


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["optim.lr=interval(0.3,0.01)"], ["optim.lr=interval(0.3,0.01)", "0.3", "0.01"]),
        (["optim.lr=tag(log,interval(0,0.1))"], ["optim.lr=tag(log,interval(0,0.1))", "0.0"]),
        (["hydra.sweeper.enqueue=foo"], ["hydra.sweeper.enqueue", "foo", "current_config", "null"]),
        (["hydra.sweeper.max_failure_rate=2"], ["hydra.sweeper.max_failure_rate", "2", "1"]),
        (["retry_failed=false"], ["retry_failed=false", "hydra/sweeper=grid"]),
        (["baseline=seed == 0"], ["baseline=seed == 0", "hydra/sweeper=grid"]),
        (["seed=0,1"], ["seed=0,1", "replicates="]),
        (
            ["objective=val_loss"],
            ["maximize", "objective=val_loss", "hydra.sweeper.direction=minimize"],
        ),
        (
            [
                "objective=[val_acc,seconds]",
                "hydra.sweeper.direction=[maximize,minimize]",
                "hydra/sweeper/pruner=median",
            ],
            ["MedianPruner", "2", "hydra/sweeper/pruner=none"],
        ),
        (
            ["hydra.sweeper.storage=sqlite:////nowhere/x.db"],
            ["hydra.sweeper.storage", "/nowhere/x.db"],
        ),
        (["hydra.sweeper.storage=foo", "dry_run=true"], ["hydra.sweeper.storage=foo"]),
        (
            ["hydra.sweeper.storage=journal:////nowhere/x.log", "dry_run=true"],
            ["hydra.sweeper.storage", "/nowhere"],
        ),
        (["hydra.sweeper.enqueue=[{optim.lr: 5}]"], ["hydra.sweeper.enqueue", "optim.lr=5"]),
        (
            [
                "hydra/sweeper/sampler=grid",
                "optim.lr=0.1,0.2",
                "hydra.sweeper.enqueue=current_config",
            ],
            ["hydra.sweeper.enqueue", "grid", "hydra/sweeper/sampler"],
        ),
        (["trainer.resume=false"], ["trainer.resume=false"]),
    ],
)
def test_an_invalid_study_is_refused_and_leaves_no_directory(
    call: Command, tmp_path: Path, overrides: list[str], facts: list[str]
) -> None:
    assert_refused(call(main, *STUDY, *overrides, "hydra.sweep.dir=study"), *facts)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("overrides", [(), ("hydra.sweep.dir=new/study",)])
def test_a_study_of_another_program_in_the_storage_is_refused_and_leaves_no_directory(
    call: Command, tmp_path: Path, overrides: tuple[str, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    study = optuna.create_study(storage=url, study_name="resnet_sweep", direction="maximize")
    study.ask()
    result = call(main, *STUDY, f"hydra.sweeper.storage={url}", *overrides)
    assert_refused(result, "resnet_sweep", "hydra.sweeper.study_name")
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]


def test_a_search_space_with_an_invalid_limit_is_refused_and_leaves_no_files(
    call: Command, tmp_path: Path
) -> None:
    result = call(main, *STUDY, "optim.lr=interval(-0.1,0.3)", "hydra.sweep.dir=study")
    assert result.returncode == 2
    assert mentions(result.stderr, "optim.lr=-0.1")
    assert not mentions(result.stderr, "optim.lr=0.3")
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "name", "old", "new"),
    [
        ("optim.lr=interval(0.01,0.2)", "optim.lr", "0.3", "0.2"),
        ("trainer.epochs=4", "trainer.epochs", "3", "4"),
    ],
)
def test_a_changed_study_in_the_same_directory_is_refused(
    call: Command, complete: Path, change: str, name: str, old: str, new: str
) -> None:
    directory = complete / "study"
    before = (directory / "results.csv").read_bytes()
    result = call(main, *COMPLETE[:-2], f"hydra.sweep.dir={directory}", COMPLETE[-1], change)
    assert_refused(result, name, "hydra.sweep.dir", "hydra.sweeper.study_name")
    pattern = rf"{re.escape(name)}\b.*\b{old}\b.*\b{new}\b"
    assert re.search(pattern, result.stderr), result.stderr
    assert (directory / "results.csv").read_bytes() == before


def test_numbers_in_plots_have_four_digits(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(directions=["maximize", "minimize"], storage=storage)
    for _ in range(3):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(0.1, 0.3)})
        study.tell(trial, [trial.params["lr"] / 3, 2.0])
    (plots,) = plot_studies([tmp_path])
    front = json.dumps(plots["figures"][0])
    assert plots["figures"][0]["title"] == "Pareto front"
    for trial in study.trials:
        assert f"{trial.params['lr']:.4g}" in front
    assert not re.search(r"[a-z\"]+: \d\.\d{5}", front)


def test_the_report_of_a_study_has_its_plots(complete: Path, tmp_path: Path) -> None:
    page = report([str(complete / "study")], tmp_path / "page.html").read_text()
    content = json.loads(page.split('id="report">')[1].split("</script>")[0])
    (study,) = content["studies"]
    titles = [figure["title"] for figure in study["figures"]]
    assert titles[0] == "Optimisation history"
    assert {"Slices", "Parallel coordinates", "Epochs of each trial"} <= {*titles}


class TestSearchSpace:
    @pytest.mark.parametrize(
        ("override", "corners"),
        [
            ("a=interval(0.1,0.3)", [0.1, 0.3]),
            ("a=range(1,6,2)", [1, 5]),
            ("a=x,y,z", ["x", "y", "z"]),
            ("a=tag(log,interval(1e-4,1e-1))", [1e-4, 1e-1]),
        ],
    )
    def test_its_corners_are_the_limits_of_ranges_and_all_choices(
        self, override: str, corners: list
    ) -> None:
        assert [corner["a"] for corner in SearchSpace([override]).corners()] == corners

    def test_values_of_another_type_are_converted_if_the_result_is_exact(self) -> None:
        space = SearchSpace(["a=range(16,129,16)", "b=interval(0.01,1.0)", "c=0.1,x"])
        parameters = space.parameters({"a": 64.0, "b": "0.1", "c": 0.1})
        assert parameters == {"a": 64, "b": 0.1, "c": 0.1}
        assert type(parameters["a"]) is int
        assert type(space.parameters({"a": "64", "b": 1, "c": "x"})["b"]) is float
        for wrong in ({"a": 64.5}, {"a": 65}, {"a": "many"}, {"a": True}, {"b": float("nan")}):
            ((key, value),) = wrong.items()
            with pytest.raises(ConfigError, match=rf"(?i){key}=.*{value}"):
                space.parameters(parameters | wrong)

    def test_the_last_override_of_a_setting_holds(self) -> None:
        assert SearchSpace(["a=1,2", "b=1,2", "a=3"]).fixed == {"a": "a=3"}
        assert [*SearchSpace(["a=3", "a=1,2"]).distributions] == ["a"]

    def test_a_choice_of_one_value_is_fixed(self) -> None:
        space = SearchSpace(["a=1,2", "b=choice(3)", r"c=choice('x, y')", "d=choice([4,null])"])
        assert [*space.distributions] == ["a"]
        assert space.fixed == {"b": "b=3", "c": r"c=x\,\ y", "d": "d=[4,null]"}


def test_a_failed_trial_is_recorded_and_the_study_continues(call: Command, tmp_path: Path) -> None:
    overrides = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1", "hydra.sweeper.n_trials=3")
    # The directory of trial 1 contains another file.
    (tmp_path / "study" / "1").mkdir(parents=True)
    (tmp_path / "study" / "1" / "notes.txt").touch()
    result = call(main, *overrides)
    assert result.returncode == 1
    assert [row["state"] for row in rows(tmp_path / "study")][1] == "failed"
    assert [trial.state.name for trial in trials(tmp_path / "study")][1] == "FAIL"
    assert "notes.txt" in rows(tmp_path / "study")[1]["reason"]
    assert len(trials(tmp_path / "study")) == 3
    result = call(main, *overrides[:-1], "hydra.sweeper.n_trials=4", "hydra.sweeper.max_failures=1")
    assert result.returncode == 1
    # With max_failures=1 the failed trial stops the study, so there is no fourth trial.
    assert len(trials(tmp_path / "study")) == 3


def test_a_seeded_sampler_draws_the_same_trials_again_and_none_twice() -> None:
    space = SearchSpace(["a=interval(0.0,1.0)", "b=x,y,z"])
    node = {"_target_": "optuna.samplers.RandomSampler", "seed": 1}

    def sample(count: int) -> list[dict]:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage)
        sampler = TrialSampler(node, space)
        return [
            sampler.sample(study, start_trial(study, storage), number).params
            for number in range(count)
        ]

    first = sample(4)
    assert sample(4) == first
    assert len({trial["a"] for trial in first}) == 4


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=x,y", ["x", "y"]),
        ("a=range(1,6,2)", [1, 3, 5]),
        ("a=range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_a_grid_sampler_tries_all_values_of_a_setting(override: str, values: list) -> None:
    space = SearchSpace([override])
    assert space.grid() == {"a": values}
    sampler = TrialSampler({"_target_": "optuna.samplers.GridSampler", "seed": None}, space)
    assert sampler.size == len(values)
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    sampled = []
    for number, _ in enumerate(values):
        trial = sampler.sample(study, start_trial(study, storage), number)
        sampled.append(trial.params["a"])
        study.tell(trial, 0.0)
    assert sorted(sampled) == values
    assert all(space.parameters({"a": value}) == {"a": value} for value in values)
    with pytest.raises(ConfigError):
        space.parameters({"a": 0.25})


class QueuedStudy(NamedTuple):
    """A study in memory, its storage and its trial queue."""

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    queue: TrialQueue


@pytest.fixture
def queued_study(tmp_path: Path) -> QueuedStudy:
    """Return a study of three trials with an empty search space."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    return QueuedStudy(study, storage, TrialQueue(study, storage, tmp_path, 3))


def start_trial(study: optuna.Study, storage: optuna.storages.BaseStorage) -> int:
    """Start a trial without a heartbeat, and return its id in the storage."""
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING))
    trial_id = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), study.get_trials()[-1].number
    )
    storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING)
    return trial_id


def test_a_trial_is_a_duplicate_only_of_a_trial_that_has_not_failed(
    queued_study: QueuedStudy, tmp_path: Path
) -> None:
    study, _, queue = queued_study
    first, second, third = (study.ask() for _ in range(3))
    assert not queue.mark_if_duplicate(first, "s")
    assert queue.mark_if_duplicate(second, "s")
    study.tell(first.number, state=optuna.trial.TrialState.FAIL)
    assert not queue.mark_if_duplicate(second, "s")
    assert TrialResult(study.trials[1], tmp_path, Objective()).reason == ""
    assert queue.mark_if_duplicate(third, "s")
    assert TrialResult(study.trials[2], tmp_path, Objective()).reason == "same as trial 1"


def test_the_command_line_overrides_the_sweeper_and_the_settings_of_a_preset(
    call: Command, tmp_path: Path
) -> None:
    small = [override for override in SMALL if not override.startswith("experiment=")]
    preset = ("sweep=optuna_sgd", "experiment=quickstart", *small, "dry_run=true")
    overrides = (*preset, "hydra.sweeper.params.data\\.holdout=20")
    result = call(main, *preset, "data.holdout=20")
    assert result.returncode == 0, result.stderr
    assert "TPESampler" in result.stdout
    assert "optim.momentum" in result.stdout
    result = call(main, *overrides[:-1], "hydra/sweeper=grid")
    # The grid sweeper accepts neither samplers nor intervals.
    assert result.returncode == 2
    assert "TPESampler" not in result.stdout
    assert not list(tmp_path.iterdir())


def test_a_trial_whose_workers_crash_fails_only_if_max_worker_crashes_is_set(
    call: Command, tmp_path: Path
) -> None:
    overrides = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1")
    assert call(main, *overrides, "hydra.sweeper.n_trials=1").returncode == 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study/study.db")
    study = load(storage)
    # The workers of two trials have crashed, for the third time in a row.
    for _ in range(2):
        heartbeat = {"host": socket.gethostname(), "process": 1, "renewed": 0, "epochs": 0}
        storage.set_trial_user_attr(
            start_trial(study, storage), "heartbeat", heartbeat | {"crashes": 2}
        )
    result = call(main, *overrides, "hydra.sweeper.n_trials=2")
    assert result.returncode == 0, result.stdout
    assert trials(tmp_path / "study")[1].state.is_finished()
    assert trials(tmp_path / "study")[1].state.name != "FAIL"
    result = call(
        main, *overrides, "hydra.sweeper.n_trials=3", "hydra.sweeper.max_worker_crashes=3"
    )
    assert result.returncode == 1
    assert trials(tmp_path / "study")[2].state.name == "FAIL"
    assert re.search(r"\b3\b", rows(tmp_path / "study")[2]["reason"])


def test_a_trial_of_another_machine_is_taken_over_only_if_its_heartbeat_is_stale(
    queued_study: QueuedStudy, tmp_path: Path
) -> None:
    study, storage, _ = queued_study
    trial = start_trial(study, storage)
    heartbeat = {"host": "elsewhere", "process": 1, "epochs": 0, "crashes": 0}
    for age in (10, 110):
        renewed = {"renewed": time.time() - age}
        storage.set_trial_user_attr(trial, "heartbeat", heartbeat | renewed)
        with pytest.raises(ConfigError, match="trial 0"):
            TrialLock(storage, trial, 0, tmp_path)
    storage.set_trial_user_attr(trial, "heartbeat", heartbeat | {"renewed": time.time() - 130})
    lock = TrialLock(storage, trial, 0, tmp_path)
    assert lock.number == 0 and lock.is_owned()
    lock.release()


def test_a_trial_counts_the_workers_that_crashed_without_completing_an_epoch(
    queued_study: QueuedStudy, tmp_path: Path
) -> None:
    study, storage, _ = queued_study
    trial = start_trial(study, storage)
    heartbeat = {"host": "elsewhere", "process": 1, "renewed": 0, "epochs": 0, "crashes": 1}
    storage.set_trial_user_attr(trial, "heartbeat", heartbeat)
    # Workers that find the trial's run still locked haven't crashed.
    for _ in range(2):
        lock = TrialLock(storage, trial, 0, tmp_path)
        assert lock.crashes == 2
        lock.revert()
        assert storage.get_trial(trial).user_attrs["heartbeat"] == heartbeat
    # An epoch of any replicate resets the count.
    write_run(tmp_path / "0" / "1")
    lock = TrialLock(storage, trial, 0, tmp_path)
    assert lock.crashes == 0
    lock.release()


def test_results_of_ended_trials_are_read_once_and_files_are_written_at_a_limited_rate(
    queued_study: QueuedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, queue = queued_study
    plan = SimpleNamespace(objectives=[Objective()], space=SearchSpace(["optim.lr=0.1,0.2"]))
    results = StudyResults(queue, plan, {"command": "", "settings": {}})
    read = []
    monkeypatch.setattr(
        "resnet_sweep.studies.results.TrialResult",
        lambda trial, *rest: read.append(trial.number) or TrialResult(trial, *rest),
    )
    for number in range(3):
        trial = study.ask()
        study.tell(trial, float(number))
        results.save()
    results.save(now=True)
    assert read == [0, 1, 2]
    assert [row["value"] for row in rows(tmp_path)] == ["0.0", "1.0", "2.0"]
    results.save()
    before = (tmp_path / "results.csv").stat().st_mtime_ns
    results.save()
    results.save()
    assert (tmp_path / "results.csv").stat().st_mtime_ns == before


@SLOW
def test_a_study_in_a_database_has_one_directory(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*STUDY, "trainer.epochs=1", "hydra.sweeper.storage=sqlite:///shared.db")
    first = (*overrides, "hydra.sweep.dir=one", "hydra.sweeper.n_trials=1")

    def start_another_first(config: DictConfig) -> Path:
        process = start(tmp_path, *first)
        output = finish(process)
        assert process.returncode == 0, output
        return new_sweep_directory(config)

    monkeypatch.setattr("resnet_sweep.studies.study.new_sweep_directory", start_another_first)
    result = call(main, *overrides, "hydra.sweeper.n_trials=2")
    assert result.returncode == 0, result.stderr
    assert [row["number"] for row in rows(tmp_path / "one")] == ["0", "1"]
    assert not [*tmp_path.glob("multirun/*/*")]

    result = call(main, *overrides, "hydra.sweep.dir=two")
    assert_refused(result, str(tmp_path / "one"), str(tmp_path / "two"), "hydra.sweep.dir")
    assert not (tmp_path / "two").exists()
    # The study continues in its directory after that has been moved.
    (tmp_path / "one").rename(tmp_path / "two")
    result = call(main, *overrides, "hydra.sweep.dir=two", "hydra.sweeper.n_trials=3")
    assert result.returncode == 0, result.stderr
    assert [row["number"] for row in rows(tmp_path / "two")] == ["0", "1", "2"]


def test_a_trial_does_not_fail_if_the_storage_is_unavailable_for_a_moment(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(trial: optuna.Trial, value: float, step: int) -> None:
        monkeypatch.setattr(optuna.Trial, "report", report)
        raise StorageInternalError from SQLAlchemyError("the server is starting up")

    report = optuna.Trial.report
    overrides = (*STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    monkeypatch.setattr(optuna.Trial, "report", fail_once)
    result = call(main, *overrides)
    assert result.returncode == 1
    assert "the server is starting up" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    assert [trial.state.name for trial in trials(tmp_path / "study")] == ["RUNNING"]
    result = call(main, *overrides)
    assert result.returncode == 0, result.stdout
    check_complete(load(f"sqlite:///{tmp_path}/study/study.db"), tmp_path / "study", 1)


def test_a_damaged_storage_ends_a_worker_without_a_traceback(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damage_and_take(queue: TrialQueue) -> TrialLock | None:
        (tmp_path / "study" / "study.db").write_bytes(b"not a database any more" * 100)
        return take(queue)

    take = TrialQueue.take
    monkeypatch.setattr(TrialQueue, "take", damage_and_take)
    result = call(main, *STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    assert result.returncode == 1
    # The output has SQLite's message.
    assert "file is not a database" in result.stdout
    assert {*STUDY} < {*resuming_command(result.stdout)}
    assert "Traceback" not in result.stdout + result.stderr


def test_an_error_of_another_file_is_not_reported_as_one_of_the_storage(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(queue: TrialQueue) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "study/0")

    monkeypatch.setattr(TrialQueue, "take", fail)
    result = call(main, *STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    assert result.returncode == 1
    assert "study/0 " in result.stdout
    assert "storage" not in result.stdout
    assert {*STUDY} < {*resuming_command(result.stdout)}


@pytest.mark.parametrize("storage_fails", ["after the run stops", "before the run stops"])
def test_a_study_that_is_stopped_without_its_storage_exits_with_the_status_of_the_signal(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage_fails: str
) -> None:
    def stop(*arguments: object) -> None:
        (tmp_path / "study" / "study.db").write_bytes(b"not a database any more" * 100)
        if storage_fails == "after the run stops":
            raise Interrupted(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise StorageInternalError from SQLAlchemyError("the server is starting up")

    target = {
        "after the run stops": "resnet_sweep.studies.worker.train_planned",
        "before the run stops": "optuna.Trial.report",
    }[storage_fails]
    monkeypatch.setattr(target, stop)
    result = call(main, *STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    assert result.returncode == 75, result.stdout
    assert {*STUDY} < {*resuming_command(result.stdout)}
    assert "Traceback" not in result.stdout + result.stderr


def test_a_study_continues_if_its_results_cannot_be_written_to_a_full_disk(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module in ("results", "session"):
        monkeypatch.setattr(f"resnet_sweep.studies.{module}.write_atomically", fail)
    overrides = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1", "hydra.sweeper.n_trials=2")
    result = call(main, *overrides)
    assert result.returncode == 0, result.stderr
    assert (result.stdout + result.stderr).count(os.strerror(errno.ENOSPC)) == 1
    assert not (tmp_path / "study" / "results.csv").exists()
    monkeypatch.undo()
    assert call(main, *overrides).returncode == 0
    assert [row["state"] for row in rows(tmp_path / "study")] == ["finished"] * 2


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "override",
    [
        "hydra.sweeper.study_name=other",
        "hydra.sweeper.storage=journal",
        "hydra.sweeper.storage=sqlite:///other.db",
    ],
)
def test_a_directory_of_a_study_with_another_name_or_storage_is_refused(
    call: Command, tmp_path: Path, complete: Path, override: str, dry_run: bool
) -> None:
    directory = complete / "study"
    before = snapshot(directory)
    overrides = (*STUDY, f"hydra.sweep.dir={directory}", f"dry_run={dry_run}", override)
    assert_refused(call(main, *overrides), str(directory), "resnet_sweep", "hydra.sweep.dir")
    assert snapshot(directory) == before
    assert not list(tmp_path.iterdir())


def test_a_directory_of_a_grid_is_refused(call: Command, tmp_path: Path) -> None:
    result = call(main, "--multirun", *SMALL, "trainer.epochs=1", "hydra.sweep.dir=both")
    assert result.returncode == 0, result.stderr
    before = snapshot(tmp_path)
    for dry_run in (True, False):
        result = call(main, *STUDY, "hydra.sweep.dir=both", f"dry_run={dry_run}")
        assert_refused(result, str(tmp_path / "both"), "grid", "hydra.sweep.dir")
        assert snapshot(tmp_path) == before


def test_a_complete_study_in_a_read_only_directory_is_shown(
    call: Command, complete: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    directory = complete / "study"
    before = snapshot(directory)
    for module in ("studies.results", "studies.session", "runs.files"):
        monkeypatch.setattr(f"resnet_sweep.{module}.write_atomically", fail)
    monkeypatch.setattr("resnet_sweep.runs.lock._acquire", fail)
    overrides = (*STUDY, f"hydra.sweep.dir={directory}")
    result = call(main, *overrides, "hydra.sweeper.n_trials=3")
    assert result.returncode == 0, result.stderr
    assert len(commands(result.stdout)) == 1
    result = call(main, *overrides, "hydra.sweeper.n_trials=4")
    assert_refused(result, str(directory), os.strerror(errno.EROFS), "hydra.sweep.dir")
    assert snapshot(directory) == before


def test_the_output_has_four_digits_of_a_number_and_files_and_commands_have_all(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "found")
    result = call(
        main,
        *STUDY,
        "trainer.epochs=1",
        "hydra.sweep.dir=study",
        "hydra.sweeper.n_trials=1",
        "+hydra.job.env_set.OTHER=${oc.env:WORD}",
        "hydra.job.chdir=${dry_run}",
    )
    assert result.returncode == 0, result.stderr
    (trial,) = trials(tmp_path / "study")
    value = trial.params["optim.lr"]
    assert f"optim.lr={value}" in commands(result.stdout)[0]
    assert float(rows(tmp_path / "study")[0]["optim.lr"]) == value
    table = [line for line in result.stdout.splitlines() if "python -m" not in line]
    assert not [line for line in table if re.search(r"\d\.\d{7}", line)]
    assert sum(f"{value:.4g}" in line for line in table) == 3
    # The variables of the job's environment are resolved when the trial is planned.
    text = (tmp_path / "study" / "0" / ".hydra" / "hydra.yaml").read_text()
    job = yaml.safe_load(text)["hydra"]["job"]
    assert (job["env_set"], job["chdir"]) == ({"OTHER": "found"}, False)
