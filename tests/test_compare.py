"""Run directories are read as untrusted data, and grouped into replicates."""

import configparser
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from run_directories import COLUMNS, write_run
from small_run import composed

from resnet_sweep.compare.collection import LOGGED_RUNS, find_runs, read_run, resolve_run
from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.filter_expression import FilterExpression, run_fields
from resnet_sweep.compare.format import safe_text
from resnet_sweep.compare.group import Statistic, group_replicates
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import signed_settings


def run_names(folder: Path, *paths: str) -> list[str]:
    """Return the directories of the runs that are found in a folder, or in paths in it."""
    return [
        str(run.directory.relative_to(folder))
        for run in find_runs([folder / path for path in paths] or [folder])
    ]


class TestFindRuns:
    def test_runs_are_found_at_any_depth_and_sorted_newest_first(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", started="2026-01-01T10:00:00+00:00")
        write_run(tmp_path / "b/c/d", started="2026-01-01T13:00:00+02:00")
        # In UTC, this is 12:30, and the run before 11:00.
        write_run(tmp_path / "b/e", started="2026-01-01T10:30:00-02:00")
        assert run_names(tmp_path) == ["b/e", "b/c/d", "a"]

    def test_jobs_with_the_same_start_time_are_sorted_by_their_numbers(
        self, tmp_path: Path
    ) -> None:
        for number in range(12):
            write_run(tmp_path / str(number))
        assert run_names(tmp_path) == [str(number) for number in range(12)]

    def test_links_hidden_folders_and_runs_inside_runs_are_ignored(self, tmp_path: Path) -> None:
        elsewhere = write_run(tmp_path / "elsewhere/run")
        folder = tmp_path / "runs"
        write_run(folder / "run")
        write_run(folder / "run/checkpoints/copy")
        write_run(folder / ".trash/run")
        (folder / "link").symlink_to(elsewhere)
        (folder / "loop").symlink_to(folder)
        assert run_names(folder) == ["run"]

    def test_a_run_in_several_of_the_directories_is_listed_once(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a/run")
        assert run_names(tmp_path, "a", "", "a/run") == ["a/run"]

    def test_the_name_of_a_run_is_its_path_from_the_current_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_run(tmp_path / "outputs/run")
        monkeypatch.chdir(tmp_path)
        for argument in (".", "outputs", "outputs/run", "./outputs/"):
            assert [run.name for run in find_runs([argument])] == ["outputs/run"]

    def test_a_run_is_a_directory_or_a_logged_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run")
        assert resolve_run(run) == run
        assert resolve_run("logged_run_1") == LOGGED_RUNS / "logged_run_1"
        for wrong in ("nowhere", tmp_path, run / "run.json"):
            with pytest.raises(ConfigError) as refusal:
                resolve_run(wrong)
            for name in (str(wrong), "logged_run_1", "logged_run_2"):
                assert name in str(refusal.value)

    def test_a_folder_that_cannot_be_read_is_reported(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        deep = tmp_path
        descriptor = os.open(tmp_path, os.O_RDONLY)
        # The folders are nested more deeply than the longest path of the system.
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=descriptor)
            inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, deep = inner, deep / ("d" * 200)
        os.close(descriptor)
        readable, broken = find_runs([tmp_path])
        assert isinstance(readable, LoadedRun) and isinstance(broken, BrokenRun)
        assert "File name too long" in broken.error


def record_with(**changes: object) -> str:
    """Return the content of a valid `run.json` with some values changed."""
    values = {
        "signature": "s",
        "config": {},
        "best": {"epoch": 1, "val_acc": 1.0, "val_loss": None},
    }
    return json.dumps(values | changes)


BROKEN_RECORDS = {
    "empty": ("", r"\bJSON\b"),
    "cut off": ('{"signature": "s", "config', r"\bJSON\b"),
    "not text": ("\udcff\udcfe", r"\bJSON\b"),
    "a list": ("[]", r"\[\]"),
    "null": ("null", r"\bnull\b"),
    "deep": ("[" * 10_000 + "]" * 10_000, r"\brecursion\b"),
    "long number": ('{"signature": "s", "gap": ' + "9" * 5000 + "}", r"\bJSON\b"),
    "not a number": (record_with(gap=float("nan")), r"\bJSON\b"),
    "infinite": ('{"signature": "s", "gap": 1e999}', r"\bgap\b.*\bfinite\b"),
    "large whole number": (record_with(parameters=10**400), r"\bparameters\b"),
    "no signature": ("{}", r"\bsignature\b"),
    "best a list": (record_with(best=[1, 2]), r"\bbest\b.*\[1, 2\]"),
    "accuracy as text": (record_with(best={"val_acc": "70"}), r"\bbest\.val_acc\b"),
    "half an epoch": (record_with(final={"epoch": 1.5}), r"\bfinal\b"),
    "config null": (record_with(config=None), r"\bconfig\b.*\bnull\b"),
    "config text": (record_with(config="x"), r"\bconfig\b.*\bx\b"),
    "state a number": (record_with(state=1), r"\bstate\b.*\b1\b.*\bfinished\b"),
    "seconds true": (record_with(seconds=True), r"\bseconds\b"),
    "notes text": (record_with(notes="all well"), r"\bnotes\b"),
    "choices to lists": (record_with(choices={"optim": []}), r"\bchoices\b"),
    "no time": (record_with(started="yesterday"), r"\bstarted\b"),
    "heartbeat a list": (record_with(heartbeat=[]), r"\bheartbeat\b"),
}


class TestUntrustedFiles:
    @pytest.mark.parametrize(("content", "reason"), BROKEN_RECORDS.values(), ids=BROKEN_RECORDS)
    def test_a_damaged_record_is_reported_and_other_runs_are_read(
        self, tmp_path: Path, content: str, reason: str
    ) -> None:
        write_run(tmp_path / "whole")
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged/run.json").write_bytes(content.encode(errors="surrogateescape"))
        readable, broken = find_runs([tmp_path])
        assert isinstance(readable, LoadedRun)
        assert isinstance(broken, BrokenRun)
        assert broken.state == "damaged"
        assert "run.json" in broken.error
        # The reason contains "JSON" only if the file isn't JSON, so the file name is removed.
        assert re.search(reason, broken.error.replace("run.json", ""))
        assert "\n" not in broken.error
        with pytest.raises(ConfigError, match=r"run\.json") as refusal:
            read_run(tmp_path / "damaged")
        assert str(tmp_path / "damaged") in str(refusal.value)

    def test_links_pipes_folders_and_large_files_are_not_read(self, tmp_path: Path) -> None:
        elsewhere = tmp_path / "secret.json"
        elsewhere.write_text(record_with())
        (tmp_path / "runs").mkdir()
        for name in ("linked", "pipe", "folder", "large"):
            (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs/linked/run.json").symlink_to(elsewhere)
        os.mkfifo(tmp_path / "runs/pipe/run.json")
        os.mkfifo(tmp_path / "runs/sweep.json")
        (tmp_path / "runs/folder/run.json").mkdir()
        with (tmp_path / "runs/large/run.json").open("wb") as file:
            file.truncate(10 * 2**30)
        started = time.monotonic()
        errors = {run.directory.name: run.error for run in find_runs([tmp_path / "runs"])}
        assert errors.keys() == {"linked", "pipe", "folder", "large"}
        assert all("run.json" in reason for reason in errors.values())
        assert "link" in errors["linked"]
        assert "16 MB" in errors["large"]
        assert time.monotonic() - started < 30

    def test_an_interpolation_is_not_resolved(self, tmp_path: Path) -> None:
        write_run(tmp_path, {"optim.lr": "${oc.env:HOME}"})
        assert read_run(tmp_path).settings["optim.lr"] == "${oc.env:HOME}"

    def test_unknown_keys_are_ignored(self, tmp_path: Path) -> None:
        best = {"epoch": 1, "val_acc": 2.0, "val_loss": None}
        write_run(tmp_path, unknown_key=[1], best=best | {"top5": 3})
        assert read_run(tmp_path).record.best == best

    @pytest.mark.parametrize(
        ("content", "epochs", "reason"),
        [
            (f"{COLUMNS}\n", 0, None),
            ("", 0, r"\bepoch\b"),
            ("epoch,val_acc\n1,50\n2,60\n", 2, None),
            ("epoch,mood,val_acc\n1,good,50\n", 1, None),
            ("epoch,val_acc\n1,50\n2\n", 1, r"\b2\b.*\b1\b.*\b2\b"),
            ("epoch,val_acc\n1,50\ntwo,60\n3,70\n", 1, r"\btwo\b"),
            ("epoch,val_acc\n1,50\n,60\n", 1, r"\b2\b.*\bepoch\b"),
            ("epoch,val_acc\n1,50\n2,nan\n3,inf\n", 3, None),
        ],
    )
    def test_metrics_are_read_up_to_the_first_damaged_row(
        self, tmp_path: Path, content: str, epochs: int, reason: str | None
    ) -> None:
        write_run(tmp_path)
        (tmp_path / "metrics.csv").write_bytes(content.encode(errors="surrogateescape"))
        rows, error = read_run(tmp_path).metrics
        assert len(rows) == epochs
        assert all(row.keys() <= {"epoch", "val_acc"} for row in rows)
        assert all(np.isfinite(value) for row in rows for value in row.values())
        if reason is None:
            assert error is None
        else:
            assert "metrics.csv" in error
            assert re.search(reason, error)

    def test_each_kind_of_damage_of_metrics_has_its_own_message(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        found = {}
        for name, content, epochs in (
            ("cut off", "epoch,val_acc\n1,50\n2,6", 1),
            ("too few values", "epoch,val_acc\n1,50\n2\n", 1),
            ("too long a value", 'epoch,val_acc\n1,50\n"' + "x" * 200_000 + '",1\n', 1),
            ("not text", "\udcff\n", 0),
            ("no epochs", "", 0),
        ):
            (tmp_path / "metrics.csv").write_bytes(content.encode(errors="surrogateescape"))
            rows, found[name] = read_run(tmp_path).metrics
            assert [row["epoch"] for row in rows] == [1] * epochs
        assert all("metrics.csv" in error for error in found.values())
        assert len({*found.values()}) == len(found), found

    def test_metrics_that_are_missing_linked_or_too_large_are_not_read(
        self, tmp_path: Path
    ) -> None:
        write_run(tmp_path)
        path = tmp_path / "metrics.csv"
        path.unlink()
        rows, missing_error = read_run(tmp_path).metrics
        assert rows == [] and "metrics.csv" in missing_error
        path.symlink_to("/etc/passwd")
        rows, link_error = read_run(tmp_path).metrics
        assert rows == [] and "metrics.csv" in link_error and "link" in link_error
        path.unlink()
        with path.open("wb") as file:
            file.truncate(2**30)
        rows, size_error = read_run(tmp_path).metrics
        assert rows == [] and "metrics.csv" in size_error and "64 MB" in size_error
        assert len({missing_error, link_error, size_error}) == 3
        path.unlink()
        write_run(tmp_path, state="running", best=None, final=None)
        path.unlink()
        assert read_run(tmp_path).metrics == ([], None)

    @pytest.mark.parametrize(
        ("heartbeat", "state"),
        [
            (5, "running"),
            (1000, "running (stale)"),
            (-1000, "running (stale)"),
            (None, "running (stale)"),
            ("soon", "damaged"),
        ],
    )
    def test_a_running_run_without_a_recent_heartbeat_is_stale(
        self, tmp_path: Path, heartbeat: object, state: str
    ) -> None:
        renewed = time.time() - heartbeat if isinstance(heartbeat, int) else heartbeat
        heartbeat_entry = (
            None if heartbeat is None else {"host": "h", "process": 1, "renewed": renewed}
        )
        write_run(
            tmp_path, state="running", best=None, final=None, gap=None, heartbeat=heartbeat_entry
        )
        (run,) = find_runs([tmp_path])
        assert run.state == state

    def test_printed_values_cannot_contain_control_sequences_of_a_terminal(self) -> None:
        everything = "".join(map(chr, [*range(0x3000), *range(0xD800, 0xE000), 0x202E, 0xE0001]))
        for start in range(0, len(everything), 100):
            text = safe_text(everything[start : start + 100])
            assert text.isprintable()
            text.encode()
        assert safe_text("\x1b[2J\n") == "\\x1b[2J\\n"
        assert safe_text("naïve ± 東京") == "naïve ± 東京"
        assert len(safe_text("x" * 10**7)) < 1000


class TestReplicates:
    def test_runs_that_differ_only_in_seed_paths_and_machine_are_replicates(
        self, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "0")
        write_run(tmp_path / "1", {"seed": 1})
        write_run(tmp_path / "2", {"seed": 2, "trainer.threads": 4, "data.root": "/x"}, host="b")
        write_run(tmp_path / "other", {"optim.lr": 0.2})
        write_run(tmp_path / "coarse", precision="bfloat16")
        write_run(tmp_path / "foreign", inputs={"data": "g"})
        groups = [
            {run.directory.name for run in group.runs}
            for group in group_replicates(find_runs([tmp_path]))
        ]
        assert sorted(map(sorted, groups)) == [["0", "1", "2"], ["coarse"], ["foreign"], ["other"]]

    def test_runs_from_weights_of_their_seeds_are_replicates(self, tmp_path: Path) -> None:
        """The path has the seed of the run, and no seed has several weights."""

        def write(name: str, seed: int, path: str, digest: str) -> None:
            settings = {"seed": seed, "init_from": path}
            inputs = {"data": "f", "init_from": digest}
            write_run(tmp_path / name / f"{path}-{seed}".replace("/", "_"), settings, inputs=inputs)

        cases: dict[str, tuple[list[tuple[int, str, str]], list[int]]] = {
            "own weights": ([(s, f"w{s}", f"d{s}") for s in range(3)], [3]),
            # The sweep directory has a number that is a seed, too.
            "other numbers": ([(s, f"sweep/1/{s}", f"d{s}") for s in range(3)], [3]),
            "the same weights": ([(s, "w1", "d1") for s in range(3)], [3]),
            "other weights": ([(0, "w0", "d0"), (0, "w1", "d1")], [1, 1]),
            "all pairs": ([(s, f"w{w}", f"d{w}") for s in (0, 1) for w in (0, 1)], [2, 2]),
            "other names": ([(0, "a", "d0"), (1, "b", "d1")], [1, 1]),
            "longer numbers": ([(0, "w10", "d0"), (1, "w11", "d1")], [1, 1]),
            "two networks": (
                [(s, f"{name}{s}", f"{name}{s}") for s in (0, 1) for name in "ab"],
                [2, 2],
            ),
        }
        for name, (starts, sizes) in cases.items():
            for start in starts:
                write(name, *start)
            groups = group_replicates(find_runs([tmp_path / name]))
            assert sorted(len(group.counted) for group in groups) == sizes, name

    def test_weights_that_were_trained_again_are_not_mixed_with_the_first(
        self, tmp_path: Path
    ) -> None:
        for number, (seed, digest) in enumerate([(0, "old"), (0, "new"), (1, "d1")]):
            settings = {"seed": seed, "init_from": f"w{seed}"}
            inputs = {"data": "f", "init_from": digest}
            write_run(tmp_path / str(number), settings, inputs=inputs)
        assert len(group_replicates(find_runs([tmp_path]))) == 3

    def test_incomplete_runs_and_older_repetitions_do_not_count(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0", accuracy=70.0)
        write_run(tmp_path / "0-again", accuracy=71.0, started="2026-02-02T00:00:00+00:00")
        write_run(tmp_path / "1", {"seed": 1}, accuracy=73.0)
        write_run(tmp_path / "2", {"seed": 2}, accuracy=10.0, state="interrupted")
        (group,) = group_replicates(find_runs([tmp_path]))
        assert {run.directory.name for run in group.counted} == {"0-again", "1"}
        assert group.state == "3 finished, 1 interrupted"

    def test_mean_and_standard_deviation_equal_numpys(self) -> None:
        generator = np.random.default_rng(0)
        for size in (2, 3, 10, 100):
            values = generator.normal(70, 3, size).tolist()
            mean, sd, n = Statistic.from_values([*values, None])
            assert mean == pytest.approx(np.mean(values), rel=1e-12)
            assert sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)
            assert n == size
        assert Statistic.from_values([70.0]) == (70.0, None, 1)
        assert Statistic.from_values([None]) is None


class TestDiffColumns:
    def test_settings_that_follow_from_a_choice_have_no_column(self, tmp_path: Path) -> None:
        adamw = {"optim._target_": "torch.optim.AdamW", "optim.momentum": ...}
        choices = {"model": "resnet8v2", "data": "digits", "optim": "adamw"}
        write_run(tmp_path / "0", {"optim.lr": 0.1})
        write_run(tmp_path / "1", adamw | {"optim.lr": 0.01}, choices=choices)
        assert diff_columns(find_runs([tmp_path])) == {"optim": ["sgd", "adamw"]}
        write_run(tmp_path / "2", adamw | {"optim.lr": 0.02}, choices=choices)
        assert diff_columns(find_runs([tmp_path])) == {
            "optim": ["sgd", "adamw", "adamw"],
            "optim.lr": [0.1, 0.01, 0.02],
        }

    def test_a_setting_that_a_run_does_not_have_is_missing(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0")
        write_run(tmp_path / "1", {"model.extra": "x", "seed": 1})
        columns = diff_columns(find_runs([tmp_path]))
        assert columns == {"model.extra": [MISSING, "x"], "seed": [0, 1]}

    def test_true_and_1_are_different_values(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0", {"optim.nesterov": True})
        write_run(tmp_path / "1", {"optim.nesterov": 1})
        assert diff_columns(find_runs([tmp_path])) == {"optim.nesterov": [True, 1]}


FIELDS = {"a": 1, "b": 2.5, "c": "text", "d": [1, 2], "e": True, "f": 0, "g": ""}


def random_expression(generator: random.Random, depth: int = 4) -> str:
    """Return a random condition. Python can evaluate it, or raises a TypeError."""
    if depth == 0 or generator.random() < 0.2:
        return generator.choice([*FIELDS, "1", "-2.5", "'text'", "True", "[1, 'x']", "(2.5,)"])
    parts = [random_expression(generator, depth - 1) for _ in range(3)]
    comparison = generator.choice(["<", "<=", ">", ">=", "==", "!=", "in", "not in"])
    return generator.choice(
        [
            "({0} and {1} and {2})",
            "({0} or {1})",
            "(not {0})",
            f"({{0}} {comparison} {{1}})",
            f"({{0}} < {{1}} {comparison} {{2}})",
        ]
    ).format(*parts)


class TestFilterExpression:
    def test_a_condition_has_the_same_value_as_in_python(self) -> None:
        generator = random.Random(0)
        counts = {True: 0, False: 0}
        for _ in range(3000):
            text = f"not {random_expression(generator)}"
            try:
                expected = bool(eval(text, {"__builtins__": {}}, dict(FIELDS)))
            except TypeError:
                # A comparison that raises an error in Python is false in a filter.
                continue
            assert FilterExpression(text).matches(FIELDS) == expected, text
            counts[expected] += 1
        assert min(counts.values()) > 300

    def test_a_condition_uses_the_dotted_names_of_settings(self, tmp_path: Path) -> None:
        write_run(tmp_path, {"optim.lr": 0.05})
        fields = run_fields(read_run(tmp_path))
        for text in (
            "optim.lr < 0.1 and state == 'finished'",
            "optim == 'sgd'",
            "best >= 70",
            "best.val_acc == final.val_acc",
            "16 in model.widths",
            "'ru' in host or 1",
        ):
            condition = FilterExpression(text)
            assert condition.matches(fields), text
            assert condition.names <= fields.keys()

    def test_a_comparison_of_different_types_is_false(self) -> None:
        fields = {"optim.momentum": None, "optim.lr": "high"}
        assert not FilterExpression("optim.momentum < 1").matches(fields)
        assert not FilterExpression("print").matches(fields)
        assert not FilterExpression("optim.lr >= 1 or 1 in optim.lr").matches(fields)
        assert FilterExpression("not optim.lr >= 1").matches(fields)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "7",
            "-1",
            "'best'",
            "[1]",
            "true",
            "best >",
            "best = 1",
            "__import__('os').system('true')",
            "().__class__",
            "'a'.upper()",
            "best[0]",
            "best + 1 > 2",
            "2 ** 99999 > 1",
            "(lambda: 1)() == 1",
            "[x for x in d]",
            "f'{best}' == '1'",
            "best if best else 1",
            "best is None",
            "{1: 2} == 1",
            "~best",
            "...",
            "b'1' == 1",
            "1j > 0",
            "-best > 1",
            "(best := 1)",
            "a.b().c",
            "(" * 400 + "1" + ")" * 400,
            "best\x00",
            "-" * 900 + "1",
        ],
    )
    def test_other_syntax_is_refused(self, text: str) -> None:
        with pytest.raises(ConfigError) as refusal:
            FilterExpression(text)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 1000


# Values from the training log for its two runs: sums over the 100 rows of its tables, a digest of
# the rows, the first and the 50th row, and the values of its summaries.
LOG = {
    1: {
        "sums": {"train_acc": 6523.33, "val_acc": 5463.96, "train_loss": 123.7367},
        "digest": "a0ff1ab763e0edbacb6e556a2b31ce98ff91fe522a406cb6784fb3f3bbc1f9be",
        "first": (7.88, 12.70, 4.0153),
        "middle": (64.45, 52.72, 1.2375),
        "best": {"epoch": 98, "val_acc": 69.85, "val_loss": None},
        "final": {
            "epoch": 100,
            "train_acc": 89.57,
            "train_loss": 0.3645,
            "val_acc": 69.68,
            "val_loss": None,
        },
        "gap": 19.89,
    },
    2: {
        "sums": {"train_acc": 7378.05, "val_acc": 5935.67, "train_loss": 93.2618},
        "digest": "b0b0112c95e10217965d19a83ced10a306fa6ba73212be4716fe498d7fb38576",
        "first": (7.71, 11.25, 4.0407),
        "middle": (72.65, 58.65, 0.9264),
        "best": {"epoch": 99, "val_acc": 74.86, "val_loss": None},
        "final": {
            "epoch": 100,
            "train_acc": 99.65,
            "train_loss": 0.0278,
            "val_acc": 74.70,
            "val_loss": None,
        },
        "gap": 24.95,
    },
}


@pytest.mark.parametrize("number", [1, 2])
class TestLoggedRuns:
    def test_the_metrics_of_every_epoch_equal_those_of_the_log(self, number: int) -> None:
        rows, error = read_run(f"logged_run_{number}").metrics
        assert error is None
        assert [row["epoch"] for row in rows] == list(range(1, 101))
        columns = ("train_acc", "val_acc", "train_loss")
        assert all(row.keys() == {"epoch", *columns} for row in rows)
        for name, total in LOG[number]["sums"].items():
            assert sum(row[name] for row in rows) == pytest.approx(total, abs=1e-6)
        for epoch, part in ((1, "first"), (50, "middle")):
            assert tuple(rows[epoch - 1][name] for name in columns) == LOG[number][part]
        # The rows have as many decimals as in the log.
        lines = [
            "{epoch},{train_acc:.2f},{val_acc:.2f},{train_loss:.4f}\n".format(**row) for row in rows
        ]
        assert hashlib.sha256("".join(lines).encode()).hexdigest() == LOG[number]["digest"]

    def test_the_summary_equals_that_of_the_log(self, number: int) -> None:
        run = read_run(f"logged_run_{number}")
        record = run.record
        assert (record.state, record.parameters) == ("finished", 2_700_000)
        for name in ("best", "final", "gap"):
            assert getattr(record, name) == LOG[number][name]
        # The summary agrees with the epochs.
        best = max(run.metrics.rows, key=lambda row: row["val_acc"])
        assert (best["epoch"], best["val_acc"]) == (record.best["epoch"], record.best["val_acc"])
        last = run.metrics.rows[-1]
        assert {name: record.final[name] for name in last} == last
        assert record.gap == pytest.approx(last["train_acc"] - last["val_acc"], abs=0.011)
        unknown = (record.seconds, record.started, record.ended, record.device, record.precision)
        assert unknown == (None,) * 5

    @pytest.mark.parametrize("from_experiment", [False, True], ids=["logged", "experiment"])
    def test_the_recipe_equals_that_of_the_log(self, number: int, from_experiment: bool) -> None:
        name = f"logged_run_{number}"
        config = composed(f"experiment={name}") if from_experiment else read_run(name).record.config
        recipe = {
            "model": {
                "widths": [32, 64, 128, 256],
                "blocks": [7, 7, 7, 3],
                "strides": [1, 2, 2, 2],
                "block": "basic_v2",
                "dropout": 0.1,
                "attention": None,
            },
            "data": {"mean": [0.5071, 0.4867, 0.4408], "std": [0.2675, 0.2565, 0.2761]},
            "optim": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"warmup_epochs": 0},
            "loss": {"label_smoothing": 0},
            "trainer": {"epochs": 100, "batch_size": 128},
        }
        for group, settings in recipe.items():
            assert {key: config[group][key] for key in settings} == settings
        targets = [config[group]["_target_"] for group in ("data", "optim", "schedule", "loss")]
        assert [target.rpartition(".")[2] for target in targets] == [
            "CIFAR100",
            "SGD",
            "Cosine",
            "CrossEntropyLoss",
        ]
        operations = config["augmentation"].values()
        assert [operation["_target_"].rpartition(".")[2] for operation in operations] == [
            "RandomCrop",
            "RandomHorizontalFlip",
        ]
        assert config["augmentation"]["random_crop"]["padding"] == 4

    def test_the_notes_say_what_the_log_leaves_open(self, number: int) -> None:
        notes = " ".join(read_run(f"logged_run_{number}").record.notes)
        for fact in ("~2.7M", "5,940,356", f"experiment=logged_run_{number}"):
            assert fact in notes

    def test_its_files_are_part_of_the_package(self, number: int) -> None:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        assert "resnet_sweep.compare" in setup["options"]["packages"].split()
        patterns = setup["options.package_data"]["resnet_sweep.compare"].replace(",", " ").split()
        covered = {
            path for pattern in patterns for path in (ROOT / "resnet_sweep/compare").glob(pattern)
        }
        files = {path for path in (LOGGED_RUNS / f"logged_run_{number}").rglob("*")}
        assert {path.name for path in files} == {"run.json", "metrics.csv"}
        assert files <= covered


def test_the_logged_runs_have_the_default_recipe() -> None:
    for number in (1, 2):
        record = read_run(f"logged_run_{number}").record
        default = signed_settings(composed(f"seed={number - 1}"), "", {})
        assert signed_settings(record.config, "", {}) == default
        # A report prints these overrides as the command that repeats the run.
        assert signed_settings(composed(*record.overrides), "", {}) == default
        assert record.choices["experiment"] == f"logged_run_{number}"


def test_reading_runs_needs_neither_torch_nor_hydra(tmp_path: Path) -> None:
    program = (
        "import sys; from resnet_sweep.compare.collection import find_runs\n"
        "import resnet_sweep.cli.diff, resnet_sweep.cli.runs, resnet_sweep.cli.report\n"
        "[run.metrics for run in find_runs(['logged_run_1'])]\n"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'yaml', 'numpy', 'matplotlib'} "
        "& sys.modules.keys()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
