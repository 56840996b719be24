"""Grid sweeps: dry runs, resuming, the files that are written, failures and the summary."""

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import processes
import pytest
from conftest import Command, Once
from filelock import FileLock
from omegaconf import OmegaConf
from processes import assert_refused
from small_sweep import (
    GRID,
    TINY,
    assert_same_runs,
    commands,
    dry_run_jobs,
    finish,
    job_faults,
    leftovers,
    manifest,
    numbers,
    records,
    results,
    snapshot,
    start,
    wait_for,
    write_faulty_transform,
)

from resnet_sweep.__main__ import main
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.runs.lock import DirectoryLock
from resnet_sweep.sweeps import plan, runner
from resnet_sweep.sweeps.manifest import Manifest, SweepDefinition

SWEEP = ("--multirun", *TINY, "hydra.sweep.dir=sweep")
SHORT = (*SWEEP, "trainer.max_steps=1")
ONE_FAILS = (*SWEEP, "trainer.max_steps=3", *job_faults(*["none"] * 3, "error", *["none"] * 6))
# The process of the second job kills itself, as the system kills it when memory runs out.
ONE_IS_KILLED = (*SWEEP, "trainer.epochs=3", *job_faults("none", "SIGKILL", "none"))


@pytest.fixture
def undisturbed(once: Once) -> Path:
    """Return the directory of an uninterrupted sweep with four jobs."""

    def run(folder: Path) -> None:
        process = start(folder, *GRID)
        output = finish(process)
        assert process.returncode == 0, output

    return once("undisturbed_sweep", run) / "sweep"


@pytest.fixture
def sweep(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of the undisturbed sweep, which a test may change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "sweep"))


def lines_with(output: str, *facts: object) -> list[str]:
    """Return the lines that contain all facts; an integer must be a whole number in the line."""
    return [
        line
        for line in output.splitlines()
        if all(
            fact in numbers(line) if isinstance(fact, int) else str(fact) in line for fact in facts
        )
    ]


class TestDryRun:
    def test_it_lists_the_jobs_and_writes_no_files(self, command: Command, tmp_path: Path) -> None:
        result = command(*GRID, "dry_run=true", "zip=[optim.lr,seed]")
        assert result.returncode == 0, result.stderr
        assert dry_run_jobs(result.stdout) == [
            (0, "pending", ["0.1", "0"]),
            (1, "pending", ["0.05", "1"]),
        ]
        (header,) = (line for line in result.stdout.splitlines() if "state" in line.split())
        assert header.index("optim.lr") < header.index("seed")
        # The summary has the number of jobs, the settings that vary and those that are paired.
        assert lines_with(result.stdout, 2, "optim.lr", "seed")
        assert len(lines_with(result.stdout, "optim.lr", "seed")) == 3
        assert not list(tmp_path.iterdir())

    def test_it_counts_the_finished_and_the_pending_jobs(
        self, call: Command, undisturbed: Path
    ) -> None:
        before = snapshot(undisturbed)
        result = call(
            main,
            *GRID,
            f"hydra.sweep.dir={undisturbed}",
            "optim.lr=0.1,0.05,0.2",
            "dry_run=true",
        )
        assert result.returncode == 0, result.stderr
        states = [state for _, state, _ in dry_run_jobs(result.stdout)]
        assert states == ["finished"] * 4 + ["pending"] * 2
        summary = result.stdout.splitlines()[len(states) + 1 :]
        counts = [numbers(line)[:1] for line in summary]
        assert all([count] in counts for count in (6, 4, 2))
        assert snapshot(undisturbed) == before

    def test_it_names_duplicate_jobs_and_counts_those_that_a_filter_removes(
        self, call: Command
    ) -> None:
        result = call(
            main,
            *SWEEP,
            "optim.lr=0.1,1e-1,0.2",
            "augmentation=standard,[standard]",
            "seed=0,1",
            "dry_run=true",
            "sweep_filter='optim.lr == 0.1 or seed == 0'",
        )
        assert result.returncode == 0, result.stderr
        assert [rest for *_, rest in dry_run_jobs(result.stdout)] == [
            ["0.1", "0"],
            ["0.1", "1"],
            ["0.2", "0"],
        ]
        assert lines_with(result.stdout, "sweep_filter", 2)
        for seed in (0, 1):
            same = lines_with(
                result.stdout, "augmentation=[standard]", f"seed={seed}", f"job {seed}"
            )
            assert len(same) == 2
        # The repeated value is shown as it was typed.
        assert lines_with(result.stdout, "optim.lr=0.1,1e-1,0.2", 2)

    def test_an_error_names_every_invalid_job(self, command: Command, tmp_path: Path) -> None:
        result = command(*SWEEP, "optim.lr=0.1,-1", "model=resnet8v2,resnet99", "seed=0,1")
        assert result.returncode == 2
        first, *lines = result.stderr.splitlines()
        assert first.startswith("error: ")
        assert {6, 8} <= {*numbers(first)}
        jobs = [f"optim.lr=-1 model=resnet8v2 seed={seed}" for seed in (0, 1)]
        jobs += [
            f"optim.lr={lr} model=resnet99 seed={seed}" for lr in ("0.1", "-1") for seed in (0, 1)
        ]
        for job in jobs:
            assert sum(job in line for line in lines) == 1, job
        reasons = [line for line in lines if "seed=" not in line]
        assert len(reasons) == 2
        assert sum("model=resnet99" in reason for reason in reasons) == 1
        assert sum("optim.lr" in reason and "-1" in reason for reason in reasons) == 1
        assert "Traceback" not in result.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("overrides", "facts"),
        [
            ("replicates=0", ["replicates", "1", "1000"]),
            ("replicates=-3", ["replicates", "-3"]),
            ("dry_run=preview", ["dry_run", "preview", "true or false"]),
            ("retry_faild=false", ["retry_faild", "did you mean retry_failed?"]),
            ("sweep_filter='optim.lrr > 1'", ["optim.lrr", "did you mean optim.lr?"]),
            ("sweep_filter='optim.lr > 1'", ["sweep_filter=optim.lr > 1", "2"]),
            ("sweep_filter='import os'", ["import os"]),
            ("sweep_filter='optim == adamw'", ["adamw", '"adamw"']),
            ("baseline='optim.lr = 1'", ["optim.lr = 1"]),
            ("baseline='sede == 0'", ["sede", "did you mean seed?"]),
            ("logger=[]", ["logger"]),
            ("objective=distance_to_reference", ["distance_to_reference", "reference="]),
            ("hydra/launcher=pool hydra.launcher.workers=0", ["hydra.launcher.workers", "0"]),
            ("hydra.sweep.subdir=../x", ["hydra.sweep.subdir=../x"]),
            (f"hydra.sweep.dir={__file__}/x", [f"hydra.sweep.dir={__file__}/x", __file__]),
            ("seed=range(0,10000000)", ["100,000"]),
            ("optim.lr=range(1,60001)", ["120,000", "100,000"]),
            ("hydra.sweep.dir=''", ["hydra.sweep.dir=''"]),
        ],
    )
    def test_invalid_settings_of_a_sweep_are_refused(
        self, call: Command, tmp_path: Path, overrides: str, facts: list[str]
    ) -> None:
        overrides = shlex.split(overrides) if "hydra/launcher" in overrides else [overrides]
        assert_refused(call(main, *SWEEP, "seed=0,1", *overrides), *facts)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("override", "wrong", "count", "facts"),
        [
            ("replicates=1,2", 2, 4, ["replicates=2"]),
            ("hydra.sweep.subdir=x", 1, 2, ["hydra.sweep.subdir=x", "${hydra.job.num}"]),
        ],
    )
    def test_settings_that_are_invalid_in_some_jobs_are_refused(
        self, call: Command, tmp_path: Path, override: str, wrong: int, count: int, facts: list[str]
    ) -> None:
        result = call(main, *SWEEP, "seed=0,1", override)
        assert result.returncode == 2
        first, *jobs, reason = result.stderr.splitlines()
        assert first.startswith("error: ")
        assert {wrong, count} <= {*numbers(first)}
        assert len(jobs) == wrong
        for fact in facts:
            assert fact in reason
        assert not list(tmp_path.iterdir())


class TestResuming:
    def test_an_extended_sweep_trains_only_the_new_jobs(
        self, command: Command, call: Command, sweep: Path
    ) -> None:
        before = {name: snapshot(sweep / name) for name in "0123"}
        extended = (*GRID, "optim.lr=0.2,0.1,0.05", "sweep_filter='optim.lr < 0.2 or seed == 1'")
        result = command(*extended)
        assert result.returncode == 0, result.stderr
        assert {name: snapshot(sweep / name) for name in "0123"} == before
        # Old jobs keep their numbers, and a new job gets the next number.
        jobs = [("0.1", "0"), ("0.1", "1"), ("0.05", "0"), ("0.05", "1"), ("0.2", "1")]
        assert [(line["number"], line["overrides"][-2:]) for line in manifest(sweep)] == [
            (number, [f"optim.lr={lr}", f"seed={seed}"]) for number, (lr, seed) in enumerate(jobs)
        ]
        runs = {"0.1": "2", "0.05": "2", "0.2": "1"}
        assert [
            (line["number"], line["state"], line["optim.lr"], line["seed"], line["n"])
            for line in results(sweep)
        ] == [
            (str(number), "finished", lr, seed, runs[lr]) for number, (lr, seed) in enumerate(jobs)
        ]
        # Without a valid sweep.json, a sweep is resumed from the directories of its runs.
        (sweep / "sweep.json").write_text("{")
        result = call(main, *GRID, "optim.lr=0.2,0.1,0.05", "dry_run=true")
        states = [state for _, state, _ in dry_run_jobs(result.stdout)]
        assert states == ["finished"] * 5 + ["pending"]

    def test_a_sweep_without_the_jobs_of_its_existing_runs_is_refused(
        self, command: Command, call: Command, tmp_path: Path
    ) -> None:
        own = tmp_path / "mine" / "optim" / "own.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [sgd]\nlr: 0.1\n")
        overrides = ("--config-dir", "mine", *SHORT, "optim=own")
        assert command(*overrides, "seed=0,1").returncode == 0
        before = snapshot(tmp_path / "sweep")
        # The error names each job that the command no longer has, and both values of a setting.
        result = call(main, *overrides, "seed=0")
        assert_refused(result, "job 1", "seed: 1", "0", "hydra.sweep.dir")
        assert "job 0" not in result.stderr
        result = call(main, *overrides, "seed=0,1", "trainer.epochs=3")
        assert_refused(result, "job 0", "job 1", "hydra.sweep.dir")
        assert len(re.findall(r"trainer\.epochs: 2\D+3\b", result.stderr)) == 2
        own.write_text("defaults: [sgd]\nlr: 0.2\n")
        result = call(main, *overrides, "seed=0,1")
        assert_refused(result, "optim.lr: 0.1", "0.2", "hydra.sweep.dir")
        assert snapshot(tmp_path / "sweep") == before

    def test_finished_runs_in_other_directories_are_reused_unless_reuse_is_false(
        self, command: Command, tmp_path: Path
    ) -> None:
        assert command(*TINY, "trainer.max_steps=1", "seed=1").returncode == 0
        overrides = ("--multirun", *TINY, "trainer.max_steps=1", "seed=0,1")
        first, other = tmp_path / "multirun" / "first", "hydra.sweep.dir=multirun/other"
        assert command(*overrides, "hydra.sweep.dir=multirun/first").returncode == 0
        assert sorted(path.name for path in first.glob("*/")) == ["0", "1"]
        assert [line["reused"] for line in manifest(first)] == [False, True]
        assert [line["state"] for line in results(first)] == ["finished", "finished"]
        # The sweep has both runs, and a run that is in both folders is found once.
        both = [tmp_path / "multirun", tmp_path / "outputs"]
        assert [len(find_runs(folders)) for folders in ([first], both)] == [2, 2]
        result = command(*overrides, other, "dry_run=true")
        jobs = [(state, rest[0]) for _, state, rest in dry_run_jobs(result.stdout)]
        assert jobs == [("finished", "(reused)")] * 2
        result = command(*overrides, other, "dry_run=true", "reuse=false")
        assert [state for _, state, _ in dry_run_jobs(result.stdout)] == ["pending"] * 2

    def test_a_reused_run_is_shown_with_the_experiment_of_the_sweep(
        self, command: Command, tmp_path: Path
    ) -> None:
        overrides = (
            "model=resnet8v2",
            "data=digits",
            "trainer.batch_size=20",
            *TINY[1:],
            "trainer.max_steps=1",
        )
        assert command(*overrides).returncode == 0
        baseline = 'experiment == "logged_run_1"'
        sweep = (
            "--multirun",
            *overrides,
            "experiment=logged_run_1,lr_0.05",
            f"baseline='{baseline}'",
            "hydra.sweep.dir=sweep",
        )
        # The second command reads the sweep from its directory.
        for _ in range(2):
            result = command(*sweep)
            assert result.returncode == 0, result.stderr
            # The reused run is the baseline.
            assert lines_with(result.stdout, "logged_run_1 ", " baseline")
            assert [line["reused"] for line in manifest(tmp_path / "sweep")] == [True, False]
            names = [line["experiment"] for line in results(tmp_path / "sweep")]
            assert names == ["logged_run_1", "lr_0.05"]
        experiments = {run.choices.get("experiment") for run in find_runs([tmp_path / "sweep"])}
        assert experiments == {"logged_run_1", "lr_0.05"}
        # In its own directory, the run keeps the choices that it was trained with.
        (run,) = find_runs([tmp_path / "outputs"])
        assert "experiment" not in run.choices

    def test_a_sweep_with_resume_false_trains_all_jobs_again(
        self, command: Command, tmp_path: Path
    ) -> None:
        sweep = tmp_path / "sweep"
        assert command(*SHORT, "seed=0,1").returncode == 0
        metrics = {name: (sweep / name / "metrics.csv").stat() for name in "01"}
        started = {name: record["started"] for name, record in records(sweep).items()}
        result = command(*SHORT, "seed=0,1", "trainer.resume=false")
        assert result.returncode == 0, result.stderr
        assert list(records(sweep)) == ["0", "1"]
        for name, old in metrics.items():
            assert (sweep / name / "metrics.csv").stat().st_mtime_ns > old.st_mtime_ns
            assert records(sweep)[name]["started"] > started[name]
            assert records(sweep)[name]["state"] == "finished"

    def test_interpolations_in_overrides_are_resolved_in_each_job(
        self, command: Command, tmp_path: Path
    ) -> None:
        result = command(
            *SHORT,
            "optim.lr=0.1,0.05",
            "optim.weight_decay=${optim.lr}",
            "hydra.sweep.subdir='job ${hydra.job.num} é'",
        )
        assert result.returncode == 0, result.stderr
        runs = records(tmp_path / "sweep")
        assert list(runs) == ["job 0 é", "job 1 é"]
        for record in runs.values():
            assert record["config"]["optim"]["weight_decay"] == record["config"]["optim"]["lr"]
            # The record has the override in the form that Hydra writes and reads.
            assert r"optim.weight_decay=$\{optim.lr\}" in record["overrides"]

    def test_the_configs_of_all_jobs_are_composed_when_the_sweep_starts(
        self, tmp_path: Path
    ) -> None:
        own = tmp_path / "mine" / "optim" / "own.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [sgd]\nlr: 0.1\n")
        process = start(tmp_path, "--config-dir", "mine", *SWEEP, "optim=own", "seed=0,1")
        wait_for(process, tmp_path / "sweep" / "sweep.json")
        own.write_text("defaults: [sgd]\nlr: nonsense\n")
        output = finish(process)
        assert process.returncode == 0, output
        runs = records(tmp_path / "sweep").values()
        assert [record["config"]["optim"]["lr"] for record in runs] == [0.1, 0.1]

    def test_a_second_process_on_the_same_sweep_is_refused(
        self, call: Command, tmp_path: Path
    ) -> None:
        overrides = (*SWEEP, "trainer.epochs=500", "seed=0,1")
        process = start(tmp_path, *overrides)
        wait_for(process, tmp_path / "sweep" / "0" / "run.json")
        second = call(main, *overrides)
        assert_refused(second, str(process.pid), str(tmp_path / "sweep"), "hydra.sweep.dir")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode == 75, output
        (resume,) = commands(output)
        assert resume.endswith("hydra.sweep.dir=sweep")
        assert [0, 2] in map(numbers, output.splitlines())
        states = [line["state"] for line in manifest(tmp_path / "sweep")]
        assert states == ["interrupted", "pending"]
        assert json.loads((tmp_path / "sweep/sweep.json").read_text())["heartbeat"] is None

    def test_a_sweep_that_another_process_changes_during_planning_is_refused(
        self, call: Command, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan_sweep = runner.SweepPlan
        changed = {}

        def plan_and_run_another(*arguments: object) -> object:
            planned = plan_sweep(*arguments)
            result = command(*SHORT, "seed=5")
            assert result.returncode == 0, result.stderr
            changed.update(snapshot(tmp_path / "sweep"))
            return planned

        monkeypatch.setattr(runner, "SweepPlan", plan_and_run_another)
        assert_refused(call(main, *SHORT, "seed=100,101"), str(tmp_path / "sweep"))
        assert changed
        # The lock file of the sweep has been removed.
        assert snapshot(tmp_path / "sweep") == changed

    @pytest.mark.parametrize("obstacle", ["a file", "a file in the directory", "a file .hydra"])
    def test_a_job_whose_directory_cannot_be_used_is_refused_before_any_job_starts(
        self, call: Command, tmp_path: Path, obstacle: str
    ) -> None:
        directory = tmp_path / "sweep" / "1"
        directory.parent.mkdir()
        if obstacle == "a file":
            directory.touch()
        else:
            directory.mkdir()
            (directory / (".hydra" if obstacle == "a file .hydra" else "letter.txt")).touch()
        for dry_run in ("true", "false"):
            result = call(main, *SWEEP, "seed=0,1", f"dry_run={dry_run}")
            assert result.returncode == 2
            assert result.stderr.startswith("error: ")
            assert str(directory) in result.stderr
            assert "hydra.sweep.dir" in result.stderr
        assert not (tmp_path / "sweep" / "0").exists()

    def test_a_refused_sweep_removes_only_the_folders_that_it_made(
        self, call: Command, tmp_path: Path
    ) -> None:
        (tmp_path / "keep" / "me").mkdir(parents=True)
        for directory in ("keep/me/${now:%Y}", "keep/me/new/${now:%Y}", "new/${now:%Y}"):
            overrides = ("trainer.device=cuda:7", "seed=0,1", f"hydra.sweep.dir={directory}")
            assert_refused(call(main, "--multirun", *TINY, *overrides), "cuda:7")
            assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep", "me"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
    def test_a_sweep_stopped_while_it_composes_jobs_leaves_no_files(
        self, tmp_path: Path, number: int
    ) -> None:
        (tmp_path / "slow.py").write_text(
            "import time\n"
            "from pathlib import Path\n"
            "class Slow:\n"
            "    def __init__(self):\n"
            "        Path('composing').touch()\n"
            "        time.sleep(300)\n"
        )
        process = start(
            tmp_path,
            "--multirun",
            *TINY,
            "seed=0,1",
            "+augmentation.mine._target_=slow.Slow",
            PYTHONPATH=str(tmp_path),
            RESNET_SWEEP_TRUSTED_PACKAGES="slow",
        )
        wait_for(process, tmp_path / "composing")
        process.send_signal(number)
        output = finish(process)
        assert process.returncode == 75, output
        assert {path.name for path in tmp_path.iterdir()} <= {"slow.py", "composing", "__pycache__"}

    @pytest.mark.parametrize("launcher", ["basic", pytest.param("pool", marks=pytest.mark.slow)])
    def test_a_sweep_that_is_resumed_after_ctrl_c_equals_an_undisturbed_one(
        self, tmp_path: Path, launcher: str, undisturbed: Path
    ) -> None:
        overrides = (*GRID, f"hydra/launcher={launcher}")
        process = start(tmp_path, *overrides)
        wait_for(process, tmp_path / "sweep" / "0" / "metrics.csv")
        # A terminal sends SIGINT to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        output = finish(process)
        assert process.returncode == 130, output
        (resume,) = commands(output)
        assert resume.endswith("hydra.sweep.dir=sweep")
        states = [line["state"] for line in manifest(tmp_path / "sweep")]
        assert set(states) <= {"finished", "interrupted", "pending"}
        assert states != ["finished"] * 4
        assert not leftovers(tmp_path / "sweep")
        process = start(tmp_path, *overrides)
        output = finish(process)
        assert process.returncode == 0, output
        assert_same_runs(tmp_path / "sweep", undisturbed)


class Killed(BaseException):
    """The exception that the tests raise in place of a SIGKILL."""


@pytest.fixture
def no_launch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let sweeps write their jobs, but not launch them."""
    with monkeypatch.context() as patch:
        patch.setattr(runner.SweepRunner, "_launch_all", lambda self, jobs: None)
        yield


class TestWriting:
    """The files that a sweep writes before its first job starts."""

    def test_the_environment_of_a_job_is_resolved(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_launch: None
    ) -> None:
        monkeypatch.setenv("KIND", "cheap")
        call(
            main,
            *SHORT,
            "seed=0,1",
            "hydra.sweep.subdir='job ${hydra:job.num}'",
            "+hydra.job.env_set.KIND=${oc.env:KIND}",
            "hydra.job.chdir=${reuse}",
            "+hydra.job.env_set.PLACE=${hydra:runtime.output_dir}",
        )
        for name in ("job 0", "job 1"):
            directory = tmp_path / "sweep" / name
            written = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "hydra.yaml"))
            assert written["hydra"]["job"]["chdir"] is True
            assert written["hydra"]["job"]["env_set"] == {"KIND": "cheap", "PLACE": str(directory)}

    def test_the_environment_of_a_job_has_a_directory_named_after_the_time(
        self, call: Command, tmp_path: Path, no_launch: None
    ) -> None:
        overrides = ("--multirun", *TINY, "+hydra.job.env_set.PLACE=${hydra:runtime.output_dir}")
        call(main, *overrides, "hydra.sweep.dir=at_${now:%Y}")
        call(main, *overrides, "hydra.sweep.dir=at_${now:%Y}")
        directories = sorted(tmp_path.glob("at_*/0"))
        assert len(directories) == 2
        for directory in directories:
            written = OmegaConf.load(directory / ".hydra" / "hydra.yaml")
            assert str(directory) == written.hydra.job.env_set.PLACE

    @pytest.mark.parametrize(
        "function", ["sweeps.runner._remove_pending", "runs.run.remove_unfinished"]
    )
    def test_after_a_kill_while_pending_jobs_are_removed_the_sweep_can_be_extended(
        self,
        call: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        no_launch: None,
        function: str,
    ) -> None:
        def kill(*arguments: object) -> None:
            raise Killed

        sweep = tmp_path / "sweep"
        call(main, *SHORT, "seed=0,1,2")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(f"resnet_sweep.{function}", kill)
            call(main, *SHORT, "seed=0")
        # Jobs that are partly removed are still pending jobs.
        assert {record["state"] for record in records(sweep).values()} == {"pending"}
        assert list(records(sweep)) == ["0", "1", "2"]
        result = call(main, *SHORT, "seed=0,7")
        assert not result.stderr
        assert [job["number"] for job in manifest(sweep)] == [0, 3]
        assert sorted(path.name for path in sweep.glob("*/")) == ["0", "3"]

    def test_no_directory_outside_of_the_sweep_is_removed(
        self, call: Command, tmp_path: Path, no_launch: None
    ) -> None:
        """A changed sweep.json may name any directory as the directory of a pending job."""
        sweep, other = tmp_path / "sweep", tmp_path / "other" / "0"
        call(main, *SHORT, "seed=0,1")
        shutil.copytree(sweep / "1", other)
        (sweep / "linked").symlink_to(other)
        before = snapshot(other)
        content = (sweep / "sweep.json").read_text()
        for directory in ("../other/0", str(other), "linked"):
            changed = content.replace('"directory": "1"', f'"directory": {json.dumps(directory)}')
            assert changed != content
            (sweep / "sweep.json").write_text(changed)
            call(main, *SHORT, "seed=0")
            assert snapshot(other) == before

    def test_no_run_is_reset_while_another_process_uses_one_of_them(
        self, call: Command, sweep: Path
    ) -> None:
        before = snapshot(sweep)
        lock = DirectoryLock(sweep / "2")
        try:
            assert_refused(call(main, *GRID, "trainer.resume=false"), str(sweep / "2"))
        finally:
            lock.release()
        assert snapshot(sweep) == before

    @pytest.mark.parametrize(("overrides", "status"), [((), 0), (("seed=0,1,2",), 2)])
    def test_a_read_only_sweep_is_shown_and_cannot_be_extended(
        self,
        call: Command,
        sweep: Path,
        monkeypatch: pytest.MonkeyPatch,
        overrides: tuple[str, ...],
        status: int,
    ) -> None:
        def fail(lock: FileLock, *arguments: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)

        before = snapshot(sweep)
        # File permissions don't stop root, who may run the tests.
        monkeypatch.setattr(FileLock, "acquire", fail)
        result = call(main, *GRID, *overrides)
        assert result.returncode == status
        if status:
            assert_refused(result, str(sweep), os.strerror(errno.EACCES), "hydra.sweep.dir")
        else:
            assert lines_with(result.stdout, "optim.lr", "best", "final")
        assert snapshot(sweep) == before

    @pytest.mark.parametrize("overrides", [(), ("dry_run=true",)])
    def test_the_directory_of_a_study_is_refused(
        self, call: Command, tmp_path: Path, overrides: tuple[str, ...]
    ) -> None:
        sweep = tmp_path / "sweep"
        sweep.mkdir()
        Manifest(definition=SweepDefinition(study="resnet_sweep")).write(sweep)
        before = snapshot(sweep)
        result = call(main, *SWEEP, *overrides)
        assert_refused(result, "sweep", "hydra/sweeper=optuna", "hydra.sweep.dir")
        assert snapshot(sweep) == before

    def test_each_job_is_synchronized_once_and_the_progress_of_writing_is_shown(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_launch: None
    ) -> None:
        fsync, saved = os.fsync, []
        synced: list[Path] = []

        def record_fsync(file: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{file}")))
            fsync(file)

        monkeypatch.setattr(os, "fsync", record_fsync)
        call(main, *SHORT, "hydra.sweep.dir=many", "seed=range(0,6)")
        for number in range(6):
            job = tmp_path / "many" / str(number)
            assert len([path for path in synced if path.is_relative_to(job)]) == 1
        save = runner.SweepRunner.save
        monkeypatch.setattr(
            runner.SweepRunner, "save", lambda *args, **opts: (saved.append(1), save(*args, **opts))
        )
        monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0)
        monkeypatch.setattr(plan, "PLAIN_SECONDS", 0)
        result = call(main, *SHORT, "hydra.sweep.dir=visible", "seed=0,1,2")
        assert lines_with(result.stdout, 2, 3, "written")
        assert len(saved) >= 3


@pytest.fixture
def one_failed(once: Once) -> Path:
    """Return a folder with a sweep of ten jobs, the fourth of which failed, and its output."""

    def run(folder: Path) -> None:
        result = processes.run(folder, *ONE_FAILS, environment=write_faulty_transform(folder))
        (folder / "output.txt").write_text(result.stdout)
        assert result.returncode == 1, result.stdout + result.stderr

    return once("sweep_with_one_failed_job", run)


@pytest.fixture
def one_killed(once: Once) -> Path:
    """Return a folder with a sweep by two processes, one of which was killed, and its output."""

    def run(folder: Path) -> None:
        process = start(
            folder,
            *ONE_IS_KILLED,
            "hydra/launcher=pool",
            "hydra.launcher.workers=2",
            **write_faulty_transform(folder),
        )
        (folder / "output.txt").write_text(finish(process))
        assert process.returncode == 1, (folder / "output.txt").read_text()

    return once("sweep_with_one_killed_worker", run)


class TestFailures:
    def test_a_failed_job_does_not_stop_the_other_jobs(self, one_failed: Path) -> None:
        sweep, output = one_failed / "sweep", (one_failed / "output.txt").read_text()
        states = ["finished"] * 3 + ["failed"] + ["finished"] * 6
        assert [line["state"] for line in results(sweep)] == states
        assert [line["state"] for line in manifest(sweep)] == states
        reason = manifest(sweep)[3]["reason"]
        assert "ValueError" in reason and "this one is broken" in reason
        assert "this one is broken" in (sweep / "3" / "train.log").read_text()
        assert lines_with(output, 1, 10, "failed")
        assert lines_with(output, "job 3", "seed=3", "this one is broken")
        *_, retry = commands(output)
        assert retry.startswith("python -m resnet_sweep --multirun ")
        assert retry.endswith("hydra.sweep.dir=sweep")

    def test_retry_failed_false_does_not_train_a_failed_job_again(
        self, command: Command, one_failed: Path, tmp_path: Path
    ) -> None:
        sweep = Path(shutil.copytree(one_failed / "sweep", tmp_path / "sweep"))
        before, runs = manifest(sweep), {path.name: snapshot(path) for path in sweep.glob("*/")}
        variables = write_faulty_transform(tmp_path)
        result = command(*ONE_FAILS, "retry_failed=false", "dry_run=true", **variables)
        assert lines_with(result.stdout, "nothing to train")
        result = command(*ONE_FAILS, "retry_failed=false", **variables)
        assert result.returncode == 1
        assert manifest(sweep) == before
        assert {path.name: snapshot(path) for path in sweep.glob("*/")} == runs

    def test_diverged_jobs_are_listed_below_the_others(self, command: Command) -> None:
        result = command(*SWEEP, "optim.lr=0.1,1e9")
        assert result.returncode == 1, result.stderr
        table = result.stdout.partition("\n\n")[2].splitlines()
        assert table[0].split()[:2] == ["optim.lr", "n"]
        assert [line.split()[0] for line in table[1:3]] == ["0.1", "1000000000"]
        assert table[2].endswith("diverged")
        assert [1, 2] in [numbers(line) for line in table[3:] if "diverged" in line]

    def test_only_the_job_of_a_killed_worker_fails_and_it_is_resumed(
        self, one_killed: Path, tmp_path: Path
    ) -> None:
        sweep = Path(shutil.copytree(one_killed / "sweep", tmp_path / "sweep"))
        states = [line["state"] for line in manifest(sweep)]
        assert states == ["finished", "failed", "finished"]
        reason = records(sweep)["1"]["reason"]
        assert "SIGKILL" in reason
        output = (one_killed / "output.txt").read_text()
        assert lines_with(output, "job 1", "seed=1", reason)
        # The failed job is resumed, and then equals an undisturbed one.
        others = {name: snapshot(sweep / name) for name in "02"}
        variables = write_faulty_transform(tmp_path)
        (tmp_path / "SIGKILL").touch()
        undisturbed = ("hydra.sweep.dir=undisturbed", "reuse=false", "hydra.sweep.subdir=1")
        undisturbed += ("zip=[]", "seed=1", "+augmentation.mine.by=SIGKILL")
        for overrides in ((), undisturbed):
            process = start(tmp_path, *ONE_IS_KILLED, *overrides, **variables)
            output = finish(process)
            assert process.returncode == 0, output
        assert {name: snapshot(sweep / name) for name in "02"} == others
        assert records(sweep)["1"]["started"] == records(one_killed / "sweep")["1"]["started"]
        for name in "012":
            written = OmegaConf.load(sweep / name / ".hydra" / "hydra.yaml")
            assert written.hydra.job.num == int(name)
        shutil.copytree(sweep / "1", tmp_path / "resumed" / "1")
        assert_same_runs(tmp_path / "resumed", tmp_path / "undisturbed")

    @pytest.mark.slow
    def test_a_sweep_stopped_by_a_full_disk_is_resumed(
        self, tmp_path: Path, undisturbed: Path
    ) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            pytest.skip(
                f"no small disk can be mounted ({mounted.stderr.strip()}): run this as root, in a "
                "container with --cap-add SYS_ADMIN"
            )
        try:
            sweep = disk / "sweep"
            overrides = (*GRID, f"hydra.sweep.dir={sweep}")
            process = start(tmp_path, *overrides)
            output = finish(process)
            assert process.returncode == 1, output
            # The output has the system's message.
            assert os.strerror(errno.ENOSPC) in output
            assert "Traceback" not in output
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            process = start(tmp_path, *overrides)
            output = finish(process)
            assert process.returncode == 0, output
            assert_same_runs(sweep, undisturbed)
            assert not leftovers(sweep)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_preset_of_a_sweep_that_chooses_no_sweeper_is_refused(
    call: Command, tmp_path: Path
) -> None:
    (tmp_path / "mine" / "sweep").mkdir(parents=True)
    text = "# @package _global_\nhydra: {sweeper: {params: {optim.lr: '0.1,0.2'}}}\n"
    (tmp_path / "mine" / "sweep" / "rates.yaml").write_text(text)
    arguments = ("--config-dir", "mine", *TINY, "sweep=rates")
    assert_refused(call(main, *arguments), "sweep=rates", "hydra/sweeper=grid")
    result = call(main, *arguments, "hydra/sweeper=grid", "dry_run=true")
    assert [rest for *_, rest in dry_run_jobs(result.stdout)] == [["0.1"], ["0.2"]], result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_hydras_basic_sweeper_is_refused_and_leaves_no_files(call: Command, tmp_path: Path) -> None:
    assert_refused(call(main, *GRID, "hydra/sweeper=basic"), "hydra/sweeper=basic", "grid")
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_sweep_compares_variants_with_the_baseline(
    command: Command, sweep: Path, undisturbed: Path
) -> None:
    for name in "13":
        shutil.rmtree(sweep / name)
    result = command(*GRID, "replicates=2", "seed=0", "baseline='optim.lr == 0.1'")
    assert result.returncode == 0, result.stderr
    assert [record["seed"] for record in records(sweep).values()] == [0, 1, 0, 1]
    # The replicates are the jobs that a sweep of both seeds trains.
    assert_same_runs(sweep, undisturbed)
    table = result.stdout[result.stdout.index("optim.lr  n") :]
    (row,) = (line for line in table.splitlines() if line.split()[-1:] == ["baseline"])
    assert row.split()[:2] == ["0.1", "2"]
    content = json.loads((sweep / "sweep.json").read_text())
    assert content["definition"]["baseline"] == "optim.lr == 0.1"
    assert content["heartbeat"] is None
    best = max(records(sweep).values(), key=lambda record: record["best"]["val_acc"])
    (reproduce,) = commands(table)
    assert f"optim.lr={best['config']['optim']['lr']}" in reproduce
    assert "replicates" not in reproduce
