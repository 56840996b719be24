"""Studies through the command line: what they try, prune, refuse and resume."""

import csv
import errno
import json
import os
import re
import shlex
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
from processes import assert_refused, names
from run_directories import write_run
from small_sweep import commands, finish, snapshot, start, wait_for
from sqlalchemy.exc import SQLAlchemyError
from test_study_workers import SMALL, STUDY, check_complete, load, rows

from resnet_sweep.__main__ import main
from resnet_sweep.cli.report import report
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
# A study of three trials, of which the pruner may end one.
WHOLE = (*STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=3")


@pytest.fixture(scope="module")
def whole(once: Once) -> Path:
    """Return the folder in which a study of three trials was carried out; only to be read."""

    def make(folder: Path) -> None:
        done = processes.run(folder, *WHOLE)
        assert done.returncode == 0, done.stderr

    return once("whole_study", make)


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
    def test_trials_are_pruned_as_by_optuna_used_by_hand(
        self, call: Command, tmp_path: Path, pruner: str, settings: dict, total: int
    ) -> None:
        extra = [f"hydra.sweeper.pruner.{key}={value}" for key, value in settings.items()]
        done = call(
            main,
            *STUDY, f"hydra/sweeper/pruner={pruner}", *extra, "hydra.sweep.dir=study",
            f"hydra.sweeper.n_trials={total}", "hydra.sweeper.sampler.seed=2",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        ours = trials(tmp_path / "study")
        classes = {
            "hyperband": "HyperbandPruner", "successive_halving": "SuccessiveHalvingPruner",
            "median": "MedianPruner", "percentile": "PercentilePruner",
        }  # fmt: skip
        study = optuna.create_study(
            study_name="resnet_sweep",
            direction="maximize",
            pruner=getattr(optuna.pruners, classes[pruner])(**settings),
        )
        for trial in ours:
            curve = [float(row["val_acc"]) for row in metrics(tmp_path / f"study/{trial.number}")]
            by_hand, state = study.ask(), "COMPLETE"
            for epoch, value in enumerate(curve, start=1):
                by_hand.report(value, epoch)
                if epoch < 3 and by_hand.should_prune():
                    state = "PRUNED"
                    break
            assert (state, epoch) == (trial.state.name, len(curve))
            pruned = state == "PRUNED"
            study.tell(
                by_hand, None if pruned else max(curve), state=optuna.trial.TrialState[state]
            )
        assert {trial.state.name for trial in ours} == {"COMPLETE", "PRUNED"}
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
        # Epochs that are long enough for the signal to arrive before the last one.
        words = (
            *STUDY, "data.limit_train=200", "trainer.epochs=6", "hydra.sweep.dir=study",
            "hydra/sweeper/pruner=none",
        )  # fmt: skip
        process = start(tmp_path, *words, "hydra.sweeper.n_trials=1")
        run = tmp_path / "study" / "0"
        wait_for(process, run / "checkpoints" / "last_model.pth")
        process.send_signal(number)
        output = finish(process)
        assert process.returncode == status, output
        assert {*words} < {*resuming_command(output)}
        assert record(run)["state"] == "interrupted"
        (stopped,) = trials(tmp_path / "study")
        assert stopped.state.name == "RUNNING"
        curve = metrics(run)
        assert 0 < len(curve) < 6
        (row,) = rows(tmp_path / "study")
        assert row["state"] == "interrupted"

        done = call(main, *words, "hydra.sweeper.n_trials=2")
        assert done.returncode == 0, done.stdout
        # For people, four digits are enough; the command has all of them.
        assert re.search(rf"optim\.lr={stopped.params['optim.lr']:.4g}\b", done.stdout)
        # Their times are the same, so that none of these epochs was trained once more.
        assert metrics(run)[: len(curve)] == curve
        assert len(metrics(run)) == 6
        check_complete(load(f"sqlite:///{tmp_path}/study/study.db"), tmp_path / "study", 2)

    def test_the_same_parameters_are_trained_once(self, call: Command, tmp_path: Path) -> None:
        words = [word for word in STUDY if not word.startswith("optim.lr")]
        done = call(
            main,
            *words, "optim.lr=0.05,0.1", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=4",
            "hydra/sweeper/pruner=none", "hydra/sweeper/sampler=random",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = trials(tmp_path / "study")
        assert len(found) == 4
        values = {trial.params["optim.lr"]: trial.value for trial in found}
        assert len(list((tmp_path / "study").glob("*/run.json"))) == len(values)
        for trial, row in zip(found, rows(tmp_path / "study"), strict=True):
            assert trial.value == values[trial.params["optim.lr"]] == float(row["value"])
            run = record(tmp_path / "study" / row["directory"])
            assert run["best"]["val_acc"] == trial.value
            assert run["config"]["optim"]["lr"] == trial.params["optim.lr"]

    def test_finished_runs_are_its_first_trials_and_the_recipe_comes_next(
        self, command: Command, tmp_path: Path
    ) -> None:
        first = command(*SMALL, "trainer.epochs=1", "optim.lr=0.2", "hydra.run.dir=outputs/earlier")
        assert first.returncode == 0, first.stderr
        done = command(
            *STUDY, "trainer.epochs=1", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1",
            "hydra.sweeper.warm_start=true", "hydra.sweeper.enqueue=current_config",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        earlier, recipe = trials(tmp_path / "study")
        assert earlier.params == {"optim.lr": 0.2}
        assert earlier.value == record(tmp_path / "outputs/earlier")["best"]["val_acc"]
        assert recipe.params == {"optim.lr": 0.1}
        assert rows(tmp_path / "study")[0]["directory"] == "../outputs/earlier"

    @pytest.mark.parametrize(
        ("objective", "direction", "directory"),
        [("val_acc", "maximize", "../outputs/earlier"), ("val_loss", "minimize", "0")],
    )
    def test_a_finished_run_without_metrics_is_reused_for_what_its_record_has(
        self, call: Command, tmp_path: Path, objective: str, direction: str, directory: str
    ) -> None:
        words = (*SMALL, "trainer.epochs=1", f"objective={objective}")
        first = call(main, *words, "optim.lr=0.1", "hydra.run.dir=outputs/earlier")
        assert first.returncode == 0, first.stderr
        (tmp_path / "outputs/earlier/metrics.csv").unlink()
        done = call(
            main,
            *STUDY, *words, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1",
            "hydra.sweeper.enqueue=current_config", f"hydra.sweeper.direction={direction}",
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = rows(tmp_path / "study")
        assert (row["state"], row["directory"]) == ("finished", directory)
        assert float(row["value"]) == trials(tmp_path / "study")[0].value


class TestReplicates:
    def test_a_trial_is_the_mean_over_seeds(self, call: Command, tmp_path: Path) -> None:
        done = call(
            main,
            *STUDY, "replicates=2", "seed=5", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1",
            "hydra/sweeper/pruner=none",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        (trial,) = trials(tmp_path / "study")
        runs = [record(tmp_path / f"study/0/{seed}") for seed in (5, 6)]
        assert [run["seed"] for run in runs] == [5, 6]
        assert trial.value == sum(run["best"]["val_acc"] for run in runs) / 2
        assert set(trial.params) == {"optim.lr"}
        # The command that has the best trial again has its seeds, too.
        assert "replicates=2 seed=5" in done.stdout

    @SLOW
    def test_replicates_found_elsewhere_count_with_those_trained_here(
        self, command: Command, tmp_path: Path
    ) -> None:
        first = command(
            *SMALL, "trainer.epochs=1", "optim.lr=0.1", "seed=5", "hydra.run.dir=outputs/earlier"
        )
        assert first.returncode == 0, first.stderr
        done = command(
            *STUDY, "trainer.epochs=1", "replicates=2", "seed=5", "hydra.sweep.dir=multirun/study",
            "hydra/sweeper/pruner=none", "hydra.sweeper.enqueue=current_config",
            "hydra.sweeper.n_trials=1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        runs = [record(tmp_path / "outputs/earlier"), record(tmp_path / "multirun/study/0/6")]
        assert not (tmp_path / "multirun/study/0/5").exists()
        found = [run["best"]["val_acc"] for run in runs]
        (row,) = rows(tmp_path / "multirun/study")
        assert (row["directory"], row["n"]) == ("0", "2")
        assert float(row["value"]) == float(row["best_val_acc"]) == pytest.approx(fmean(found))
        assert float(row["sd"]) == pytest.approx(stdev(found))
        # A study that begins with finished runs knows them all, too.
        done = command(
            *STUDY, "trainer.epochs=1", "replicates=2", "seed=5", "hydra.sweep.dir=next",
            "hydra.sweeper.n_trials=1", "hydra.sweeper.warm_start=true",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        again = rows(tmp_path / "next")[0]
        assert [again[name] for name in ("value", "best_val_acc", "sd", "n")] == [
            row[name] for name in ("value", "best_val_acc", "sd", "n")
        ]

    @SLOW
    def test_a_trial_is_pruned_between_its_seeds_as_by_hand(
        self, call: Command, tmp_path: Path
    ) -> None:
        done = call(
            main,
            *STUDY, "replicates=3", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=8",
            "hydra/sweeper/pruner=median", "hydra.sweeper.pruner.n_startup_trials=2",
            # The epochs of the first seed aren't judged by, what it came to is.
            "hydra.sweeper.pruner.n_warmup_steps=3", "hydra.sweeper.sampler.seed=1",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
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
            by_hand, state = study.ask(), "COMPLETE"
            curve = [float(row["val_acc"]) for row in metrics(top / "0")]
            reported = [*enumerate(curve, start=1), (6, fmean(bests[:2])), (9, fmean(bests))]
            for step, value in reported:
                by_hand.report(value, step)
                if step < 9 and by_hand.should_prune():
                    state = "PRUNED"
                    break
            assert (state, max(step // 3, 1)) == (trial.state.name, len(bests))
            seeds[len(bests)] += 1
            pruned = state == "PRUNED"
            study.tell(
                by_hand, None if pruned else fmean(bests), state=optuna.trial.TrialState[state]
            )
        # Some were given up after the first seed, and some weren't.
        assert seeds[1] and seeds[3], seeds


def test_several_objectives_have_a_front(call: Command, tmp_path: Path) -> None:
    words = [word for word in STUDY if not word.startswith(("optim.lr", "model.widths"))]
    done = call(
        main,
        *words, "objective=[val_acc,parameters]", "hydra.sweeper.direction=[maximize,minimize]",
        "model.widths=[4,8],[8,16]", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for trial, row in zip(trials(tmp_path / "study"), rows(tmp_path / "study"), strict=True):
        run = record(tmp_path / "study" / row["directory"])
        assert trial.values == [run["best"]["val_acc"], run["parameters"]]


@pytest.mark.parametrize(
    ("words", "facts"),
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
            ["maximize", "objective=val_loss",
             "hydra.sweeper.direction=minimize"],
        ),
        (
            ["objective=[val_acc,seconds]", "hydra.sweeper.direction=[maximize,minimize]",
             "hydra/sweeper/pruner=median"],
            ["MedianPruner", "2", "hydra/sweeper/pruner=none"],
        ),
        (
            ["hydra.sweeper.storage=sqlite:////nowhere/x.db"],
            ["hydra.sweeper.storage", "/nowhere/x.db"],
        ),
        (["hydra.sweeper.enqueue=[{optim.lr: 5}]"], ["hydra.sweeper.enqueue", "optim.lr=5"]),
        (
            ["hydra/sweeper/sampler=grid", "optim.lr=0.1,0.2",
             "hydra.sweeper.enqueue=current_config"],
            ["hydra.sweeper.enqueue", "grid", "hydra/sweeper/sampler"],
        ),
        (["trainer.resume=false"], ["trainer.resume=false"]),
    ],
)  # fmt: skip
def test_bad_requests_touch_nothing(
    call: Command, tmp_path: Path, words: list[str], facts: list[str]
) -> None:
    assert_refused(call(main, *STUDY, *words, "hydra.sweep.dir=study"), *facts)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("words", [(), ("hydra.sweep.dir=new/study",)])
def test_a_shared_study_of_another_program_is_refused_without_a_new_directory(
    call: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    study = optuna.create_study(storage=url, study_name="resnet_sweep", direction="maximize")
    study.ask()
    done = call(main, *STUDY, f"hydra.sweeper.storage={url}", *words)
    assert_refused(done, "resnet_sweep", "hydra.sweeper.study_name")
    assert [path.name for path in tmp_path.iterdir()] == ["shared.db"]


def test_a_study_with_a_wrong_corner_is_refused_before_anything_is_written(
    call: Command, tmp_path: Path
) -> None:
    done = call(main, *STUDY, "optim.lr=interval(-0.1,0.3)", "hydra.sweep.dir=study")
    assert done.returncode == 2
    assert names(done.stderr, "optim.lr=-0.1")
    assert not names(done.stderr, "optim.lr=0.3")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "name", "there", "here"),
    [
        ("optim.lr=interval(0.01,0.2)", "optim.lr", "0.3", "0.2"),
        ("trainer.epochs=4", "trainer.epochs", "3", "4"),
    ],
)
def test_another_study_in_its_directory_is_refused(
    call: Command, whole: Path, change: str, name: str, there: str, here: str
) -> None:
    directory = whole / "study"
    before = (directory / "results.csv").read_bytes()
    done = call(main, *WHOLE[:-2], f"hydra.sweep.dir={directory}", WHOLE[-1], change)
    assert_refused(done, name, "hydra.sweep.dir", "hydra.sweeper.study_name")
    pattern = rf"{re.escape(name)}\b.*\b{there}\b.*\b{here}\b"
    assert re.search(pattern, done.stderr), done.stderr
    assert (directory / "results.csv").read_bytes() == before


def test_texts_of_plots_have_four_digits(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(directions=["maximize", "minimize"], storage=storage)
    for _ in range(3):
        trial = study.ask({"lr": optuna.distributions.FloatDistribution(0.1, 0.3)})
        study.tell(trial, [trial.params["lr"] / 3, 2.0])
    (plotted,) = plot_studies([tmp_path])
    front = json.dumps(plotted["figures"][0])
    assert plotted["figures"][0]["title"] == "Pareto front"
    for trial in study.trials:
        assert f"{trial.params['lr']:.4g}" in front
    assert not re.search(r"[a-z\"]+: \d\.\d{5}", front)


def test_the_report_of_a_study_has_its_plots(whole: Path, tmp_path: Path) -> None:
    page = report([str(whole / "study")], tmp_path / "page.html").read_text()
    content = json.loads(page.split('id="report">')[1].split("</script>")[0])
    (study,) = content["studies"]
    titles = [figure["title"] for figure in study["figures"]]
    assert titles[0] == "Optimisation history"
    assert {"Slices", "Parallel coordinates", "Epochs of each trial"} <= {*titles}


class TestSearchSpace:
    @pytest.mark.parametrize(
        ("word", "corners"),
        [
            ("a=interval(0.1,0.3)", [0.1, 0.3]),
            ("a=range(1,6,2)", [1, 5]),
            ("a=x,y,z", ["x", "y", "z"]),
            ("a=tag(log,interval(1e-4,1e-1))", [1e-4, 1e-1]),
        ],
    )
    def test_its_corners_are_the_ends_of_ranges_and_all_choices(
        self, word: str, corners: list
    ) -> None:
        assert [corner["a"] for corner in SearchSpace([word]).corners()] == corners

    def test_values_of_another_type_are_converted_where_that_is_exact(self) -> None:
        space = SearchSpace(["a=range(16,129,16)", "b=interval(0.01,1.0)", "c=0.1,x"])
        found = space.parameters({"a": 64.0, "b": "0.1", "c": 0.1})
        assert found == {"a": 64, "b": 0.1, "c": 0.1}
        assert type(found["a"]) is int
        assert type(space.parameters({"a": "64", "b": 1, "c": "x"})["b"]) is float
        for wrong in ({"a": 64.5}, {"a": 65}, {"a": "many"}, {"a": True}, {"b": float("nan")}):
            ((key, value),) = wrong.items()
            with pytest.raises(ConfigError, match=rf"(?i){key}=.*{value}"):
                space.parameters(found | wrong)

    def test_the_later_word_holds(self) -> None:
        assert SearchSpace(["a=1,2", "b=1,2", "a=3"]).fixed == {"a": "a=3"}
        assert [*SearchSpace(["a=3", "a=1,2"]).distributions] == ["a"]

    def test_a_choice_of_one_value_is_fixed(self) -> None:
        space = SearchSpace(["a=1,2", "b=choice(3)", r"c=choice('x, y')", "d=choice([4,null])"])
        assert [*space.distributions] == ["a"]
        assert space.fixed == {"b": "b=3", "c": r"c=x\,\ y", "d": "d=[4,null]"}


def test_a_failed_trial_is_recorded_and_the_study_continues(call: Command, tmp_path: Path) -> None:
    words = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1", "hydra.sweeper.n_trials=3")
    # The directory of trial 1 is taken by something else.
    (tmp_path / "study" / "1").mkdir(parents=True)
    (tmp_path / "study" / "1" / "notes.txt").touch()
    done = call(main, *words)
    assert done.returncode == 1
    assert [row["state"] for row in rows(tmp_path / "study")][1] == "failed"
    assert [trial.state.name for trial in trials(tmp_path / "study")][1] == "FAIL"
    assert "notes.txt" in rows(tmp_path / "study")[1]["reason"]
    assert len(trials(tmp_path / "study")) == 3
    done = call(main, *words[:-1], "hydra.sweeper.n_trials=4", "hydra.sweeper.max_failures=1")
    assert done.returncode == 1
    # A failure is as many as it may have, so there is no fourth trial.
    assert len(trials(tmp_path / "study")) == 3


def test_the_sampler_repeats_a_trial_and_no_other() -> None:
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
    ("word", "values"),
    [
        ("a=x,y", ["x", "y"]),
        ("a=range(1,6,2)", [1, 3, 5]),
        ("a=range(0.1,0.5,0.1)", [0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_a_grid_has_all_values_of_a_key(word: str, values: list) -> None:
    space = SearchSpace([word])
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


class Queue(NamedTuple):
    """A study in memory, its storage, and its queue."""

    study: optuna.Study
    storage: optuna.storages.BaseStorage
    queue: TrialQueue


@pytest.fixture
def memory(tmp_path: Path) -> Queue:
    """Return a study with an empty search space, three trials long."""
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage)
    return Queue(study, storage, TrialQueue(study, storage, tmp_path, 3))


def start_trial(study: optuna.Study, storage: optuna.storages.BaseStorage) -> int:
    """Return the storage's id of a running trial whose worker hasn't written a heartbeat."""
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.WAITING))
    trial_id = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), study.get_trials()[-1].number
    )
    storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING)
    return trial_id


def test_a_trial_whose_like_failed_is_the_one_that_trains(memory: Queue, tmp_path: Path) -> None:
    study, _, queue = memory
    first, second, third = (study.ask() for _ in range(3))
    assert not queue.is_duplicate(first, "s")
    assert queue.is_duplicate(second, "s")
    study.tell(first.number, state=optuna.trial.TrialState.FAIL)
    assert not queue.is_duplicate(second, "s")
    assert TrialResult(study.trials[1], tmp_path, Objective()).reason == ""
    assert queue.is_duplicate(third, "s")
    assert TrialResult(study.trials[2], tmp_path, Objective()).reason == "same as trial 1"


def test_a_preset_chooses_the_sweeper_and_the_command_line_wins(
    call: Command, tmp_path: Path
) -> None:
    small = [word for word in SMALL if not word.startswith("experiment=")]
    preset = ("sweep=optuna_sgd", "experiment=quickstart", *small, "dry_run=true")
    words = (*preset, "hydra.sweeper.params.data\\.holdout=20")
    done = call(main, *preset, "data.holdout=20")
    assert done.returncode == 0, done.stderr
    assert "TPESampler" in done.stdout
    assert "optim.momentum" in done.stdout
    done = call(main, *words[:-1], "hydra/sweeper=grid")
    # A grid has neither samplers nor intervals.
    assert done.returncode == 2
    assert "TPESampler" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_trial_that_kills_its_workers_fails_only_where_a_limit_is_set(
    call: Command, tmp_path: Path
) -> None:
    words = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1")
    assert call(main, *words, "hydra.sweeper.n_trials=1").returncode == 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study/study.db")
    study = load(storage)
    # Two trials as workers that are gone leave them, the third in a row.
    for _ in range(2):
        heartbeat = {"host": socket.gethostname(), "process": 1, "renewed": 0, "epochs": 0}
        storage.set_trial_user_attr(
            start_trial(study, storage), "heartbeat", heartbeat | {"crashes": 2}
        )
    done = call(main, *words, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stdout
    assert trials(tmp_path / "study")[1].state.is_finished()
    assert trials(tmp_path / "study")[1].state.name != "FAIL"
    done = call(main, *words, "hydra.sweeper.n_trials=3", "hydra.sweeper.max_worker_crashes=3")
    assert done.returncode == 1
    assert trials(tmp_path / "study")[2].state.name == "FAIL"
    assert re.search(r"\b3\b", rows(tmp_path / "study")[2]["reason"])


def test_a_trial_of_another_machine_is_taken_over_only_when_that_is_silent(
    memory: Queue, tmp_path: Path
) -> None:
    study, storage, _ = memory
    trial = start_trial(study, storage)
    heartbeat = {"host": "elsewhere", "process": 1, "epochs": 0, "crashes": 0}
    for silent in (10, 110):
        renewed = {"renewed": time.time() - silent}
        storage.set_trial_user_attr(trial, "heartbeat", heartbeat | renewed)
        with pytest.raises(ConfigError, match="trial 0"):
            TrialLock(storage, trial, 0, tmp_path)
    storage.set_trial_user_attr(trial, "heartbeat", heartbeat | {"renewed": time.time() - 130})
    lock = TrialLock(storage, trial, 0, tmp_path)
    assert lock.number == 0 and lock.is_owned()
    lock.release()


def test_a_trial_counts_the_workers_that_crashed_without_completing_an_epoch(
    memory: Queue, tmp_path: Path
) -> None:
    study, storage, _ = memory
    trial = start_trial(study, storage)
    lost = {"host": "elsewhere", "process": 1, "renewed": 0, "epochs": 0, "crashes": 1}
    storage.set_trial_user_attr(trial, "heartbeat", lost)
    # Workers that find the trial's run still locked haven't crashed.
    for _ in range(2):
        lock = TrialLock(storage, trial, 0, tmp_path)
        assert lock.crashes == 2
        lock.revert()
        assert storage.get_trial(trial).user_attrs["heartbeat"] == lost
    # An epoch of any of its replicates counts.
    write_run(tmp_path / "0" / "1")
    lock = TrialLock(storage, trial, 0, tmp_path)
    assert lock.crashes == 0
    lock.release()


def test_results_of_ended_trials_are_read_once_and_files_written_at_a_limited_rate(
    memory: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, queue = memory
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
    words = (*STUDY, "trainer.epochs=1", "hydra.sweeper.storage=sqlite:///shared.db")
    here = (*words, "hydra.sweep.dir=one", "hydra.sweeper.n_trials=1")

    def start_meanwhile(config: DictConfig) -> Path:
        process = start(tmp_path, *here)
        output = finish(process)
        assert process.returncode == 0, output
        return new_sweep_directory(config)

    monkeypatch.setattr("resnet_sweep.studies.study.new_sweep_directory", start_meanwhile)
    done = call(main, *words, "hydra.sweeper.n_trials=2")
    assert done.returncode == 0, done.stderr
    assert [row["number"] for row in rows(tmp_path / "one")] == ["0", "1"]
    assert not [*tmp_path.glob("multirun/*/*")]

    done = call(main, *words, "hydra.sweep.dir=two")
    assert_refused(done, str(tmp_path / "one"), str(tmp_path / "two"), "hydra.sweep.dir")
    assert not (tmp_path / "two").exists()
    # Once it is moved, that is where it continues.
    (tmp_path / "one").rename(tmp_path / "two")
    done = call(main, *words, "hydra.sweep.dir=two", "hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stderr
    assert [row["number"] for row in rows(tmp_path / "two")] == ["0", "1", "2"]


def test_a_storage_that_is_away_for_a_moment_fails_no_trial(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_once(trial: optuna.Trial, value: float, step: int) -> None:
        monkeypatch.setattr(optuna.Trial, "report", report)
        raise StorageInternalError from SQLAlchemyError("the server is starting up")

    report = optuna.Trial.report
    words = (*STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    monkeypatch.setattr(optuna.Trial, "report", lose_once)
    done = call(main, *words)
    assert done.returncode == 1
    assert "the server is starting up" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert [trial.state.name for trial in trials(tmp_path / "study")] == ["RUNNING"]
    done = call(main, *words)
    assert done.returncode == 0, done.stdout
    check_complete(load(f"sqlite:///{tmp_path}/study/study.db"), tmp_path / "study", 1)


def test_a_storage_that_goes_away_ends_a_worker_without_a_traceback(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(queue: TrialQueue) -> TrialLock | None:
        (tmp_path / "study" / "study.db").write_bytes(b"no database any more" * 100)
        return take(queue)

    take = TrialQueue.take
    monkeypatch.setattr(TrialQueue, "take", lose)
    done = call(main, *STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    assert done.returncode == 1
    # SQLite's own words say what is wrong with the file.
    assert "file is not a database" in done.stdout
    assert {*STUDY} < {*resuming_command(done.stdout)}
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("lost", ["while it is stopped", "before it is"])
def test_a_study_that_is_stopped_while_its_storage_is_away_says_so_by_its_status(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    def lose(*arguments: object) -> None:
        (tmp_path / "study" / "study.db").write_bytes(b"no database any more" * 100)
        if lost == "while it is stopped":
            raise Interrupted(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        raise StorageInternalError from SQLAlchemyError("the server is starting up")

    target = {
        "while it is stopped": "resnet_sweep.studies.worker.train_planned",
        "before it is": "optuna.Trial.report",
    }[lost]
    monkeypatch.setattr(target, lose)
    done = call(main, *STUDY, "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1")
    assert done.returncode == 75, done.stdout
    assert {*STUDY} < {*resuming_command(done.stdout)}
    assert "Traceback" not in done.stdout + done.stderr


def test_a_full_disk_that_keeps_results_from_being_written_ends_no_study(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module in ("results", "session"):
        monkeypatch.setattr(f"resnet_sweep.studies.{module}.write_atomically", fail)
    words = (*STUDY, "hydra.sweep.dir=study", "trainer.epochs=1", "hydra.sweeper.n_trials=2")
    done = call(main, *words)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count(os.strerror(errno.ENOSPC)) == 1
    assert not (tmp_path / "study" / "results.csv").exists()
    monkeypatch.undo()
    assert call(main, *words).returncode == 0
    assert [row["state"] for row in rows(tmp_path / "study")] == ["finished"] * 2


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "word",
    [
        "hydra.sweeper.study_name=other",
        "hydra.sweeper.storage=journal",
        "hydra.sweeper.storage=sqlite:///other.db",
    ],
)
def test_a_directory_of_another_study_is_refused(
    call: Command, tmp_path: Path, whole: Path, word: str, dry_run: bool
) -> None:
    directory = whole / "study"
    before = snapshot(directory)
    words = (*STUDY, f"hydra.sweep.dir={directory}", f"dry_run={dry_run}", word)
    assert_refused(call(main, *words), str(directory), "resnet_sweep", "hydra.sweep.dir")
    assert snapshot(directory) == before
    assert not list(tmp_path.iterdir())


def test_a_directory_of_a_grid_is_refused(call: Command, tmp_path: Path) -> None:
    done = call(main, "--multirun", *SMALL, "trainer.epochs=1", "hydra.sweep.dir=both")
    assert done.returncode == 0, done.stderr
    before = snapshot(tmp_path)
    for dry_run in (True, False):
        done = call(main, *STUDY, "hydra.sweep.dir=both", f"dry_run={dry_run}")
        assert_refused(done, str(tmp_path / "both"), "grid", "hydra.sweep.dir")
        assert snapshot(tmp_path) == before


def test_a_finished_study_is_shown_where_nothing_can_be_written(
    call: Command, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    directory = whole / "study"
    before = snapshot(directory)
    for module in ("studies.results", "studies.session", "runs.files"):
        monkeypatch.setattr(f"resnet_sweep.{module}.write_atomically", fail)
    monkeypatch.setattr("resnet_sweep.runs.lock._acquire", fail)
    words = (*STUDY, f"hydra.sweep.dir={directory}")
    done = call(main, *words, "hydra.sweeper.n_trials=3")
    assert done.returncode == 0, done.stderr
    assert len(commands(done.stdout)) == 1
    done = call(main, *words, "hydra.sweeper.n_trials=4")
    assert_refused(done, str(directory), os.strerror(errno.EROFS), "hydra.sweep.dir")
    assert snapshot(directory) == before


def test_numbers_have_four_digits_for_people_and_all_of_them_in_files_and_commands(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "found")
    done = call(
        main,
        *STUDY, "trainer.epochs=1", "hydra.sweep.dir=study", "hydra.sweeper.n_trials=1",
        "+hydra.job.env_set.OTHER=${oc.env:WORD}", "hydra.job.chdir=${dry_run}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (trial,) = trials(tmp_path / "study")
    value = trial.params["optim.lr"]
    assert f"optim.lr={value}" in commands(done.stdout)[0]
    assert float(rows(tmp_path / "study")[0]["optim.lr"]) == value
    table = [line for line in done.stdout.splitlines() if "python -m" not in line]
    assert not [line for line in table if re.search(r"\d\.\d{7}", line)]
    assert sum(f"{value:.4g}" in line for line in table) == 3
    # What the job's environment is made of is stored as it was when the trial was planned.
    text = (tmp_path / "study" / "0" / ".hydra" / "hydra.yaml").read_text()
    job = yaml.safe_load(text)["hydra"]["job"]
    assert (job["env_set"], job["chdir"]) == ({"OTHER": "found"}, False)
