"""Tags and notes of runs, and the deletion of runs."""

import csv
import json
from pathlib import Path

import pytest
from conftest import Command
from filelock import FileLock
from processes import assert_refused
from run_directories import write_run
from small_sweep import snapshot

from resnet_sweep.__main__ import main
from resnet_sweep.cli.report import report
from resnet_sweep.compare.collection import find_runs
from resnet_sweep.compare.report_data import report_data
from resnet_sweep.runs.record import new_heartbeat


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Write four runs, and return their directory."""
    for number in range(4):
        write_run(tmp_path / "runs" / str(number), {"optim.lr": 0.1 + number}, 70.0 + number)
    return tmp_path / "runs"


def annotations(directory: Path) -> dict[str, tuple[list[str], str]]:
    found = find_runs([directory])
    return {run.directory.name: (run.annotation.tags, run.annotation.note) for run in found}


def test_tags_are_added_and_removed_and_a_note_is_replaced(call: Command, runs: Path) -> None:
    assert call(main, "annotate", "runs/0", "runs/1", "--tag", "good").returncode == 0
    assert call(main, "annotate", "runs/1", "--tag", "a-1", "--note", "first").returncode == 0
    assert annotations(runs) == {
        "0": (["good"], ""),
        "1": (["a-1", "good"], "first"),
        "2": ([], ""),
        "3": ([], ""),
    }
    result = call(main, "annotate", "runs/1", "--remove-tag", "good", "--note", "second")
    assert result.returncode == 0
    assert annotations(runs)["1"] == (["a-1"], "second")
    result = call(main, "annotate", "runs/1", "--remove-tag", "a-1", "--note", "")
    assert result.returncode == 0
    assert annotations(runs)["1"] == ([], "")
    assert not (runs / "1" / "annotation.json").exists()


def test_tables_and_reports_show_and_filter_annotations(call: Command, runs: Path) -> None:
    result = call(main, "runs", "runs")
    assert " tags " not in result.stdout and " note " not in result.stdout
    call(main, "annotate", "runs/2", "--tag", "good", "--note", "=it works, 100%")
    lines = call(main, "runs", "runs").stdout.splitlines()
    assert " tags " in lines[0] and " note " in lines[0]
    assert ["good" in line and "works" in line for line in lines[1:]].count(True) == 1
    result = call(main, "runs", "runs", "--filter", '"good" in tags', "--json")
    (row,) = json.loads(result.stdout)["runs"]
    assert (row["names"], row["tags"], row["note"]) == (["runs/2"], ["good"], "=it works, 100%")
    # A spreadsheet doesn't take the note for a formula.
    rows = list(csv.DictReader(call(main, "runs", "runs", "--csv").stdout.splitlines()))
    assert sorted((row["tags"], row["note"]) for row in rows) == [
        *[("", "")] * 3,
        ("good", "'=it works, 100%"),
    ]
    assert call(main, "runs", "runs", "--filter", 'note == "other"').stdout == "no runs\n"
    data = report_data("title", find_runs([runs]), [])
    assert [run["tags"] for run in data["runs"] if run["name"] == "2"] == ["good"]
    assert report([str(runs)], None).exists()


def test_a_damaged_or_linked_annotation_counts_as_none(call: Command, runs: Path) -> None:
    (runs / "0" / "annotation.json").write_text('{"tags": ["two words"]}')
    (runs / "target").write_text('{"tags": ["other"]}')
    (runs / "1" / "annotation.json").symlink_to(runs / "target")
    (runs / "2" / "annotation.json").write_text("{")
    assert {tuple(tags) for tags, _ in annotations(runs).values()} == {()}
    assert call(main, "annotate", "runs/2", "--tag", "good").returncode == 0
    assert annotations(runs)["2"] == (["good"], "")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["runs/0"], ["--tag", "--note"]),
        (["runs/0", "--tag", "two words"], ["two words"]),
        (["runs/0", "--tag", ""], ["--tag"]),
        (["runs/0", "--tag", "é" * 41], ["40"]),
        (["runs/0", "--note", "x" * 2001], ["2001", "2000"]),
        (["runs/0", "--remove-tag", "bad"], ["runs/0", "bad"]),
        (["runs/0", "nowhere", "--tag", "good"], ["nowhere"]),
        (["runs/0", "logged_run_1", "--tag", "good"], ["logged_run_1"]),
        (["--tag", "good"], ["RUN"]),
    ],
)
def test_a_wrong_annotation_is_refused_and_nothing_is_written(
    call: Command, runs: Path, arguments: list[str], facts: list[str]
) -> None:
    before = snapshot(runs)
    assert_refused(call(main, "annotate", *arguments), *facts)
    assert snapshot(runs) == before


def test_chosen_runs_are_deleted(call: Command, runs: Path) -> None:
    (runs / "1" / "checkpoints").mkdir()
    (runs / "1" / "checkpoints" / "best_model.pth").write_bytes(b"weights")
    kept = runs / "kept"
    kept.mkdir()
    (runs / "1" / "link").symlink_to(kept)
    condition = ("--filter", "best > 70 and best < 73")
    result = call(main, "runs", "runs", *condition, "--delete", "--yes")
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in runs.iterdir()) == ["0", "3", "kept"]
    result = call(main, "runs", "runs", *condition, "--delete", "--yes")
    assert (result.returncode, result.stdout) == (0, "no runs\n")


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        # The output of a test isn't a terminal.
        (["runs", "--delete"], ["--yes"]),
        (["--delete", "--yes"], ["--filter"]),
        (["runs", "--yes"], ["--delete"]),
        (["runs", "--delete", "--yes", "--json"], ["--json"]),
        (["runs", "--delete", "--yes", "--baseline", "optim.lr == 0.1"], ["--baseline"]),
        (["runs", "logged_run_1", "--delete", "--yes"], ["logged_run_1"]),
        (["runs", "--delete", "--yes", "--filter", "optim.lrr == 1"], ["optim.lrr", "optim.lr"]),
    ],
)
def test_runs_are_not_deleted_by_a_wrong_command(
    call: Command, runs: Path, arguments: list[str], facts: list[str]
) -> None:
    (runs.parent / "outputs").symlink_to(runs)
    before = snapshot(runs)
    assert_refused(call(main, "runs", *arguments), *facts)
    assert snapshot(runs) == before


def test_no_run_is_deleted_while_one_of_them_is_trained(call: Command, runs: Path) -> None:
    write_run(runs / "1", {"optim.lr": 1.1}, state="running", heartbeat=new_heartbeat())
    with FileLock(runs / "1" / "run.lock"):
        before = snapshot(runs)
        assert_refused(call(main, "runs", "runs", "--delete", "--yes"), "runs/1", "in use")
        assert snapshot(runs) == before
    assert call(main, "runs", "runs", "--delete", "--yes").returncode == 0
    assert [*runs.iterdir()] == []
