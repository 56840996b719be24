"""Tags and notes of runs, and the deletion of runs."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Command
from processes import assert_refused
from run_directories import write_run
from small_run import config, open_run, train
from small_sweep import GRID, TINY, snapshot

import resnet_sweep
from resnet_sweep.__main__ import main
from resnet_sweep.config.plan import plan_run
from resnet_sweep.runs.annotations import ANNOTATIONS, Annotations
from resnet_sweep.runs.metrics import read_metrics
from resnet_sweep.sweeps.deletion import disk_space


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Write three runs in `outputs`, which differ in the learning rate."""
    return [
        write_run(tmp_path / "outputs" / str(number), {"optim.lr": 0.1 * (1 + number)})
        for number in range(3)
    ]


class TestAnnotate:
    def test_tags_and_the_note_are_added_changed_and_removed(
        self, call: Command, runs: list[Path]
    ) -> None:
        steps = [
            (["--tag", "good", "--tag", "paper"], (["good", "paper"], "")),
            (["--tag", "good", "--note", "seed 3 is odd"], (["good", "paper"], "seed 3 is odd")),
            ([], (["good", "paper"], "seed 3 is odd")),
            (["--untag", "good", "--note", ""], (["paper"], "")),
        ]
        for options, (tags, note) in steps:
            assert call(main, "annotate", "outputs/0", "outputs/1", *options).returncode == 0
            for run in runs[:2]:
                found = resnet_sweep.load_run(run)
                assert (found.tags, found.note) == (tags, note)
        assert {path.name for path in runs[0].iterdir()} == {"run.json", "metrics.csv", ANNOTATIONS}
        assert resnet_sweep.load_run(runs[2]).tags == []

    def test_conditions_tables_and_frames_show_them(self, call: Command, runs: list[Path]) -> None:
        assert "note" not in call(main, "runs").stdout
        call(main, "annotate", "outputs/1", "--tag", "good", "--note", "better than expected")
        lines = call(main, "runs", "--no-group").stdout.splitlines()
        assert [line for line in lines if "good" in line and "better than expected" in line]
        for condition in ('"good" in tags', '"expected" in note'):
            found = json.loads(call(main, "runs", "--filter", condition, "--json").stdout)
            (row,) = found["runs"]
            assert row["names"] == ["outputs/1"]
            assert (row["tags"], row["note"]) == (["good"], "better than expected")
        loaded = resnet_sweep.load_runs("outputs")
        assert [run.name for run in loaded.filter("'good' in tags")] == ["outputs/1"]
        frame = loaded.to_frame().set_index("run")
        assert frame.loc["outputs/1", "note"] == "better than expected"
        assert {*frame["tags"]} == {"[]", '["good"]'}

    def test_a_wrong_change_is_refused_before_the_first_run_is_changed(
        self, call: Command, runs: list[Path]
    ) -> None:
        call(main, "annotate", "outputs/0", "--tag", "good")
        assert_refused(call(main, "annotate", "outputs/0", "outputs/1", "--untag", "good"), "good")
        assert_refused(call(main, "annotate", "outputs/1", "--tag", "two words"), "two words")
        assert_refused(call(main, "annotate", "outputs/1", "nowhere", "--tag", "a"), "nowhere")
        assert_refused(call(main, "annotate", "logged_run_1", "--tag", "a"), "logged_run_1")
        assert not (runs[1] / ANNOTATIONS).exists()
        (runs[0] / ANNOTATIONS).write_text("{")
        assert_refused(call(main, "annotate", "outputs/0", "--tag", "a"), ANNOTATIONS)
        assert ANNOTATIONS in resnet_sweep.load_run(runs[0]).note

    def test_a_linked_or_a_large_file_is_not_read(self, runs: list[Path], tmp_path: Path) -> None:
        (tmp_path / "secret").write_text('{"tags": ["secret"]}')
        (runs[0] / ANNOTATIONS).symlink_to(tmp_path / "secret")
        assert resnet_sweep.load_run(runs[0]).tags == []

    def test_they_survive_a_resumption_and_a_new_start(self, tmp_path: Path) -> None:
        planned = plan_run(config(trainer__epochs=1))
        open_run(planned, tmp_path / "run").close("interrupted")
        before = Annotations(tags=["kept"])
        (tmp_path / "run" / ANNOTATIONS).write_text(before.model_dump_json())
        train(planned, tmp_path / "run")
        run = resnet_sweep.load_run(tmp_path / "run")
        assert run.state == "finished"
        assert run.tags == ["kept"]
        assert run.record.signature == planned.signature
        resnet_sweep.train([*TINY, "trainer.epochs=1"], directory=tmp_path / "other")
        (tmp_path / "other" / ANNOTATIONS).write_text(before.model_dump_json())
        again = [*TINY, "trainer.epochs=1", "trainer.resume=false"]
        assert resnet_sweep.train(again, directory=tmp_path / "other").tags == ["kept"]


class TestDelete:
    def test_the_chosen_runs_are_shown_and_deleted(self, call: Command, runs: list[Path]) -> None:
        call(main, "annotate", "outputs/0", "--tag", "bad")
        size = sum(disk_space(run) for run in runs[:1])
        assert size > 0
        result = call(main, "runs", "--filter", '"bad" in tags', "--delete", "--yes")
        assert result.returncode == 0, result.stderr
        assert "outputs/0" in result.stdout
        assert [run.exists() for run in runs] == [False, True, True]

    def test_nothing_is_deleted_without_a_choice_and_an_answer(
        self, call: Command, runs: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert_refused(call(main, "runs", "--delete", "--yes"), "--delete", "--filter")
        assert_refused(call(main, "runs", "outputs", "--delete"), "--yes")
        assert_refused(call(main, "runs", "outputs", "--yes"), "--delete")
        for option in ("--group-by=seed", "--baseline=best > 1", "--json"):
            assert_refused(call(main, "runs", "outputs", "--delete", "--yes", option), "--delete")
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("builtins.input", lambda *prompt: "n")
        assert call(main, "runs", "outputs", "--delete").returncode == 0
        assert all(run.exists() for run in runs)
        monkeypatch.setattr("builtins.input", lambda *prompt: "y")
        assert call(main, "runs", "outputs/2", "--delete").returncode == 0
        assert [run.exists() for run in runs] == [True, True, False]

    def test_a_running_run_is_not_deleted_and_neither_are_the_others(
        self, call: Command, runs: list[Path]
    ) -> None:
        running = open_run(plan_run(config()), runs[0].parent / "running")
        assert_refused(call(main, "runs", "outputs", "--delete", "--yes"), "running", "--filter")
        assert all(run.exists() for run in runs)
        condition = 'state != "running"'
        result = call(main, "runs", "outputs", "--filter", condition, "--delete", "--yes")
        assert result.returncode == 0, result.stderr
        assert not any(run.exists() for run in runs)
        running.close("interrupted")
        assert call(main, "runs", "outputs", "--delete", "--yes").returncode == 0
        assert not running.directory.exists()

    def test_other_files_and_what_links_point_to_are_kept(
        self, call: Command, runs: list[Path], tmp_path: Path
    ) -> None:
        (runs[0] / "thesis.tex").write_text("mine")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "a.png").touch()
        (runs[1] / "plots").symlink_to(elsewhere)
        result = call(main, "runs", "outputs", "--delete", "--yes")
        assert result.returncode == 0
        assert "thesis.tex" in result.stdout
        assert [path.name for path in runs[0].iterdir()] == ["thesis.tex"]
        assert not runs[1].exists()
        assert (elsewhere / "a.png").exists()

    def test_a_run_and_its_copies_in_sweeps_are_deleted_separately(self, call: Command) -> None:
        assert call(main, *TINY, "hydra.run.dir=outputs/a").returncode == 0
        for name in ("s", "t"):
            grid = ("--multirun", *TINY, "optim.lr=0.1,0.05", f"hydra.sweep.dir=multirun/{name}")
            assert call(main, *grid).returncode == 0
        result = call(main, "runs", "multirun/s", "--delete", "--yes")
        assert result.returncode == 0
        # The sweep t reuses the run with the other rate, which s has trained.
        assert "multirun/t/1" in result.stdout
        assert Path("outputs/a/checkpoints/best_model.pth").exists()
        assert not [*Path("multirun/s").glob("*/run.json")]
        jobs = json.loads(Path("multirun/s/sweep.json").read_text())["jobs"]
        assert [(job["state"], job["reused"]) for job in jobs] == [("pending", False)] * 2
        before = snapshot(Path("multirun/t"))
        result = call(main, "runs", "outputs/a", "--delete", "--yes")
        assert "multirun/t/0" in result.stdout
        copy = resnet_sweep.load_run("multirun/t/0")
        assert snapshot(Path("multirun/t")) == before
        assert len(copy.metrics.rows) == copy.record.epochs
        assert_refused(call(main, "evaluate", copy.name), "outputs/a")
        # The same command doesn't train the copy.
        result = call(main, *grid)
        assert result.returncode == 0, result.stderr
        assert read_metrics(copy.directory) == copy.metrics.rows

    def test_a_run_is_deleted_with_its_copies_in_the_same_directories(self, call: Command) -> None:
        assert call(main, *TINY, "hydra.run.dir=outputs/a").returncode == 0
        grid = ("--multirun", *TINY, "optim.lr=0.1,0.05", "hydra.sweep.dir=multirun/s")
        assert call(main, *grid).returncode == 0
        condition = ("--filter", "optim.lr == 0.1", "--delete", "--yes")
        assert call(main, "runs", "outputs", "multirun", *condition).returncode == 0
        assert [path.parent.name for path in Path().glob("*/**/run.json")] == ["1"]

    @pytest.mark.slow
    def test_a_sweep_trains_deleted_jobs_again_with_the_same_numbers(
        self, call: Command, tmp_path: Path
    ) -> None:
        assert call(main, *GRID).returncode == 0
        sweep = tmp_path / "sweep"
        before = {path.parent.name: read_metrics(path.parent) for path in sweep.glob("*/run.json")}
        result = call(main, "runs", "sweep", "--filter", "optim.lr == 0.1", "--delete", "--yes")
        assert result.returncode == 0, result.stderr
        jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
        assert [job["state"] for job in jobs] == ["pending", "pending", "finished", "finished"]
        assert [job["number"] for job in jobs] == [0, 1, 2, 3]
        rows = (sweep / "results.csv").read_text().splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == ["2", "3"]
        assert len(resnet_sweep.Sweep(sweep).runs) == 2
        assert call(main, "report", "sweep", "-o", "page.html").returncode == 0
        assert call(main, *GRID).returncode == 0
        after = {path.parent.name: read_metrics(path.parent) for path in sweep.glob("*/run.json")}
        assert after.keys() == before.keys()
        for name, rows in after.items():
            assert [row["val_loss"] for row in rows] == [row["val_loss"] for row in before[name]]

    def test_a_study_keeps_its_results(self, call: Command) -> None:
        space = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "optim.lr=interval(0.01,0.3)")
        study = ("--multirun", *TINY, *space, "hydra.sweep.dir=study")
        assert call(main, *study).returncode == 0
        before = json.loads(Path("study/sweep.json").read_text())
        assert call(main, "runs", "study/0", "--delete", "--yes").returncode == 0
        assert not Path("study/0").exists()
        more = call(main, *study, "hydra.sweeper.n_trials=3")
        assert more.returncode == 0, more.stderr
        after = json.loads(Path("study/sweep.json").read_text())
        values = [[job["value"] for job in content["jobs"]] for content in (before, after)]
        assert values[1][:2] == values[0]
        assert len(values[1]) == 3

    def test_a_deletion_that_was_killed_can_be_repeated(
        self, call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        train(plan_run(config(trainer__epochs=1)), tmp_path / "outputs/run")
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", lambda path: _interrupt())
            assert call(main, "runs", "outputs", "--delete", "--yes").returncode == 130
        run = resnet_sweep.load_run(tmp_path / "outputs/run")
        assert run.state == "interrupted"
        assert call(main, "runs", "outputs", "--delete", "--yes").returncode == 0
        assert not (tmp_path / "outputs/run").exists()


def _interrupt() -> None:
    raise KeyboardInterrupt
