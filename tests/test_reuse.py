"""Sweeps and studies that reuse finished runs: what they keep, and what stays elsewhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Command
from made_up_results import SMALL, MakeUp
from small_sweep import TINY, dry_run_jobs, manifest, records, results, snapshot

import resnet_sweep
from resnet_sweep.__main__ import main
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs import run as run_module
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.runs.record import Record

ONE_STEP = (*TINY[:-1], "trainer.epochs=1", "trainer.max_steps=1", "logger=tensorboard")
SWEEP = ("--multirun", *ONE_STEP, "hydra.sweep.dir=sweep", "seed=0,1")
MADE_UP = ("--multirun", *SMALL, "hydra.sweep.dir=multirun/sweep", "seed=0,1")


def read(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def accuracies(sweep: Path) -> list[float]:
    """Return the best accuracy of each job in `results.csv`."""
    return [float(row["best_val_acc"]) for row in results(sweep)]


@pytest.fixture
def earlier(call: Command, tmp_path: Path) -> Path:
    """Train the run that a job of `SWEEP` reuses, and return its directory."""
    result = call(main, *ONE_STEP, "seed=1", "hydra.run.dir=outputs/earlier")
    assert result.returncode == 0, result.stderr
    return tmp_path / "outputs" / "earlier"


def test_a_sweep_keeps_the_results_of_a_run_that_it_reuses(
    call: Command, earlier: Path, tmp_path: Path
) -> None:
    assert call(main, *SWEEP).returncode == 0
    sweep, job = tmp_path / "sweep", tmp_path / "sweep" / "1"
    assert {path.name for path in job.iterdir()} == {
        *(".hydra", "run.json", "metrics.csv", "layer_norms.csv", "tensorboard")
    }
    for path in (*job.glob("*.csv"), *job.glob("tensorboard/*")):
        assert path.read_bytes() == (earlier / path.relative_to(job)).read_bytes()
    original, copy = read(earlier), read(job)
    assert copy["reused_from"] == str(earlier) and original["reused_from"] is None
    assert copy["overrides"][-1] == "seed=1"
    own = {"config", "choices", "overrides", "hydra_flags", "reused_from", "digest"}
    assert {name: copy[name] for name in copy.keys() - own} == {
        name: original[name] for name in original.keys() - own
    }
    assert [entry["reused"] for entry in manifest(sweep)] == [False, True]
    # Without the other directory, each table has all jobs, and a repeated command changes nothing.
    before, rows = snapshot(sweep), results(sweep)
    shutil.rmtree(earlier)
    assert len(find_runs([sweep])) == len(resnet_sweep.Sweep(sweep).runs) == 2
    table = json.loads(call(main, "runs", "sweep", "--no-group", "--json").stdout)["runs"]
    assert sorted(row["reused"] for row in table) == [0, 1]
    result = call(main, *SWEEP)
    assert result.returncode == 0 and "outputs" in result.stdout
    assert results(sweep) == rows
    changed = {"sweep.json", "results.csv", "multirun.yaml"}
    after = snapshot(sweep)
    assert {path for path in before if before[path] != after.get(path)} <= {
        path for path in before if Path(path).name in changed
    }


def test_the_weights_stay_in_the_directory_in_which_the_run_was_trained(
    call: Command, earlier: Path, tmp_path: Path
) -> None:
    assert call(main, *SWEEP).returncode == 0
    job = tmp_path / "sweep" / "1"
    expected = resnet_sweep.load_run(earlier).load_model().state_dict()
    found = resnet_sweep.load_run(job).load_model().state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert call(main, "evaluate", "sweep/1").returncode == 0
    assert (job / "evaluation").is_dir() and not (earlier / "evaluation").exists()
    start = (*ONE_STEP, "seed=5", "init_from=sweep/1", "dry_run=true")
    assert call(main, *start).returncode == 0
    # First it was moved, and then another run takes its place.
    earlier.rename(tmp_path / "moved")
    for _ in range(2):
        with pytest.raises(ConfigError, match="outputs/earlier"):
            resnet_sweep.load_run(job).load_model()
        for arguments in (["evaluate", "sweep/1"], start):
            result = call(main, *arguments)
            assert result.returncode == 2 and "outputs/earlier" in result.stderr
        shutil.copytree(tmp_path / "sweep" / "0", earlier, dirs_exist_ok=True)


@pytest.mark.parametrize("setting", ["reuse=false", "trainer.resume=false"])
def test_a_job_that_reused_a_run_can_be_trained(
    call: Command, earlier: Path, tmp_path: Path, setting: str
) -> None:
    assert call(main, *SWEEP).returncode == 0
    job = tmp_path / "sweep" / "1"
    result = call(main, *SWEEP, setting, "dry_run=true")
    assert "outputs" not in result.stdout.splitlines()[-1]
    result = call(main, *SWEEP, setting)
    assert result.returncode == 0, result.stderr
    assert read(job)["reused_from"] is None and (job / "checkpoints").is_dir()
    assert read(job)["started"] >= read(earlier)["ended"]
    assert read(job)["best"] == read(earlier)["best"]
    # Then the job is like any other, and isn't trained again.
    before = (job / "metrics.csv").stat()
    assert call(main, *SWEEP, "reuse=false").returncode == 0
    assert (job / "metrics.csv").stat() == before


def test_a_job_keeps_its_result_if_the_run_is_trained_again_elsewhere(
    call: Command, make_up: MakeUp, tmp_path: Path
) -> None:
    make_up(lambda lr, seed: 60.0 + seed)
    assert call(main, *MADE_UP, "hydra.sweep.dir=multirun/first").returncode == 0
    launcher = make_up(lambda lr, seed: 80.0)
    assert call(main, *MADE_UP).returncode == 0
    again = (*MADE_UP, "hydra.sweep.dir=multirun/again", "reuse=false")
    assert call(main, *again).returncode == 0
    assert call(main, *MADE_UP).returncode == 0
    assert launcher.launched == [[(0.1, 0), (0.1, 1)]]
    assert accuracies(tmp_path / "multirun" / "sweep") == [60.0, 61.0]
    # A copy is reused like any other run, and names the directory in which the run was trained.
    shutil.rmtree(tmp_path / "multirun" / "first")
    shutil.rmtree(tmp_path / "multirun" / "again")
    assert call(main, *MADE_UP, "hydra.sweep.dir=multirun/last").returncode == 0
    assert len(launcher.launched) == 1
    assert accuracies(tmp_path / "multirun" / "last") == [60.0, 61.0]
    assert [record["reused_from"] for record in records(tmp_path / "multirun/last").values()] == [
        str(tmp_path / "multirun" / "first" / str(number)) for number in range(2)
    ]


def test_each_run_is_found_once_and_preferably_where_it_was_trained(
    call: Command, make_up: MakeUp, tmp_path: Path
) -> None:
    make_up(lambda lr, seed: 60.0 + seed)
    for name in ("first", "second", "third"):
        assert call(main, *MADE_UP, f"hydra.sweep.dir=multirun/{name}").returncode == 0
    found = {run.directory.parent.name for run in find_runs([tmp_path / "multirun"])}
    assert found == {"first"}
    shutil.rmtree(tmp_path / "multirun" / "first")
    assert len(find_runs([tmp_path / "multirun"])) == 2
    assert len(find_runs([tmp_path / "multirun" / "third"])) == 2


@pytest.mark.parametrize("killed_at", ["layer_norms.csv", "metrics.csv", "events", "run.json"])
def test_a_copy_that_was_killed_is_made_again_or_removed(
    call: Command,
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_at: str,
) -> None:
    write_file, write_record = run_module.write_atomically, Record.write

    def file_killed(path: Path, *arguments: object, **options: object) -> None:
        if path.name.startswith(killed_at):
            raise KeyboardInterrupt
        write_file(path, *arguments, **options)

    def record_killed(record: Record, directory: Path, **options: bool) -> None:
        if record.reused_from is not None:
            raise KeyboardInterrupt
        write_record(record, directory, **options)

    with monkeypatch.context() as patch:
        if killed_at == "run.json":
            patch.setattr(Record, "write", record_killed)
        else:
            patch.setattr(run_module, "write_atomically", file_killed)
        assert call(main, *SWEEP).returncode == 130
    sweep = tmp_path / "sweep"
    assert read(sweep / "1")["state"] == "pending"
    killed = tmp_path / "killed"
    shutil.copytree(sweep, killed)
    assert call(main, *SWEEP).returncode == 0
    assert read(sweep / "1")["reused_from"] == str(earlier)
    assert read_metrics(sweep / "1") == read_metrics(earlier)
    # A command without the job removes its directory.
    assert call(main, *SWEEP, "hydra.sweep.dir=killed", "seed=0").returncode == 0
    assert not (killed / "1").exists()


@pytest.mark.parametrize("name", ["metrics.csv", "run.json"])
def test_a_run_that_was_altered_is_not_reused(call: Command, earlier: Path, name: str) -> None:
    path = earlier / name
    path.write_text(path.read_text().replace("1", "2"))
    jobs = dry_run_jobs(call(main, *SWEEP, "dry_run=true").stdout)
    assert [state for _, state, _ in jobs] == ["pending", "pending"]


def test_a_file_in_the_place_of_a_reused_job_is_not_overwritten(
    call: Command, earlier: Path, tmp_path: Path
) -> None:
    (tmp_path / "sweep" / "1").mkdir(parents=True)
    (tmp_path / "sweep" / "1" / "notes.txt").write_text("mine")
    result = call(main, *SWEEP)
    assert result.returncode == 2 and "notes.txt" in result.stderr
    assert [*(tmp_path / "sweep").rglob("*")] == [
        tmp_path / "sweep" / "1",
        tmp_path / "sweep" / "1" / "notes.txt",
    ]


def test_a_finished_run_is_resumed_by_its_own_metrics_only_where_it_was_trained(
    call: Command, earlier: Path, tmp_path: Path
) -> None:
    """A copy whose metrics were altered has no checkpoint to write them from, so it is trained."""
    assert call(main, *SWEEP).returncode == 0
    job = tmp_path / "sweep" / "1"
    expected = (job / "metrics.csv").read_text()
    (job / "metrics.csv").write_text(expected.replace("1", "2"))
    assert call(main, *ONE_STEP, "seed=1", "hydra.run.dir=sweep/1").returncode == 0
    assert read(job)["reused_from"] is None and (job / "checkpoints").is_dir()
    assert read(job)["best"] == read(earlier)["best"]


def test_a_job_that_trains_an_altered_copy_again_trains_it_in_its_own_directory(
    call: Command, earlier: Path, tmp_path: Path
) -> None:
    assert call(main, *SWEEP).returncode == 0
    job = tmp_path / "sweep" / "1"
    (job / "metrics.csv").write_text("altered")
    # A worker passes the record that it has read from the directory.
    run = run_module.Run.open(job, Record.read(job))
    run.close("interrupted", "by a test")
    record = Record.read(job)
    assert (record.reused_from, record.best, record.final) == (None, None, None)
