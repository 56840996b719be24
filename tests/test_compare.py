"""Run directories are read as data from anybody, and put together as statistics asks for."""

import configparser
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
from resnet_sweep.compare.condition import Condition
from resnet_sweep.compare.entry import Entry
from resnet_sweep.compare.facts import facts
from resnet_sweep.compare.group import Statistic, replicates
from resnet_sweep.compare.text import shown
from resnet_sweep.compare.varying import columns
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.signature import relevant


def names(folder: Path, *paths: str) -> list[str]:
    return [
        str(entry.directory.relative_to(folder))
        for entry in find_runs([folder / path for path in paths] or [folder])
    ]


class TestFinding:
    def test_runs_are_found_at_any_depth_newest_first(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a", started="2026-01-01T10:00:00+00:00")
        write_run(tmp_path / "b/c/d", started="2026-01-01T13:00:00+02:00")
        # An hour later than it seems.
        write_run(tmp_path / "b/e", started="2026-01-01T10:30:00-02:00")
        assert names(tmp_path) == ["b/e", "b/c/d", "a"]

    def test_jobs_of_the_same_second_are_in_the_order_of_their_numbers(
        self, tmp_path: Path
    ) -> None:
        for number in range(12):
            write_run(tmp_path / str(number))
        assert names(tmp_path) == [str(number) for number in range(12)]

    def test_links_hidden_folders_and_what_is_in_a_run_are_left_out(self, tmp_path: Path) -> None:
        elsewhere = write_run(tmp_path / "elsewhere/run")
        here = tmp_path / "here"
        write_run(here / "run")
        write_run(here / "run/checkpoints/copy")
        write_run(here / ".trash/run")
        (here / "link").symlink_to(elsewhere)
        (here / "loop").symlink_to(here)
        assert names(here) == ["run"]

    def test_a_run_in_two_of_the_directories_is_there_once(self, tmp_path: Path) -> None:
        write_run(tmp_path / "a/run")
        assert names(tmp_path, "a", "", "a/run") == ["a/run"]

    def test_a_name_is_the_directory_as_typed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_run(tmp_path / "outputs/run")
        monkeypatch.chdir(tmp_path)
        for typed in (".", "outputs", "outputs/run", "./outputs/"):
            assert [entry.name for entry in find_runs([typed])] == ["outputs/run"]

    def test_a_run_is_a_directory_or_a_logged_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path / "run")
        assert resolve_run(run) == run
        assert resolve_run("logged_run_1") == LOGGED_RUNS / "logged_run_1"
        for wrong in ("nowhere", tmp_path, run / "run.json"):
            with pytest.raises(RequestError, match=r"logged_run_1 or logged_run_2"):
                resolve_run(wrong)

    def test_a_folder_that_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        write_run(tmp_path / "run")
        deep = tmp_path
        descriptor = os.open(tmp_path, os.O_RDONLY)
        # Deeper than a path can say.
        for _ in range(30):
            os.mkdir("d" * 200, dir_fd=descriptor)
            inner = os.open("d" * 200, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor, deep = inner, deep / ("d" * 200)
        os.close(descriptor)
        sound, damaged = find_runs([tmp_path])
        assert sound.damage is None
        assert "can't be read" in damaged.damage


def altered(**changes: object) -> str:
    """The content of a sound `run.json` with some values changed."""
    values = {"signature": "s", "config": {}, "best": {"epoch": 1, "val_acc": 1.0}}
    return json.dumps(values | changes)


DAMAGED = {
    "empty": ("", "isn't JSON"),
    "cut off": ('{"signature": "s", "config', "isn't JSON"),
    "not text": ("\udcff\udcfe", "isn't JSON"),
    "a list": ("[]", "holds a list instead of a mapping"),
    "null": ("null", "holds null instead of a mapping"),
    "deep": ("[" * 10_000 + "]" * 10_000, "nested too deep"),
    "deep config": (altered(config={"a": eval("[" * 40 + "]" * 40)}), "nested too deep"),
    "long number": ('{"signature": "s", "gap": ' + "9" * 5000 + "}", "isn't JSON"),
    "not a number": (altered(gap=float("nan")), "it has NaN"),
    "infinite": ('{"signature": "s", "gap": 1e999}', "a number that is too large"),
    "large whole number": (altered(parameters=10**400), "a number that is too large"),
    "no signature": ("{}", "has no signature"),
    "best a list": (
        altered(best=[1, 2]),
        "best in run.json isn't a mapping to numbers, but a list",
    ),
    "accuracy as text": (altered(best={"val_acc": "70"}), "best in run.json isn't"),
    "half an epoch": (altered(final={"epoch": 1.5}), "final in run.json isn't"),
    "config null": (altered(config=None), "config in run.json isn't a mapping, but null"),
    "config text": (altered(config="x"), "config in run.json isn't a mapping, but text"),
    "state a number": (altered(state=1), "state in run.json isn't text, but a number"),
    "seconds true": (altered(seconds=True), "seconds in run.json isn't a number"),
    "notes text": (altered(notes="all well"), "notes in run.json isn't a list of texts"),
    "choices to lists": (altered(choices={"optim": []}), "choices in run.json isn't"),
    "no time": (altered(started="yesterday"), "started in run.json isn't a time"),
    "lease a list": (altered(lease=[]), "lease in run.json isn't a mapping"),
}


class TestDamage:
    @pytest.mark.parametrize(("content", "reason"), DAMAGED.values(), ids=DAMAGED)
    def test_a_damaged_record_is_told_and_the_rest_read(
        self, tmp_path: Path, content: str, reason: str
    ) -> None:
        write_run(tmp_path / "sound")
        (tmp_path / "damaged").mkdir()
        (tmp_path / "damaged/run.json").write_bytes(content.encode(errors="surrogateescape"))
        sound, damaged = find_runs([tmp_path])
        assert sound.record is not None
        assert damaged.record is None
        assert damaged.state == "damaged"
        assert reason in damaged.damage
        assert "\n" not in damaged.damage
        with pytest.raises(RequestError, match=re.escape(reason)):
            read_run(tmp_path / "damaged")

    def test_what_is_no_file_or_too_large_is_not_read(self, tmp_path: Path) -> None:
        secret = tmp_path / "secret.json"
        secret.write_text(altered())
        (tmp_path / "runs").mkdir()
        for name in ("linked", "pipe", "folder", "large"):
            (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs/linked/run.json").symlink_to(secret)
        os.mkfifo(tmp_path / "runs/pipe/run.json")
        os.mkfifo(tmp_path / "runs/sweep.json")
        (tmp_path / "runs/folder/run.json").mkdir()
        with (tmp_path / "runs/large/run.json").open("wb") as file:
            file.truncate(10 * 2**30)
        begun = time.monotonic()
        damage = {entry.directory.name: entry.damage for entry in find_runs([tmp_path / "runs"])}
        assert damage == {
            "linked": "run.json is a symbolic link, which isn't followed",
            "pipe": "run.json isn't a file",
            "folder": "run.json isn't a file",
            "large": "run.json is larger than 16 MB",
        }
        assert time.monotonic() - begun < 30

    def test_an_interpolation_stays_text(self, tmp_path: Path) -> None:
        write_run(tmp_path, {"optim.lr": "${oc.env:HOME}"})
        assert read_run(tmp_path).settings["optim.lr"] == "${oc.env:HOME}"

    def test_keys_that_it_does_not_know_are_left_out(self, tmp_path: Path) -> None:
        write_run(tmp_path, unheard_of=[1], best={"epoch": 1, "val_acc": 2, "top5": 3})
        assert read_run(tmp_path).record.best["top5"] == 3

    def test_an_older_record_reads_as_one_of_today(self, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(altered(final={"epoch": 1, "val_acc": 1.0}))
        record = read_run(tmp_path).record
        assert record.best == {"epoch": 1, "val_acc": 1.0, "val_loss": None}
        assert record.final["train_loss"] is None
        assert record.notes == []

    @pytest.mark.parametrize(
        ("content", "epochs", "reason"),
        [
            (f"{COLUMNS}\n", 0, None),
            ("", 0, "no column epoch"),
            ("epoch,val_acc\n1,50\n2,60\n", 2, None),
            ("epoch,mood,val_acc\n1,good,50\n", 1, None),
            ("epoch,val_acc\n1,50\n2,6", 1, "the last row of metrics.csv is cut off"),
            ("epoch,val_acc\n1,50\n2\n", 1, "row 2 of metrics.csv has 1 values for 2 columns"),
            ("epoch,val_acc\n1,50\ntwo,60\n3,70\n", 1, "isn't a table of numbers"),
            ("epoch,val_acc\n1,50\n,60\n", 1, "row 2 of metrics.csv has no epoch"),
            (f"epoch,val_acc\n1,50\n{10**15},60\n", 1, "row 2 of metrics.csv has no epoch"),
            ("epoch,val_acc\n1,50\n2,nan\n3,inf\n", 3, None),
            ('epoch,val_acc\n1,50\n"' + "x" * 200_000 + '",1\n', 1, "isn't a table of numbers"),
            ("epoch\n" + "1\n" * 100_001, 100_000, "more than 100000 rows"),
            ("\udcff\n", 0, "isn't a table of numbers"),
        ],
    )
    def test_metrics_are_read_as_far_as_they_are_sound(
        self, tmp_path: Path, content: str, epochs: int, reason: str | None
    ) -> None:
        write_run(tmp_path)
        (tmp_path / "metrics.csv").write_bytes(content.encode(errors="surrogateescape"))
        rows, damage = read_run(tmp_path).metrics
        assert len(rows) == epochs
        assert all(row.keys() <= {"epoch", "val_acc"} for row in rows)
        assert all(np.isfinite(value) for row in rows for value in row.values())
        assert (damage is None) if reason is None else (reason in damage)

    def test_metrics_that_are_missing_linked_or_too_large(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        path = tmp_path / "metrics.csv"
        path.unlink()
        assert read_run(tmp_path).metrics == ([], "there is no metrics.csv")
        path.symlink_to("/etc/passwd")
        assert "symbolic link" in read_run(tmp_path).metrics.damage
        path.unlink()
        with path.open("wb") as file:
            file.truncate(2**30)
        assert read_run(tmp_path).metrics.damage == "metrics.csv is larger than 64 MB"
        path.unlink()
        write_run(tmp_path, state="running", best=None, final=None)
        path.unlink()
        assert read_run(tmp_path).metrics == ([], None)

    @pytest.mark.parametrize(
        ("lease", "state"),
        [(5, "running"), (1000, "running (stale)"), (-1000, "running (stale)"),
         (None, "running (stale)"), ("soon", "running (stale)")],
    )  # fmt: skip
    def test_a_run_under_way_is_stale_without_a_sign_of_life(
        self, tmp_path: Path, lease: object, state: str
    ) -> None:
        renewed = time.time() - lease if isinstance(lease, int) else lease
        held = None if lease is None else {"host": "h", "process": 1, "renewed": renewed}
        write_run(tmp_path, state="running", best=None, final=None, gap=None, lease=held)
        assert read_run(tmp_path).state == state

    def test_what_is_shown_cannot_command_a_terminal(self) -> None:
        everything = "".join(map(chr, [*range(0x3000), *range(0xD800, 0xE000), 0x202E, 0xE0001]))
        for start in range(0, len(everything), 100):
            text = shown(everything[start : start + 100])
            assert text.isprintable()
            text.encode()
        assert shown("\x1b[2J\n") == "\\x1b[2J\\n"
        assert shown("naïve ± 東京") == "naïve ± 東京"
        assert len(shown("x" * 10**7)) < 1000


class TestReplicates:
    def test_runs_that_differ_only_in_seed_and_circumstances_are_put_together(
        self, tmp_path: Path
    ) -> None:
        write_run(tmp_path / "0")
        write_run(tmp_path / "1", {"seed": 1})
        write_run(tmp_path / "2", {"seed": 2, "trainer.threads": 4, "data.root": "/x"}, host="b")
        write_run(tmp_path / "older", {"seed": 3})
        write_run(tmp_path / "newer", {"seed": 4, "trainer.clip_grad_norm": None,
                                       "model.stochastic_depth": 0.0})  # fmt: skip
        write_run(tmp_path / "other", {"optim.lr": 0.2})
        write_run(tmp_path / "coarse", precision="bfloat16")
        write_run(tmp_path / "foreign", fingerprint="g")
        groups = [
            {entry.directory.name for entry in group.entries}
            for group in replicates(find_runs([tmp_path]))
        ]
        assert sorted(map(sorted, groups)) == [
            ["0", "1", "2", "newer", "older"], ["coarse"], ["foreign"], ["other"]
        ]  # fmt: skip

    def test_incomplete_runs_and_repetitions_do_not_count(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0", accuracy=70.0)
        write_run(tmp_path / "0-again", accuracy=71.0, started="2026-02-02T00:00:00+00:00")
        write_run(tmp_path / "1", {"seed": 1}, accuracy=73.0)
        write_run(tmp_path / "2", {"seed": 2}, accuracy=10.0, state="interrupted")
        (group,) = replicates(find_runs([tmp_path]))
        assert {entry.directory.name for entry in group.counted} == {"0-again", "1"}
        assert group.state == "3 finished, 1 interrupted"

    def test_mean_and_deviation_are_those_of_numpy(self) -> None:
        generator = np.random.default_rng(0)
        for size in (2, 3, 10, 100):
            values = generator.normal(70, 3, size).tolist()
            mean, sd, n = Statistic.of([*values, None])
            assert mean == pytest.approx(np.mean(values), rel=1e-12)
            assert sd == pytest.approx(np.std(values, ddof=1), rel=1e-9)
            assert n == size
        assert Statistic.of([70.0]) == (70.0, None, 1)
        assert Statistic.of([None]) is None


class TestColumns:
    def entries(self, folder: Path) -> list[Entry]:
        return find_runs([folder])

    def test_what_follows_from_a_choice_is_left_out(self, tmp_path: Path) -> None:
        adamw = {"optim._target_": "torch.optim.AdamW", "optim.momentum": ...}
        choices = {"model": "resnet8v2", "data": "digits", "optim": "adamw"}
        write_run(tmp_path / "0", {"optim.lr": 0.1})
        write_run(tmp_path / "1", adamw | {"optim.lr": 0.01}, choices=choices)
        assert columns(self.entries(tmp_path)) == {"optim": ["sgd", "adamw"]}
        write_run(tmp_path / "2", adamw | {"optim.lr": 0.02}, choices=choices)
        assert columns(self.entries(tmp_path)) == {
            "optim": ["sgd", "adamw", "adamw"], "optim.lr": [0.1, 0.01, 0.02]
        }  # fmt: skip

    def test_an_older_run_has_the_neutral_default(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0")
        write_run(tmp_path / "1", {"model.attention": "se", "seed": 1})
        assert columns(self.entries(tmp_path)) == {
            "model.attention": [None, "se"], "seed": [0, 1]
        }  # fmt: skip

    def test_true_is_not_1(self, tmp_path: Path) -> None:
        write_run(tmp_path / "0", {"optim.nesterov": True})
        write_run(tmp_path / "1", {"optim.nesterov": 1})
        assert columns(self.entries(tmp_path)) == {"optim.nesterov": [True, 1]}


FACTS = {"a": 1, "b": 2.5, "c": "text", "d": [1, 2], "e": True, "f": 0, "g": ""}


def random_condition(generator: random.Random, depth: int = 4) -> str:
    """A condition that Python can evaluate as well, if its kinds suit."""
    if depth == 0 or generator.random() < 0.2:
        return generator.choice([*FACTS, "1", "-2.5", "'text'", "True", "[1, 'x']", "(2.5,)"])
    parts = [random_condition(generator, depth - 1) for _ in range(3)]
    comparison = generator.choice(["<", "<=", ">", ">=", "==", "!=", "in", "not in"])
    return generator.choice([
        "({0} and {1} and {2})", "({0} or {1})", "(not {0})", f"({{0}} {comparison} {{1}})",
        f"({{0}} < {{1}} {comparison} {{2}})",
    ]).format(*parts)  # fmt: skip


class TestCondition:
    def test_it_means_what_python_means(self) -> None:
        generator = random.Random(0)
        agreed = {True: 0, False: 0}
        for _ in range(3000):
            text = random_condition(generator)
            try:
                expected = bool(eval(text, {"__builtins__": {}}, dict(FACTS)))
            except TypeError:
                # What Python can't compare, doesn't hold here.
                continue
            assert Condition(text).holds(FACTS) == expected, text
            agreed[expected] += 1
        assert min(agreed.values()) > 300

    def test_names_have_dots(self, tmp_path: Path) -> None:
        write_run(tmp_path, {"optim.lr": 0.05})
        known = facts(read_run(tmp_path))
        for text in ("optim.lr < 0.1 and state == 'finished'", "optim == 'sgd'", "best >= 70",
                     "best.val_acc == final.val_acc", "16 in model.widths", "'ru' in host or 1",
                     "model.attention == None", "trainer.ema_decay != 0.9"):  # fmt: skip
            condition = Condition(text)
            assert condition.holds(known), text
            assert condition.names <= known.keys()

    def test_a_comparison_that_cannot_be_made_does_not_hold(self) -> None:
        known = {"optim.momentum": None, "optim.lr": "high"}
        assert not Condition("optim.momentum < 1").holds(known)
        assert not Condition("print").holds(known)
        assert not Condition("optim.lr >= 1 or 1 in optim.lr").holds(known)
        assert Condition("not optim.lr >= 1").holds(known)

    @pytest.mark.parametrize(
        "text",
        ["", "best >", "best = 1", "__import__('os').system('true')", "().__class__", "'a'.upper()",
         "best[0]", "best + 1 > 2", "2 ** 99999 > 1", "(lambda: 1)() == 1", "[x for x in d]",
         "f'{best}' == '1'", "best if best else 1", "best is None", "{1: 2} == 1", "~best", "...",
         "b'1' == 1", "1j > 0", "-best > 1", "(best := 1)", "a.b().c", "'" + "x" * 2000 + "'",
         "(" * 400 + "1" + ")" * 400, "not " * 200 + "best", "best\x00", "-" * 900 + "1"],
    )  # fmt: skip
    def test_anything_else_is_refused_in_one_sentence(self, text: str) -> None:
        with pytest.raises(RequestError) as refusal:
            Condition(text)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 1000


@pytest.fixture(scope="module")
def log() -> str:
    """The training log, whose tests are left out where it isn't."""
    path = ROOT.parent / "shared" / "reference" / "training_logs.md"
    if not path.exists():
        pytest.skip("the training log isn't on this machine")
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [1, 2])
class TestLoggedRuns:
    def section(self, log: str, number: int) -> str:
        return log.split(f"## Training Run {number} - Detailed Results")[1].split("\n---")[0]

    def test_every_epoch_is_that_of_the_log(self, log: str, number: int) -> None:
        table = self.section(log, number).split("### Complete Epoch Data")[1]
        expected = [
            tuple(map(float, found))
            for found in re.findall(
                r"\| (\d+) \| ([\d.]+)% \| \**([\d.]+)%\** \| ([\d.]+) \|", table
            )
        ]
        rows, damage = read_run(f"logged_run_{number}").metrics
        assert damage is None
        assert len(rows) == 100
        assert all(row.keys() == {"epoch", "train_acc", "val_acc", "train_loss"} for row in rows)
        assert [
            (row["epoch"], row["train_acc"], row["val_acc"], row["train_loss"]) for row in rows
        ] == expected

    def test_the_summary_is_that_of_the_log(self, log: str, number: int) -> None:
        summary = self.section(log, number)
        record = read_run(f"logged_run_{number}").record
        for line in (
            f"**Best Validation Accuracy**: {record.best['val_acc']:.2f}% "
            f"(Epoch {record.best['epoch']})",
            f"**Final Training Accuracy**: {record.final['train_acc']:.2f}%",
            f"**Final Validation Accuracy**: {record.final['val_acc']:.2f}%",
            f"**Final Loss**: {record.final['train_loss']:.4f}",
            f"**Overfitting Gap**: {record.gap:.2f}%",
        ):
            assert line in summary
        assert f"~{record.parameters / 1e6}M parameters" in log
        assert record.state == "finished"
        assert record.final["epoch"] == 100
        unknown = (record.best["val_loss"], record.final["val_loss"], record.seconds,
                   record.started, record.ended, record.device, record.precision)  # fmt: skip
        assert unknown == (None,) * 7

    @pytest.mark.parametrize("trained", [False, True], ids=["logged", "experiment"])
    def test_the_recipe_is_that_of_the_log(self, log: str, number: int, trained: bool) -> None:
        name = f"logged_run_{number}"
        config = composed(f"experiment={name}") if trained else read_run(name).record.config
        model, data, optim = config["model"], config["data"], config["optim"]
        channels = 32
        for stage, (width, blocks, stride) in enumerate(
            zip(model["widths"], model["blocks"], model["strides"], strict=True), start=1
        ):
            line = f"Stage {stage}: {channels}→{width} channels, {blocks} blocks, stride {stride}"
            assert line in log
            channels = width
        assert "Stage 5" not in log
        assert model["block"] == "basic_v2"
        assert "BasicBlockV2" in log
        padding = config["augmentation"]["random_crop"]["padding"]
        for line in (
            f"**Dropout**: {model['dropout']} in final layer",
            f"Mean={tuple(data['mean'])}, Std={tuple(data['std'])}",
            f"**Learning Rate**: {optim['lr']} (initial)",
            f"**Momentum**: {optim['momentum']}",
            f"**Weight Decay**: {optim['weight_decay'] * 1e4:.0f}e-4",
            f"Cosine Annealing (T_max={config['trainer']['epochs']})",
            f"**Batch Size**: {config['trainer']['batch_size']}",
            f"**Epochs**: {config['trainer']['epochs']}",
            f"RandomCrop(32, padding={padding}), RandomHorizontalFlip()",
            "**Loss Function**: CrossEntropyLoss",
            "**Optimizer**: SGD with momentum",
        ):
            assert line in log
        targets = [config[group]["_target_"] for group in ("data", "optim", "schedule", "loss")]
        assert [target.rpartition(".")[2] for target in targets] == [
            "CIFAR100", "SGD", "Cosine", "CrossEntropyLoss"
        ]  # fmt: skip
        assert not model["attention"]
        assert config["loss"]["label_smoothing"] == 0

    def test_what_the_log_leaves_open_is_noted(self, log: str, number: int) -> None:
        notes = " ".join(read_run(f"logged_run_{number}").record.notes)
        run = re.search(rf"^\| {number} \|.*\| ([^|]+) \|$", log, re.MULTILINE)
        for word in (run[1], "~2.7M", "5,940,356", "seeds", "what differs", "times", "CPU"):
            assert word in notes

    def test_it_comes_with_the_package(self, number: int) -> None:
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        assert "resnet_sweep.compare" in setup["options"]["packages"].split()
        patterns = setup["options.package_data"]["resnet_sweep.compare"].replace(",", " ").split()
        covered = {
            path for pattern in patterns for path in (ROOT / "resnet_sweep/compare").glob(pattern)
        }
        there = {path for path in (LOGGED_RUNS / f"logged_run_{number}").rglob("*")}
        assert {path.name for path in there} == {"run.json", "metrics.csv"}
        assert there <= covered


def test_the_logged_runs_have_the_default_recipe() -> None:
    for number in (1, 2):
        record = read_run(f"logged_run_{number}").record
        ours = relevant(composed(f"seed={number - 1}"), "", "")
        assert relevant(record.config, "", "") == ours
        # What a report prints as the command that repeats it.
        assert relevant(composed(*record.overrides), "", "") == ours
        assert record.choices["experiment"] == f"logged_run_{number}"


def test_reading_runs_needs_neither_torch_nor_hydra(tmp_path: Path) -> None:
    program = (
        "import sys; from resnet_sweep.compare.collection import find_runs\n"
        "import resnet_sweep.diff, resnet_sweep.runs.__main__\n"
        "[entry.metrics for entry in find_runs(['logged_run_1'])]\n"
        "print(sorted({'torch', 'hydra', 'omegaconf', 'yaml', 'numpy', 'matplotlib'} "
        "& sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
