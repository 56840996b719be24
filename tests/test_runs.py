"""Run directories: signature, record, lock, metrics and atomic writes."""

import errno
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.lock import DirectoryLock
from resnet_sweep.runs.metrics import COLUMNS, read_metrics, write_metrics
from resnet_sweep.runs.provenance import read_hydra_job, write_hydra_folder
from resnet_sweep.runs.record import Record, State, duration
from resnet_sweep.runs.run import (
    LockLostError,
    Run,
    make_unique_directory,
    mark_failed,
    reset_run,
    unexpected_file,
    write_plan,
)
from resnet_sweep.runs.signature import differences, flatten, sign

CONFIG = {
    "seed": 0,
    "model": {"widths": [16, 32], "dropout": 0.1},
    "optim": {"lr": 0.1, "momentum": 0.9},
    "data": {"root": None, "holdout": None},
    "logger": {"tensorboard": {}},
    "trainer": {
        "epochs": 5,
        "device": "auto",
        "threads": None,
        "precision": "auto",
        "resume": True,
    },
}


def changed(path: str, value: object) -> dict:
    config = json.loads(json.dumps(CONFIG))
    group, _, name = path.partition(".")
    if name:
        config[group][name] = value
    else:
        config[group] = value
    return config


def signature(config: dict = CONFIG, precision: str = "float32", data: str = "d") -> str:
    return sign(config, precision, {"data": data})


class TestSignature:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("seed", 1),
            ("model.widths", [32, 16]),
            ("model.dropout", 0.2),
            ("model.attention", "se"),
            ("optim.lr", 0.1000001),
            ("data.holdout", 5000),
            ("trainer.epochs", 6),
        ],
    )
    def test_it_changes_with_settings_that_decide_the_result(
        self, path: str, value: object
    ) -> None:
        assert signature(changed(path, value)) != signature()

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("data.root", "/elsewhere"),
            ("logger", {}),
            ("trainer.device", "cuda"),
            ("trainer.threads", 1),
            ("trainer.precision", "float32"),
            ("trainer.resume", False),
        ],
    )
    def test_it_does_not_depend_on_where_and_how_a_run_is_trained(
        self, path: str, value: object
    ) -> None:
        assert signature(changed(path, value)) == signature()

    def test_it_changes_with_the_data_and_the_precision(self) -> None:
        assert signature(data="e") != signature()
        assert signature(precision="bfloat16") != signature()

    def test_it_is_the_same_for_1_and_1_0(self) -> None:
        assert signature(changed("optim.lr", 1)) == signature(changed("optim.lr", 1.0))

    def test_it_does_not_depend_on_the_order_of_groups(self) -> None:
        assert signature(dict(reversed(CONFIG.items()))) == signature()

    def test_it_is_the_same_as_in_earlier_versions(self) -> None:
        """Another signature makes existing runs unusable; NUMERICS explains when it may change."""
        assert signature() == "7d01ccdab04ab0ba"

    def test_differences_name_settings_with_both_values(self) -> None:
        one, other = dict(flatten(CONFIG)), dict(flatten(changed("optim.lr", 0.2)))
        assert differences(one, other) == {"optim.lr": (0.1, 0.2)}


class TestDirectory:
    def record(self, config: dict = CONFIG) -> Record:
        return Record(
            signature=signature(config), config=config, precision="float32", inputs={"data": "d"}
        )

    def test_runs_started_in_the_same_second_get_different_directories(
        self, tmp_path: Path
    ) -> None:
        names = [make_unique_directory(tmp_path / "day" / "12-00-00").name for _ in range(3)]
        assert names == ["12-00-00", "12-00-00-2", "12-00-00-3"]

    def test_a_run_is_started_interrupted_resumed_and_finished(self, tmp_path: Path) -> None:
        run = Run.open(tmp_path / "run", self.record())
        assert Record.read(run.directory).state == "running"
        assert Record.read(run.directory).heartbeat["process"] == os.getpid()
        run.close("interrupted", "stopped by SIGTERM")
        assert Record.read(run.directory).heartbeat is None

        resumed = Run.open(tmp_path / "run", self.record())
        assert resumed.record.state == "running"
        assert resumed.record.reason == ""
        assert resumed.record.started == run.record.started
        resumed.close("finished")

        finished = Run.open(tmp_path / "run", self.record())
        assert finished.record.has_ended
        assert sorted(path.name for path in run.directory.iterdir()) == ["run.json"]

    def test_a_directory_with_a_run_of_another_config_is_refused_and_unchanged(
        self, tmp_path: Path
    ) -> None:
        Run.open(tmp_path, self.record()).close("interrupted")
        before = {path: path.read_bytes() for path in tmp_path.rglob("*")}
        with pytest.raises(ConfigError) as error:
            Run.open(tmp_path, self.record(changed("optim.lr", 0.2)))
        for fact in (str(tmp_path), "optim.lr", r"\b0\.1\b", r"\b0\.2\b"):
            assert re.search(fact, str(error.value))
        assert {path: path.read_bytes() for path in tmp_path.rglob("*")} == before

    def test_a_directory_with_other_files_is_refused_and_unchanged(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("years of work")
        with pytest.raises(ConfigError, match=r"thesis\.tex"):
            Run.open(tmp_path, self.record())
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]

    def test_a_file_in_place_of_the_directory_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigError, match=str(tmp_path / "file")):
            Run.open(tmp_path / "file", self.record())

    @pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"signature": 1, "config": 2}'])
    def test_a_damaged_record_is_refused_and_unchanged(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(ConfigError, match=str(tmp_path / "run.json")):
            Run.open(tmp_path, self.record())
        assert (tmp_path / "run.json").read_text() == content

    def test_reset_run_removes_only_the_results(self, tmp_path: Path) -> None:
        Run.open(tmp_path, self.record()).close("finished")
        for name in ("checkpoints", "evaluation", "features"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").touch()
        (tmp_path / "layer_norms.csv").touch()
        (tmp_path / "notes.txt").touch()
        reset_run(tmp_path, self.record())
        record = Record.read(tmp_path)
        assert (record.state, record.final, record.heartbeat) == ("interrupted", None, None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]

    def test_a_planned_run_is_pending_until_it_starts(self, tmp_path: Path) -> None:
        write_plan(tmp_path / "run", self.record())
        planned = Record.read(tmp_path / "run")
        assert (planned.state, planned.started, planned.heartbeat) == ("pending", None, None)
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
        run = Run.open(tmp_path / "run", self.record())
        assert Record.read(run.directory).state == "running"
        with pytest.raises(ConfigError, match=str(os.getpid())):
            write_plan(tmp_path / "run", self.record())
        run.close("finished")

    @pytest.mark.parametrize(
        ("earlier", "state"),
        [
            ("pending", "pending"),
            ("running", "interrupted"),
            ("interrupted", "interrupted"),
            ("failed", "failed"),
            ("finished", "finished"),
        ],
    )
    def test_a_plan_keeps_the_results_of_an_earlier_run(
        self, tmp_path: Path, earlier: State, state: State
    ) -> None:
        record = self.record()
        record.state, record.reason, record.seconds = earlier, "why", 12.5
        record.started = "2026-01-02T03:04:05+00:00"
        record.best = {"epoch": 2, "val_acc": 50.0, "val_loss": 1.0}
        record.write(tmp_path)
        write_plan(tmp_path, self.record())
        planned = Record.read(tmp_path)
        assert planned.state == state
        for name in ("started", "seconds", "best"):
            assert getattr(planned, name) == getattr(record, name)
        if earlier in ("interrupted", "failed", "finished"):
            assert planned.reason == "why"

    def test_a_plan_for_the_directory_of_another_run_is_refused(self, tmp_path: Path) -> None:
        write_plan(tmp_path, self.record())
        before = (tmp_path / "run.json").read_bytes()
        with pytest.raises(ConfigError, match=r"optim\.lr"):
            write_plan(tmp_path, self.record(changed("optim.lr", 0.2)))
        assert (tmp_path / "run.json").read_bytes() == before

    @pytest.mark.parametrize(
        ("state", "marked"),
        [("pending", "failed"), ("running", "failed"), ("finished", "finished")],
    )
    def test_a_run_whose_process_exited_is_marked_as_failed_unless_it_has_ended(
        self, tmp_path: Path, state: State, marked: State
    ) -> None:
        record = self.record()
        record.state = state
        record.write(tmp_path)
        mark_failed(tmp_path, "its process exited")
        record = Record.read(tmp_path)
        assert record.state == marked
        assert (record.reason == "its process exited") == (marked == "failed")

    def test_a_run_can_start_where_an_earlier_process_was_killed_at_once(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / ".run.json-abc").touch()
        (tmp_path / "run.lock").touch()
        Run.open(tmp_path, self.record()).close("interrupted")
        assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

    def test_the_output_directory_of_another_hydra_application_is_refused(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / "main.log").touch()
        with pytest.raises(ConfigError, match=str(tmp_path)):
            Run.open(tmp_path, self.record())
        assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "main.log"]

    def test_a_directory_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="longlong"):
            unexpected_file(tmp_path / ("long" * 100))

    def test_a_file_named_like_hydras_folder_is_unexpected(self, tmp_path: Path) -> None:
        (tmp_path / ".hydra").touch()
        assert unexpected_file(tmp_path) == ".hydra"

    def test_hydras_folder_is_written_even_if_another_process_removes_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_text = Path.write_text

        def remove_and_write(path: Path, text: str, **options: str) -> int:
            monkeypatch.undo()
            path.parent.rmdir()
            return write_text(path, text, **options)

        monkeypatch.setattr(Path, "write_text", remove_and_write)
        write_hydra_folder(tmp_path, {"seed": 1}, {"job": {"chdir": True}}, ["seed=1"])
        assert read_hydra_job(tmp_path) == {"chdir": True}
        names = sorted(path.name for path in (tmp_path / ".hydra").iterdir())
        assert names == ["config.yaml", "hydra.yaml", "overrides.yaml"]

    def test_unfinished_files_of_a_killed_process_are_removed(self, tmp_path: Path) -> None:
        Run.open(tmp_path, self.record()).close("interrupted")
        (tmp_path / ".run.json-abc").touch()
        (tmp_path / "checkpoints").mkdir()
        Run.open(tmp_path, self.record()).close("interrupted")
        assert not (tmp_path / ".run.json-abc").exists()


class TestLock:
    HOLD = textwrap.dedent("""
        import sys, time
        from pathlib import Path
        from resnet_sweep.runs.record import Record
        from resnet_sweep.runs.run import Run
        run = Run.open(Path(sys.argv[1]), Record(signature="s"))
        print("held", flush=True)
        time.sleep(600)
    """)

    def hold(self, directory: Path) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", self.HOLD, str(directory)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "held\n"
        return process

    def test_a_second_process_is_refused_with_the_number_of_the_first(self, tmp_path: Path) -> None:
        process = self.hold(tmp_path)
        try:
            before = {path: path.read_bytes() for path in tmp_path.iterdir()}
            with pytest.raises(ConfigError, match=rf"\b{process.pid}\b"):
                Run.open(tmp_path, Record(signature="s"))
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        finally:
            process.kill()
            process.wait()

    def test_a_killed_process_releases_the_lock(self, tmp_path: Path) -> None:
        process = self.hold(tmp_path)
        process.kill()
        process.wait()
        assert Record.read(tmp_path).state == "running"
        Run.open(tmp_path, Record(signature="s")).close("interrupted")

    @pytest.mark.parametrize(("age", "free"), [(10, False), (1000, True)])
    def test_a_heartbeat_of_another_machine_locks_the_run_until_it_is_stale(
        self, tmp_path: Path, age: float, free: bool
    ) -> None:
        heartbeat = {"host": "elsewhere", "process": 1, "renewed": time.time() - age}
        Record(signature="s", heartbeat=heartbeat).write(tmp_path)
        if free:
            Run.open(tmp_path, Record(signature="s")).close("interrupted")
        else:
            with pytest.raises(ConfigError, match=r"\b1\b.*\belsewhere\b"):
                Run.open(tmp_path, Record(signature="s"))
            assert [path.name for path in tmp_path.iterdir()] == ["run.json"]

    def test_a_process_cannot_change_a_run_that_another_one_took_over(self, tmp_path: Path) -> None:
        run = Run.open(tmp_path, Record(signature="s"))
        Record(signature="s", state="finished", heartbeat=None).write(tmp_path)
        for change in (lambda: run.update(gap=1.0), lambda: run.close("interrupted")):
            with pytest.raises(LockLostError):
                change()
        assert Record.read(tmp_path).state == "finished"

    def test_the_heartbeat_is_renewed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("resnet_sweep.runs.run.HEARTBEAT_SECONDS", 0.05)
        run = Run.open(tmp_path, Record(signature="s"))
        first = Record.read(tmp_path).heartbeat["renewed"]
        deadline = time.monotonic() + 30
        while Record.read(tmp_path).heartbeat["renewed"] == first and time.monotonic() < deadline:
            time.sleep(0.02)
        assert Record.read(tmp_path).heartbeat["renewed"] > first
        run.close("finished")
        # If close() didn't stop the renewals, several would follow in this time.
        time.sleep(0.2)
        assert Record.read(tmp_path).heartbeat is None

    def test_two_processes_never_hold_the_lock_at_the_same_time(self, tmp_path: Path) -> None:
        """Each process creates a file that must not exist, and removes it."""
        (tmp_path / "run").mkdir()
        script = textwrap.dedent("""
            import sys
            from pathlib import Path
            from resnet_sweep.errors import ConfigError
            from resnet_sweep.runs.lock import DirectoryLock
            directory, held = Path(sys.argv[1]), 0
            while held < 300:
                try:
                    lock = DirectoryLock(directory)
                except ConfigError:
                    continue
                (directory.parent / "held").open("x").close()
                (directory.parent / "held").unlink()
                lock.release()
                held += 1
        """)
        processes = [
            subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "run")])
            for _ in range(4)
        ]
        assert [process.wait(timeout=120) for process in processes] == [0, 0, 0, 0]

    def test_only_one_process_at_a_time_is_in_an_exclusive_context(self, tmp_path: Path) -> None:
        script = textwrap.dedent("""
            import sys
            from pathlib import Path
            from resnet_sweep.runs.lock import exclusive
            path = Path(sys.argv[1])
            for _ in range(100):
                with exclusive(path / "lock"):
                    (path / "held").open("x").close()
                    (path / "held").unlink()
        """)
        processes = [
            subprocess.Popen([sys.executable, "-c", script, str(tmp_path)]) for _ in range(3)
        ]
        assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
        assert not list(tmp_path.iterdir())

    def test_a_held_lock_is_refused_until_it_is_released(self, tmp_path: Path) -> None:
        lock = DirectoryLock(tmp_path)
        for _ in range(5):
            with pytest.raises(ConfigError, match=str(tmp_path)):
                DirectoryLock(tmp_path)
        lock.release()
        DirectoryLock(tmp_path).release()
        assert not list(tmp_path.iterdir())


class TestMetrics:
    def test_metrics_are_read_as_they_were_written(self, tmp_path: Path) -> None:
        rows = [
            {"epoch": 1, "lr": 0.1, "train_loss": 1 / 3, "val_acc": 12.34},
            {"epoch": 2, "train_loss": 4.0, "grad_norm": 1e-30},
        ]
        write_metrics(tmp_path, rows)
        assert read_metrics(tmp_path) == rows
        header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
        assert header == ",".join(COLUMNS)

    def test_the_record_has_the_best_epoch_the_last_epoch_and_the_gap(self, tmp_path: Path) -> None:
        run = Run.open(tmp_path, Record(signature="s"))
        run.write_metrics(
            [
                {
                    "epoch": epoch,
                    "train_acc": 50.0 * epoch,
                    "train_loss": 1.0,
                    "val_acc": accuracy,
                    "val_loss": 2.0,
                    "seconds": 1.5,
                }
                for epoch, accuracy in [(1, 40.0), (2, 60.0), (3, 60.0), (4, 55.0)]
            ]
        )
        run.close("finished")
        record = Record.read(tmp_path)
        assert record.best == {"epoch": 2, "val_acc": 60.0, "val_loss": 2.0}
        assert record.final["epoch"] == 4
        assert record.gap == 145.0
        assert record.seconds == 6.0


def test_commands_that_read_runs_import_no_module_that_only_unix_has() -> None:
    script = textwrap.dedent("""
        import sys
        sys.modules["fcntl"] = sys.modules["resource"] = None
        import resnet_sweep.cli.diff, resnet_sweep.cli.report, resnet_sweep.cli.runs
        import resnet_sweep.compare.report, resnet_sweep.compare.runs_table
        import resnet_sweep.compare.diff_view
        assert "torch" not in sys.modules and "hydra" not in sys.modules
    """)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nan_and_infinity_are_written_as_null(tmp_path: Path) -> None:
    Record(signature="s", config={"x": [float("nan")]}, gap=float("inf")).write(tmp_path)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["gap"] is None
    assert written["config"] == {"x": [None]}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.26, "8.3 s"), (245, "4 min 05 s"), (59.96, "60.0 s"), (48000, "13 h 20 min")],
)
def test_a_duration_is_formatted_with_suitable_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_failed_write_raises_an_error_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: str, target: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError) as error:
        write_atomically(path, b"new")
    assert error.value.errno == errno.EDQUOT
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_a_file_is_flushed_before_it_is_synchronized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a power failure leaves an empty file."""
    sizes = []
    fsync = os.fsync

    def record_size(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record_size)
    write_atomically(tmp_path / "run.json", b"content")
    assert sizes[0] == len(b"content")
