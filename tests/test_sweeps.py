"""Sweeps as their users meet them: previewed, interrupted, resumed, extended and reported."""

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
    broken,
    commands,
    finish,
    leftovers,
    manifest,
    numbers,
    previewed,
    records,
    results,
    snapshot,
    start,
    wait_for,
    write_broken,
)

from resnet_sweep.__main__ import main
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.runs.lock import DirectoryLock
from resnet_sweep.sweeps import plan, runner
from resnet_sweep.sweeps.manifest import Manifest, SweepDefinition

SWEEP = ("--multirun", *TINY, "hydra.sweep.dir=sweep")
SHORT = (*SWEEP, "trainer.max_steps=1")
ONE_FAILS = (*SWEEP, "trainer.max_steps=3", *broken(*["none"] * 3, "error", *["none"] * 6))
# The process of the second job kills itself, as the system does when memory runs out.
ONE_IS_KILLED = (*SWEEP, "trainer.epochs=3", *broken("none", "SIGKILL", "none"))


@pytest.fixture
def undisturbed(once: Once) -> Path:
    """A sweep of four jobs that nothing interrupted."""

    def carry_out(folder: Path) -> None:
        process = start(folder, *GRID)
        output = finish(process)
        assert process.returncode == 0, output

    return once("undisturbed_sweep", carry_out) / "sweep"


@pytest.fixture
def sweep(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed sweep, which a test may change."""
    return Path(shutil.copytree(undisturbed, tmp_path / "sweep"))


def lines_with(output: str, *facts: object) -> list[str]:
    """Return the lines that name all facts; a number among them counts as a whole number."""
    return [
        line
        for line in output.splitlines()
        if all(
            fact in numbers(line) if isinstance(fact, int) else str(fact) in line for fact in facts
        )
    ]


class TestPreview:
    def test_it_lists_the_jobs_and_writes_nothing(self, command: Command, tmp_path: Path) -> None:
        done = command(*GRID, "dry_run=true", "zip=[optim.lr,seed]")
        assert done.returncode == 0, done.stderr
        assert previewed(done.stdout) == [
            (0, "pending", ["0.1", "0"]),
            (1, "pending", ["0.05", "1"]),
        ]
        (header,) = (line for line in done.stdout.splitlines() if "state" in line.split())
        assert header.index("optim.lr") < header.index("seed")
        # The summary says how many jobs there are, what varies and what is paired.
        assert lines_with(done.stdout, 2, "optim.lr", "seed")
        assert len(lines_with(done.stdout, "optim.lr", "seed")) == 3
        assert not list(tmp_path.iterdir())

    def test_it_says_what_is_finished_and_what_is_left(
        self, call: Command, undisturbed: Path
    ) -> None:
        before = snapshot(undisturbed)
        done = call(
            main,
            *GRID, f"hydra.sweep.dir={undisturbed}", "optim.lr=0.1,0.05,0.2", "dry_run=true",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        states = [state for _, state, _ in previewed(done.stdout)]
        assert states == ["finished"] * 4 + ["pending"] * 2
        summary = done.stdout.splitlines()[len(states) + 1 :]
        counts = [numbers(line)[:1] for line in summary]
        assert all([count] in counts for count in (6, 4, 2))
        assert snapshot(undisturbed) == before

    def test_it_names_duplicates_and_counts_what_a_filter_leaves_out(self, call: Command) -> None:
        done = call(
            main,
            *SWEEP, "optim.lr=0.1,0.10,0.2", "seed=0,1", "dry_run=true",
            "sweep_filter='optim.lr == 0.1 or seed == 0'",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert [rest for *_, rest in previewed(done.stdout)] == [
            ["0.1", "0"], ["0.1", "1"], ["0.2", "0"]
        ]  # fmt: skip
        assert lines_with(done.stdout, "sweep_filter", 1)
        for seed in (0, 1):
            assert len(lines_with(done.stdout, "optim.lr=0.1", f"seed={seed}", f"job {seed}")) == 1

    def test_every_wrong_job_is_named_and_none_is_trained(
        self, command: Command, tmp_path: Path
    ) -> None:
        done = command(*SWEEP, "optim.lr=0.1,-1", "model=resnet8v2,resnet99", "seed=0,1")
        assert done.returncode == 2
        first, *lines = done.stderr.splitlines()
        assert first.startswith("error: ")
        assert {6, 8} <= {*numbers(first)}
        words = [f"optim.lr=-1 model=resnet8v2 seed={seed}" for seed in (0, 1)]
        words += [
            f"optim.lr={lr} model=resnet99 seed={seed}" for lr in ("0.1", "-1") for seed in (0, 1)
        ]
        for each in words:
            assert sum(each in line for line in lines) == 1, each
        reasons = [line for line in lines if "seed=" not in line]
        assert len(reasons) == 2
        assert sum("model=resnet99" in reason for reason in reasons) == 1
        assert sum("optim.lr" in reason and "-1" in reason for reason in reasons) == 1
        assert "Traceback" not in done.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("words", "facts"),
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
    def test_wrong_settings_of_a_sweep_are_refused(
        self, call: Command, tmp_path: Path, words: str, facts: list[str]
    ) -> None:
        words = shlex.split(words) if "hydra/launcher" in words else [words]
        assert_refused(call(main, *SWEEP, "seed=0,1", *words), *facts)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("word", "wrong", "count", "facts"),
        [
            ("replicates=1,2", 2, 4, ["replicates=2"]),
            ("hydra.sweep.subdir=x", 1, 2, ["hydra.sweep.subdir=x", "${hydra.job.num}"]),
        ],
    )
    def test_settings_that_fit_only_some_jobs_are_refused(
        self, call: Command, tmp_path: Path, word: str, wrong: int, count: int, facts: list[str]
    ) -> None:
        done = call(main, *SWEEP, "seed=0,1", word)
        assert done.returncode == 2
        first, *jobs, reason = done.stderr.splitlines()
        assert first.startswith("error: ")
        assert {wrong, count} <= {*numbers(first)}
        assert len(jobs) == wrong
        for fact in facts:
            assert fact in reason
        assert not list(tmp_path.iterdir())


class TestResuming:
    def test_a_sweep_that_grows_trains_only_what_is_new(
        self, command: Command, call: Command, sweep: Path
    ) -> None:
        before = {name: snapshot(sweep / name) for name in "0123"}
        grown = (*GRID, "optim.lr=0.2,0.1,0.05", "sweep_filter='optim.lr < 0.2 or seed == 1'")
        done = command(*grown)
        assert done.returncode == 0, done.stderr
        assert {name: snapshot(sweep / name) for name in "0123"} == before
        # Old jobs keep their numbers, and new ones get those that follow.
        jobs = [("0.1", "0"), ("0.1", "1"), ("0.05", "0"), ("0.05", "1"), ("0.2", "1")]
        assert [(line["number"], line["overrides"][-2:]) for line in manifest(sweep)] == [
            (number, [f"optim.lr={lr}", f"seed={seed}"]) for number, (lr, seed) in enumerate(jobs)
        ]
        runs = {"0.1": "2", "0.05": "2", "0.2": "1"}
        assert [(line["number"], line["state"], line["optim.lr"], line["seed"], line["n"])
                for line in results(sweep)] == [
            (str(number), "finished", lr, seed, runs[lr])
            for number, (lr, seed) in enumerate(jobs)
        ]  # fmt: skip
        # The directories of its runs are enough to resume a sweep.
        (sweep / "sweep.json").write_text("{")
        done = call(main, *GRID, "optim.lr=0.2,0.1,0.05", "dry_run=true")
        states = [state for _, state, _ in previewed(done.stdout)]
        assert states == ["finished"] * 5 + ["pending"]

    def test_a_run_is_not_left_without_its_job(
        self, command: Command, call: Command, tmp_path: Path
    ) -> None:
        own = tmp_path / "mine" / "optim" / "own.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [sgd]\nlr: 0.1\n")
        words = ("--config-dir", "mine", *SHORT, "optim=own")
        assert command(*words, "seed=0,1").returncode == 0
        before = snapshot(tmp_path / "sweep")
        # The jobs that the command lacks are named, with both values of a setting that differs.
        done = call(main, *words, "seed=0")
        assert_refused(done, "job 1", "hydra.sweep.dir")
        assert re.search(r"seed: 1\b.*?\b0\b", done.stderr)
        assert "job 0" not in done.stderr
        done = call(main, *words, "seed=0,1", "trainer.epochs=3")
        assert_refused(done, "job 0", "job 1", "hydra.sweep.dir")
        assert len(re.findall(r"trainer\.epochs: 2\b.*?\b3\b", done.stderr)) == 2
        own.write_text("defaults: [sgd]\nlr: 0.2\n")
        done = call(main, *words, "seed=0,1")
        assert_refused(done, "hydra.sweep.dir")
        assert re.search(r"optim\.lr: 0\.1\b.*?\b0\.2\b", done.stderr)
        assert snapshot(tmp_path / "sweep") == before

    def test_what_is_finished_elsewhere_is_reused_unless_reuse_is_false(
        self, command: Command, tmp_path: Path
    ) -> None:
        assert command(*TINY, "trainer.max_steps=1", "seed=1").returncode == 0
        words = ("--multirun", *TINY, "trainer.max_steps=1", "seed=0,1")
        assert command(*words).returncode == 0
        (first,) = tmp_path.glob("multirun/*/*")
        assert [path.name for path in first.glob("*/")] == ["0"]
        assert [line["reused"] for line in manifest(first)] == [False, True]
        assert (first / manifest(first)[1]["directory"] / "run.json").exists()
        assert [line["state"] for line in results(first)] == ["finished", "finished"]
        # A reader of the sweep gets both runs, and each once if the other folder is read as well.
        both = [tmp_path / "multirun", tmp_path / "outputs"]
        assert [len(find_runs(folders)) for folders in ([first], both)] == [2, 2]
        done = command(*words, "dry_run=true")
        shown = [(state, rest[0]) for _, state, rest in previewed(done.stdout)]
        assert shown == [("finished", "(reused)")] * 2
        done = command(*words, "dry_run=true", "reuse=false")
        assert [state for _, state, _ in previewed(done.stdout)] == ["pending"] * 2

    def test_a_reused_run_has_the_name_that_the_sweep_gives_it(
        self, command: Command, tmp_path: Path
    ) -> None:
        words = (
            "model=resnet8v2", "data=digits", "trainer.batch_size=20", *TINY[1:],
            "trainer.max_steps=1",
        )  # fmt: skip
        assert command(*words).returncode == 0
        baseline = 'experiment == "logged_run_1"'
        sweep = (
            "--multirun", *words, "experiment=logged_run_1,lr_0.05", f"baseline='{baseline}'",
            "hydra.sweep.dir=sweep",
        )  # fmt: skip
        # The second command reads the sweep from its directory.
        for _ in range(2):
            done = command(*sweep)
            assert done.returncode == 0, done.stderr
            # The run is found as the baseline.
            assert lines_with(done.stdout, "logged_run_1 ", " baseline")
            assert [line["reused"] for line in manifest(tmp_path / "sweep")] == [True, False]
            names = [line["experiment"] for line in results(tmp_path / "sweep")]
            assert names == ["logged_run_1", "lr_0.05"]
        found = {run.choices.get("experiment") for run in find_runs([tmp_path / "sweep"])}
        assert found == {"logged_run_1", "lr_0.05"}
        # In the folder that it lies in, it keeps the choices that it was made with.
        (run,) = find_runs([tmp_path / "outputs"])
        assert "experiment" not in run.choices

    def test_starting_over_trains_all_of_it_again(self, command: Command, tmp_path: Path) -> None:
        sweep = tmp_path / "sweep"
        assert command(*SHORT, "seed=0,1").returncode == 0
        metrics = {name: (sweep / name / "metrics.csv").stat() for name in "01"}
        started = {name: record["started"] for name, record in records(sweep).items()}
        done = command(*SHORT, "seed=0,1", "trainer.resume=false")
        assert done.returncode == 0, done.stderr
        assert list(records(sweep)) == ["0", "1"]
        for name, old in metrics.items():
            assert (sweep / name / "metrics.csv").stat().st_mtime_ns > old.st_mtime_ns
            assert records(sweep)[name]["started"] > started[name]
            assert records(sweep)[name]["state"] == "finished"

    def test_what_words_refer_to_is_resolved_in_each_job(
        self, command: Command, tmp_path: Path
    ) -> None:
        done = command(
            *SHORT, "optim.lr=0.1,0.05", "optim.weight_decay=${optim.lr}",
            "hydra.sweep.subdir='job ${hydra.job.num} é'",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = records(tmp_path / "sweep")
        assert list(found) == ["job 0 é", "job 1 é"]
        for each in found.values():
            assert each["config"]["optim"]["weight_decay"] == each["config"]["optim"]["lr"]
            # As Hydra writes it, and reads it again.
            assert r"optim.weight_decay=$\{optim.lr\}" in each["overrides"]

    def test_jobs_are_frozen_when_the_sweep_begins(self, tmp_path: Path) -> None:
        own = tmp_path / "mine" / "optim" / "own.yaml"
        own.parent.mkdir(parents=True)
        own.write_text("defaults: [sgd]\nlr: 0.1\n")
        process = start(tmp_path, "--config-dir", "mine", *SWEEP, "optim=own", "seed=0,1")
        wait_for(process, tmp_path / "sweep" / "sweep.json")
        own.write_text("defaults: [sgd]\nlr: nonsense\n")
        output = finish(process)
        assert process.returncode == 0, output
        found = records(tmp_path / "sweep").values()
        assert [each["config"]["optim"]["lr"] for each in found] == [0.1, 0.1]

    def test_a_second_process_on_the_same_sweep_is_refused(
        self, call: Command, tmp_path: Path
    ) -> None:
        words = (*SWEEP, "trainer.epochs=500", "seed=0,1")
        process = start(tmp_path, *words)
        wait_for(process, tmp_path / "sweep" / "0" / "run.json")
        second = call(main, *words)
        assert_refused(second, str(process.pid), str(tmp_path / "sweep"), "hydra.sweep.dir")
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output = finish(process)
        assert process.returncode == 75, output
        (repeat,) = commands(output)
        assert repeat.endswith("hydra.sweep.dir=sweep")
        assert [0, 2] in map(numbers, output.splitlines())
        states = [line["state"] for line in manifest(tmp_path / "sweep")]
        assert states == ["interrupted", "pending"]
        assert json.loads((tmp_path / "sweep/sweep.json").read_text())["heartbeat"] is None

    def test_a_sweep_that_another_process_changed_meanwhile_is_refused(
        self, call: Command, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan_sweep = runner.SweepPlan
        changed = {}

        def plan_and_be_late(*arguments: object) -> object:
            planned = plan_sweep(*arguments)
            done = command(*SHORT, "seed=5")
            assert done.returncode == 0, done.stderr
            changed.update(snapshot(tmp_path / "sweep"))
            return planned

        monkeypatch.setattr(runner, "SweepPlan", plan_and_be_late)
        assert_refused(call(main, *SHORT, "seed=100,101"), str(tmp_path / "sweep"))
        assert changed
        # The file that locks the sweep is removed again.
        assert snapshot(tmp_path / "sweep") == changed

    @pytest.mark.parametrize("there", ["a file", "a file in the directory", "a file .hydra"])
    def test_what_is_in_the_way_of_a_job_is_found_before_any_begins(
        self, call: Command, tmp_path: Path, there: str
    ) -> None:
        place = tmp_path / "sweep" / "1"
        place.parent.mkdir()
        if there == "a file":
            place.touch()
        else:
            place.mkdir()
            (place / (".hydra" if there == "a file .hydra" else "letter.txt")).touch()
        for dry_run in ("true", "false"):
            done = call(main, *SWEEP, "seed=0,1", f"dry_run={dry_run}")
            assert done.returncode == 2
            assert done.stderr.startswith("error: ")
            assert str(place) in done.stderr
            assert "hydra.sweep.dir" in done.stderr
        assert not (tmp_path / "sweep" / "0").exists()

    def test_a_refused_sweep_removes_only_what_it_made(self, call: Command, tmp_path: Path) -> None:
        (tmp_path / "keep" / "me").mkdir(parents=True)
        for directory in ("keep/me/${now:%Y}", "keep/me/new/${now:%Y}", "new/${now:%Y}"):
            words = ("trainer.device=cuda:7", "seed=0,1", f"hydra.sweep.dir={directory}")
            assert_refused(call(main, "--multirun", *TINY, *words), "cuda:7")
            assert sorted(path.name for path in tmp_path.rglob("*")) == ["keep", "me"]

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
    def test_a_signal_while_jobs_are_composed_leaves_nothing(
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
            tmp_path, "--multirun", *TINY, "seed=0,1", "+augmentation.mine._target_=slow.Slow",
            PYTHONPATH=str(tmp_path), RESNET_SWEEP_TRUSTED_PACKAGES="slow",
        )  # fmt: skip
        wait_for(process, tmp_path / "composing")
        process.send_signal(number)
        output = finish(process)
        assert process.returncode == 75, output
        assert {path.name for path in tmp_path.iterdir()} <= {"slow.py", "composing", "__pycache__"}

    @pytest.mark.parametrize("launcher", ["basic", pytest.param("pool", marks=pytest.mark.slow)])
    def test_ctrl_c_saves_what_runs_and_the_resumed_sweep_equals_an_undisturbed_one(
        self, tmp_path: Path, launcher: str, undisturbed: Path
    ) -> None:
        words = (*GRID, f"hydra/launcher={launcher}")
        process = start(tmp_path, *words)
        wait_for(process, tmp_path / "sweep" / "0" / "metrics.csv")
        # As a terminal does: to all processes of the group.
        os.killpg(process.pid, signal.SIGINT)
        output = finish(process)
        assert process.returncode == 130, output
        (repeat,) = commands(output)
        assert repeat.endswith("hydra.sweep.dir=sweep")
        states = [line["state"] for line in manifest(tmp_path / "sweep")]
        assert set(states) <= {"finished", "interrupted", "pending"}
        assert states != ["finished"] * 4
        assert not leftovers(tmp_path / "sweep")
        process = start(tmp_path, *words)
        output = finish(process)
        assert process.returncode == 0, output
        assert_same_runs(tmp_path / "sweep", undisturbed)


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have sweeps write their jobs, and launch none."""
    with monkeypatch.context() as patch:
        patch.setattr(runner.SweepRunner, "_launch_all", lambda self, jobs: None)
        yield


class TestWriting:
    """What a sweep writes before its first job starts."""

    def test_a_jobs_environment_is_resolved(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unlaunched: None
    ) -> None:
        monkeypatch.setenv("KIND", "cheap")
        call(
            main, *SHORT, "seed=0,1", "hydra.sweep.subdir='job ${hydra:job.num}'",
            "+hydra.job.env_set.KIND=${oc.env:KIND}", "hydra.job.chdir=${reuse}",
            "+hydra.job.env_set.PLACE=${hydra:runtime.output_dir}",
        )  # fmt: skip
        for name in ("job 0", "job 1"):
            directory = tmp_path / "sweep" / name
            written = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "hydra.yaml"))
            assert written["hydra"]["job"]["chdir"] is True
            assert written["hydra"]["job"]["env_set"] == {"KIND": "cheap", "PLACE": str(directory)}

    def test_jobs_in_a_directory_named_by_the_time_know_it(
        self, call: Command, tmp_path: Path, unlaunched: None
    ) -> None:
        words = ("--multirun", *TINY, "+hydra.job.env_set.PLACE=${hydra:runtime.output_dir}")
        call(main, *words, "hydra.sweep.dir=at_${now:%Y}")
        call(main, *words, "hydra.sweep.dir=at_${now:%Y}")
        places = sorted(tmp_path.glob("at_*/0"))
        assert len(places) == 2
        for place in places:
            written = OmegaConf.load(place / ".hydra" / "hydra.yaml")
            assert str(place) == written.hydra.job.env_set.PLACE

    @pytest.mark.parametrize("place", ["_remove_pending", "remove_unfinished"])
    def test_a_kill_while_pending_jobs_are_removed_blocks_no_number(
        self,
        call: Command,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        unlaunched: None,
        place: str,
    ) -> None:
        def kill(*arguments: object) -> None:
            raise Killed

        sweep = tmp_path / "sweep"
        call(main, *SHORT, "seed=0,1,2")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(runner, place, kill)
            call(main, *SHORT, "seed=0")
        # What is half removed is still known as a pending job.
        assert {record["state"] for record in records(sweep).values()} == {"pending"}
        assert list(records(sweep)) == ["0", "1", "2"]
        done = call(main, *SHORT, "seed=0,7")
        assert not done.stderr
        assert [job["number"] for job in manifest(sweep)] == [0, 3]
        assert sorted(path.name for path in sweep.glob("*/")) == ["0", "3"]

    def test_nothing_outside_of_the_sweep_is_removed(
        self, call: Command, tmp_path: Path, unlaunched: None
    ) -> None:
        """A sweep.json from elsewhere may name any directory as that of a pending job."""
        sweep, other = tmp_path / "sweep", tmp_path / "other" / "0"
        call(main, *SHORT, "seed=0,1")
        shutil.copytree(sweep / "1", other)
        (sweep / "linked").symlink_to(other)
        before = snapshot(other)
        content = (sweep / "sweep.json").read_text()
        for place in ("../other/0", str(other), "linked"):
            changed = content.replace('"directory": "1"', f'"directory": {json.dumps(place)}')
            assert changed != content
            (sweep / "sweep.json").write_text(changed)
            call(main, *SHORT, "seed=0")
            assert snapshot(other) == before

    def test_none_starts_over_while_one_is_in_use(self, call: Command, sweep: Path) -> None:
        before = snapshot(sweep)
        lock = DirectoryLock(sweep / "2")
        try:
            assert_refused(call(main, *GRID, "trainer.resume=false"), str(sweep / "2"))
        finally:
            lock.release()
        assert snapshot(sweep) == before

    @pytest.mark.parametrize(("words", "status"), [((), 0), (("seed=0,1,2",), 2)])
    def test_a_directory_that_is_read_only(
        self,
        call: Command,
        sweep: Path,
        monkeypatch: pytest.MonkeyPatch,
        words: tuple[str, ...],
        status: int,
    ) -> None:
        def refuse(lock: FileLock, *arguments: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), lock.lock_file)

        before = snapshot(sweep)
        # The tests may be run by root, who may write anywhere.
        monkeypatch.setattr(FileLock, "acquire", refuse)
        done = call(main, *GRID, *words)
        assert done.returncode == status
        if status:
            assert_refused(done, str(sweep), os.strerror(errno.EACCES), "hydra.sweep.dir")
        else:
            assert lines_with(done.stdout, "optim.lr", "best", "final")
        assert snapshot(sweep) == before

    @pytest.mark.parametrize("words", [(), ("dry_run=true",)])
    def test_the_directory_of_a_study_is_refused(
        self, call: Command, tmp_path: Path, words: tuple[str, ...]
    ) -> None:
        sweep = tmp_path / "sweep"
        sweep.mkdir()
        Manifest(definition=SweepDefinition(study="resnet_sweep")).write(sweep)
        before = snapshot(sweep)
        done = call(main, *SWEEP, *words)
        assert_refused(done, "sweep", "hydra/sweeper=optuna", "hydra.sweep.dir")
        assert snapshot(sweep) == before

    def test_many_jobs_are_written_fast_and_visibly(
        self, call: Command, monkeypatch: pytest.MonkeyPatch, unlaunched: None
    ) -> None:
        fsync, saved = os.fsync, []
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), fsync(file)))
        counts = []
        for directory, seeds in (("few", "0,1"), ("many", "range(0,6)")):
            synced.clear()
            call(main, *SHORT, f"hydra.sweep.dir={directory}", f"seed={seeds}")
            counts.append(len(synced))
        assert counts[1] - counts[0] == 4
        save = runner.SweepRunner.save
        monkeypatch.setattr(
            runner.SweepRunner, "save", lambda *args, **opts: (saved.append(1), save(*args, **opts))
        )
        monkeypatch.setattr(runner, "HEARTBEAT_SECONDS", 0)
        monkeypatch.setattr(plan, "PLAIN_SECONDS", 0)
        done = call(main, *SHORT, "hydra.sweep.dir=visible", "seed=0,1,2")
        assert lines_with(done.stdout, 2, 3, "written")
        assert len(saved) >= 3


@pytest.fixture
def one_failed(once: Once) -> Path:
    """A folder with a sweep of ten jobs, the fourth of which failed, and what was printed."""

    def carry_out(folder: Path) -> None:
        done = processes.run(folder, *ONE_FAILS, environment=write_broken(folder))
        (folder / "output.txt").write_text(done.stdout)
        assert done.returncode == 1, done.stdout + done.stderr

    return once("sweep_with_one_failed_job", carry_out)


@pytest.fixture
def one_killed(once: Once) -> Path:
    """A folder with a sweep by two processes, one of which was killed, and what was printed."""

    def carry_out(folder: Path) -> None:
        process = start(
            folder, *ONE_IS_KILLED, "hydra/launcher=pool", "hydra.launcher.workers=2",
            **write_broken(folder),
        )  # fmt: skip
        (folder / "output.txt").write_text(finish(process))
        assert process.returncode == 1, (folder / "output.txt").read_text()

    return once("sweep_with_one_killed_worker", carry_out)


class TestFailures:
    def test_one_of_ten_jobs_fails_and_the_rest_is_done(self, one_failed: Path) -> None:
        sweep, output = one_failed / "sweep", (one_failed / "output.txt").read_text()
        states = ["finished"] * 3 + ["failed"] + ["finished"] * 6
        assert [line["state"] for line in results(sweep)] == states
        assert [line["state"] for line in manifest(sweep)] == states
        reason = manifest(sweep)[3]["reason"]
        assert "ValueError" in reason and "this one is broken" in reason
        assert "this one is broken" in (sweep / "3" / "train.log").read_text()
        assert lines_with(output, 1, 10, "failed")
        assert lines_with(output, "job 3", "seed=3", "this one is broken")
        *_, repeat = commands(output)
        assert repeat.startswith("python -m resnet_sweep --multirun ")
        assert repeat.endswith("hydra.sweep.dir=sweep")

    def test_retry_failed_false_leaves_a_failed_job_as_it_is(
        self, command: Command, one_failed: Path, tmp_path: Path
    ) -> None:
        sweep = Path(shutil.copytree(one_failed / "sweep", tmp_path / "sweep"))
        before, runs = manifest(sweep), {path.name: snapshot(path) for path in sweep.glob("*/")}
        listed = command(*ONE_FAILS, "retry_failed=false", "dry_run=true", **write_broken(tmp_path))
        assert lines_with(listed.stdout, "nothing to train")
        done = command(*ONE_FAILS, "retry_failed=false", **write_broken(tmp_path))
        assert done.returncode == 1
        assert manifest(sweep) == before
        assert {path.name: snapshot(path) for path in sweep.glob("*/")} == runs

    def test_what_diverged_is_listed_below_the_others(self, command: Command) -> None:
        done = command(*SWEEP, "optim.lr=0.1,1e9")
        assert done.returncode == 1, done.stderr
        table = done.stdout.partition("\n\n")[2].splitlines()
        assert table[0].split()[:2] == ["optim.lr", "n"]
        assert [line.split()[0] for line in table[1:3]] == ["0.1", "1000000000"]
        assert table[2].endswith("diverged")
        assert [1, 2] in [numbers(line) for line in table[3:] if "diverged" in line]

    def test_a_worker_that_is_killed_takes_only_its_job_with_it(
        self, one_killed: Path, tmp_path: Path
    ) -> None:
        sweep = Path(shutil.copytree(one_killed / "sweep", tmp_path / "sweep"))
        states = [line["state"] for line in manifest(sweep)]
        assert states == ["finished", "failed", "finished"]
        reason = records(sweep)["1"]["reason"]
        assert "SIGKILL" in reason
        output = (one_killed / "output.txt").read_text()
        assert lines_with(output, "job 1", "seed=1", reason)
        # The failed job is resumed, and comes to the same as if nothing had happened.
        others = {name: snapshot(sweep / name) for name in "02"}
        variables = write_broken(tmp_path)
        (tmp_path / "SIGKILL").touch()
        calm = ("hydra.sweep.dir=calm", "reuse=false", "hydra.sweep.subdir=1")
        calm += ("zip=[]", "seed=1", "+augmentation.mine.by=SIGKILL")
        for words in ((), calm):
            process = start(tmp_path, *ONE_IS_KILLED, *words, **variables)
            output = finish(process)
            assert process.returncode == 0, output
        assert {name: snapshot(sweep / name) for name in "02"} == others
        assert records(sweep)["1"]["started"] == records(one_killed / "sweep")["1"]["started"]
        for name in "012":
            written = OmegaConf.load(sweep / name / ".hydra" / "hydra.yaml")
            assert written.hydra.job.num == int(name)
        shutil.copytree(sweep / "1", tmp_path / "resumed" / "1")
        assert_same_runs(tmp_path / "resumed", tmp_path / "calm")

    @pytest.mark.slow
    def test_a_full_disk_is_survived(self, tmp_path: Path, undisturbed: Path) -> None:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)],
            capture_output=True, text=True,
        )  # fmt: skip
        if mounted.returncode:
            pytest.skip(
                f"no small disk can be mounted ({mounted.stderr.strip()}): run this as root, in a "
                "container with --cap-add SYS_ADMIN"
            )
        try:
            sweep = disk / "sweep"
            words = (*GRID, f"hydra.sweep.dir={sweep}")
            process = start(tmp_path, *words)
            output = finish(process)
            assert process.returncode == 1, output
            # The system's own words for the error.
            assert os.strerror(errno.ENOSPC) in output
            assert "Traceback" not in output
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            process = start(tmp_path, *words)
            output = finish(process)
            assert process.returncode == 0, output
            assert_same_runs(sweep, undisturbed)
            assert not leftovers(sweep)
        finally:
            subprocess.run(["umount", str(disk)], check=True)


def test_a_sweeper_of_hydras_own_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path
) -> None:
    assert_refused(call(main, *GRID, "hydra/sweeper=basic"), "hydra/sweeper=basic", "grid")
    assert not list(tmp_path.iterdir())


def test_its_table_compares_variants_with_the_baseline(
    command: Command, sweep: Path, undisturbed: Path
) -> None:
    for name in "13":
        shutil.rmtree(sweep / name)
    done = command(*GRID, "replicates=2", "seed=0", "baseline='optim.lr == 0.1'")
    assert done.returncode == 0, done.stderr
    assert [each["seed"] for each in records(sweep).values()] == [0, 1, 0, 1]
    # The replicates are the jobs that a sweep of both seeds trains.
    assert_same_runs(sweep, undisturbed)
    table = done.stdout[done.stdout.index("optim.lr  n") :]
    (line,) = lines_with(table, " baseline")
    assert line.split()[:2] == ["0.1", "2"]
    content = json.loads((sweep / "sweep.json").read_text())
    assert content["definition"]["baseline"] == "optim.lr == 0.1"
    assert content["heartbeat"] is None
    best = max(records(sweep).values(), key=lambda each: each["best"]["val_acc"])
    (repeat,) = commands(table)
    assert f"optim.lr={best['config']['optim']['lr']}" in repeat
    assert "replicates" not in repeat
