"""The product as its users meet it: the real command line, in a folder of their own."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import processes
import pytest
import torch
from conftest import Command, Once
from processes import Process, clean_environment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_sweep.__main__ import main
from resnet_sweep.runs.metrics import COLUMNS, read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint

# A run of a second, with all that is random in one, and its steps.
SMALL = (
    "experiment=quickstart",
    "augmentation=standard",
    "model.dropout=0.1",
    "trainer.epochs=6",
    "trainer.batch_size=16",
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.limit_train=64",
    "data.limit_test=50",
)
EPOCHS = 6
STEPS = 24


def only_run(folder: Path) -> Path:
    (directory,) = (path.parent for path in folder.glob("outputs/*/*/run.json"))
    return directory


def record(directory: Path) -> dict:
    return json.loads((directory / "run.json").read_text())


def without_times(directory: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
        for row in read_metrics(directory)
    ]


def assert_same_results(one: Path, other: Path) -> None:
    assert without_times(one) == without_times(other)
    for name in (BEST, LAST):
        ours, theirs = (read_checkpoint(each / "checkpoints" / name) for each in (one, other))
        assert all(torch.equal(ours["model"][key], theirs["model"][key]) for key in ours["model"])


def assert_has_line(text: str, *facts: str) -> None:
    """Assert that all facts, such as numbers, are on one line of a text."""
    patterns = [rf"(?<![\w.,]){re.escape(fact)}(?![\w,]|\.\d)" for fact in facts]
    assert any(
        all(re.search(pattern, line) for pattern in patterns) for line in text.splitlines()
    ), f"no line has {facts}: {text}"


def snapshot(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


class Quickstart(NamedTuple):
    """A quickstart that has ended: its folder, what it printed, and its length."""

    folder: Path
    printed: str
    epochs: int
    steps: int


SHORT = pytest.param((3, 24, ("trainer.epochs=3", "data.limit_train=512")), id="short")
WHOLE = pytest.param((10, 230, ()), id="whole", marks=pytest.mark.slow)


class TestQuickstart:
    @pytest.fixture(scope="class", params=[SHORT, WHOLE])
    @classmethod
    def finished(cls, request: pytest.FixtureRequest, once: Once) -> Quickstart:
        epochs, steps, overrides = request.param

        def make(folder: Path) -> None:
            done = processes.run(folder, "experiment=quickstart", *overrides, cold=True)
            assert done.returncode == 0, done.stderr
            (folder / "printed").write_text(done.stdout)

        folder = once(f"quickstart_{epochs}", make)
        return Quickstart(folder, (folder / "printed").read_text(), epochs, steps)

    @pytest.fixture
    def copied(self, finished: Quickstart, tmp_path: Path) -> Path:
        """A copy of the run directory, which may be changed."""
        return shutil.copytree(only_run(finished.folder), tmp_path / "copied")

    def test_training_loss_falls(self, finished: Quickstart) -> None:
        losses = [row["train_loss"] for row in read_metrics(only_run(finished.folder))]
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("finished", [WHOLE], indirect=True)
    def test_validation_accuracy_exceeds_95_percent(self, finished: Quickstart) -> None:
        assert record(only_run(finished.folder))["best"]["val_acc"] > 95

    def test_run_directory_is_complete(self, finished: Quickstart) -> None:
        directory = only_run(finished.folder)
        files = {str(path.relative_to(directory)) for path in directory.rglob("*.*")}
        assert {
            ".hydra/config.yaml",
            ".hydra/hydra.yaml",
            ".hydra/overrides.yaml",
            "run.json",
            "metrics.csv",
            "train.log",
            f"checkpoints/{BEST}",
            f"checkpoints/{LAST}",
            "plots/accuracy.png",
            "plots/loss.png",
            "plots/lr.png",
        } <= files
        assert not (directory / "run.lock").exists()
        assert not [path for path in directory.rglob(".*-*")]
        for picture in directory.glob("plots/*.png"):
            assert picture.read_bytes().startswith(b"\x89PNG")

    def test_record_has_every_key(self, finished: Quickstart) -> None:
        content = record(only_run(finished.folder))
        assert {
            "signature",
            "state",
            "reason",
            "config",
            "overrides",
            "parameters",
            "best",
            "final",
            "gap",
            "seconds",
            "started",
            "ended",
            "host",
            "device",
            "threads",
            "precision",
            "versions",
            "git_commit",
            "seed",
            "heartbeat",
        } <= content.keys()
        assert content["state"] == "finished"
        assert content["parameters"] == 77_850
        assert content["overrides"][0] == "experiment=quickstart"
        assert content["choices"]["model"] == "resnet8v2"
        rows = read_metrics(only_run(finished.folder))
        assert [row["epoch"] for row in rows] == list(range(1, finished.epochs + 1))
        assert all(row.keys() == set(COLUMNS) for row in rows)
        assert content["final"]["val_acc"] == rows[-1]["val_acc"]
        assert content["gap"] == pytest.approx(rows[-1]["train_acc"] - rows[-1]["val_acc"])

    def test_in_a_pipe_plain_lines_have_the_results_in_the_terms_of_the_log(
        self, finished: Quickstart
    ) -> None:
        printed = finished.printed
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", printed)
        rows = read_metrics(only_run(finished.folder))
        for row in rows:
            (line,) = (
                line for line in printed.splitlines() if f"{row['epoch']}/{finished.epochs}" in line
            )
            assert f"{row['train_acc']:.2f}%" in line
            assert f"{row['val_acc']:.2f}%" in line
        content = record(only_run(finished.folder))
        # The log that the tables reproduce has these terms.
        for term, value in {
            "Best validation accuracy": f"{content['best']['val_acc']:.2f}%",
            "Final training accuracy": f"{rows[-1]['train_acc']:.2f}%",
            "Final validation accuracy": f"{rows[-1]['val_acc']:.2f}%",
            "loss": f"{rows[-1]['train_loss']:.4f}",
            "Overfitting gap": f"{content['gap']:.2f}%",
        }.items():
            pattern = rf"{term}\W+{re.escape(value)}"
            assert re.search(pattern, printed, re.IGNORECASE), (pattern, printed)
        assert "77,850" in printed
        assert str(only_run(finished.folder).relative_to(finished.folder)) in printed

    def test_tensorboard_has_learning_rate_and_gradient_norm(self, finished: Quickstart) -> None:
        directory = only_run(finished.folder)
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        steps = [event.step for event in events.Scalars("step/lr")]
        assert steps == list(range(finished.steps))
        assert len(events.Scalars("step/grad_norm")) == finished.steps
        assert len(events.Scalars("epoch/val_acc")) == finished.epochs

    def test_evaluate_reproduces_the_best_accuracy(self, copied: Path, command: Command) -> None:
        done = command("evaluate", copied)
        assert done.returncode == 0, done.stderr
        best = record(copied)["best"]["val_acc"]
        assert re.search(rf"Top-1 .*\b{best:.2f}%", done.stdout)
        assert re.search(r"Top-5 .*\d%", done.stdout)

    def test_finished_run_prints_its_summary_and_is_unchanged_when_started_again(
        self, finished: Quickstart, copied: Path, command: Command
    ) -> None:
        before = snapshot(copied)
        overrides = record(copied)["overrides"]
        done = command(*overrides, f"hydra.run.dir={copied}")
        assert done.returncode == 0
        assert f"{record(copied)['best']['val_acc']:.2f}%" in done.stdout
        # Nothing is trained.
        assert f"1/{finished.epochs}" not in done.stdout
        assert snapshot(copied) == before

    def test_another_configuration_in_its_directory_is_refused(
        self, copied: Path, command: Command
    ) -> None:
        before = snapshot(copied)
        overrides = record(copied)["overrides"]
        done = command(*overrides, "optim.lr=0.05", f"hydra.run.dir={copied}")
        assert done.returncode == 2
        assert_has_line(done.stderr, "optim.lr", "0.1", "0.05")
        assert "Traceback" not in done.stderr
        assert snapshot(copied) == before

    def test_damaged_checkpoint_is_not_evaluated(self, copied: Path, command: Command) -> None:
        path = copied / "checkpoints" / BEST
        sound = path.read_bytes()
        path.write_bytes(sound[: len(sound) // 2])
        done = command("evaluate", copied)
        processes.assert_refused(done, str(path))


REFUSALS = [
    ("+nonsense=1", "nonsense", "augmentation", "trainer"),
    ("model.dropout=1.5", "model.dropout", "0", "1", "1.5"),
    ("optim.lr=nan", "optim.lr", "nan"),
    ("optim.lr=[1,2", "optim.lr=[1,2"),
    ("optim.lr=1,2", "optim.lr=1,2", "--multirun", "optim.lr=[1,2]"),
    ("optim.lr=${nope}", "optim.lr", "nope"),
    ("optim.lr=???", "optim.lr", "optim.lr="),
    ("model=null", "model=null", "resnet8v2", "resnet44v2"),
    ("trainer.device=cuda:7", "trainer.device", "cuda:7", "cpu"),
    ("data.root=nowhere", "data.root=nowhere", "cifar100/", "cifar-100-python/"),
    ("hydra.run.dir=/dev/null/x", "/dev/null/x", "hydra.run.dir"),
    ("hydra.run.dir=x/${nope}", "nope"),
    ("trainer.threads=99999999999", "trainer.threads", "99999999999", "1", "4096"),
    ("model._target_=torch.nn.functional.conv2d", "model", "torch.nn.functional.conv2d"),
    ("+_target_=nonsense", "_target_", "trainer"),
    ("~optim.lr", "optim.lr="),
    ("lr=0.1", "lr", "optim.lr"),
    ("optim.lr='0.1'", "optim.lr", "'0.1'"),
]
# A misspelt setting, the one that its refusal suggests, and one that would be in a list of all.
MISSPELT = [
    ("modle=resnet8v2", "model", "optim"),
    ("expriment=quickstart", "experiment", "debug"),
    ("optim.momentun=0.9", "optim.momentum", "optim.nesterov"),
    ("+optim.momentun=0.9", "optim.momentum", "optim.nesterov"),
]


@pytest.mark.parametrize(
    ("override", "facts"),
    [(override, facts) for override, *facts in REFUSALS],
    ids=[override for override, *_ in REFUSALS],
)
def test_wrong_request_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path, override: str, facts: list[str]
) -> None:
    # Where "data.root" is wrong, no other data may hide it.
    base = [] if override.startswith(("data.root", "model=")) else ["data=digits"]
    done = call(main, *base, override)
    processes.assert_refused(done, *facts)
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "nearest", "other"), MISSPELT, ids=[override for override, *_ in MISSPELT]
)
def test_misspelt_setting_is_refused_with_the_nearest_alone(
    call: Command, tmp_path: Path, override: str, nearest: str, other: str
) -> None:
    done = call(main, "data=digits", override)
    processes.assert_refused(done, override.strip("+").partition("=")[0], nearest)
    assert other not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_misspelt_choice_is_refused_with_the_nearest_and_all(call: Command, tmp_path: Path) -> None:
    done = call(main, "model=resnet44")
    processes.assert_refused(done, "model=resnet44", "resnet44v2", "resnet8v2")
    # Among all, and once more.
    assert len(re.findall(r"\bresnet44v2\b", done.stderr)) == 2
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_process_of_a_wrong_request_ends_with_status_2(command: Command, tmp_path: Path) -> None:
    done = command("data=digits", "optim.momentun=0.9")
    processes.assert_refused(done, "optim.momentun", "optim.momentum")
    assert "optim.nesterov" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("optim.lrr=0.1,0.2", ("optim.lrr", "optim.lr")),
        ("hydra.sweep.dir=x/${nope}", ("nope",)),
        ("hydra.sweep.dir=/dev/null/x", ("/dev/null/x", "hydra.sweep.dir")),
    ],
)
def test_wrong_sweep_is_refused_and_leaves_nothing(
    call: Command, tmp_path: Path, override: str, facts: tuple[str, ...]
) -> None:
    done = call(main, "--multirun", "data=digits", override)
    processes.assert_refused(done, *facts)
    # It is in a list of all settings, which a suggestion stands for.
    assert "optim.momentum" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_wrong_job_is_refused_with_the_nearest_choice(call: Command, tmp_path: Path) -> None:
    done = call(main, "--multirun", "data=digits", "model=resnet8v2,resnet99")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    # One of two jobs: its words, and what is wrong with it.
    first, job, reason = done.stderr.splitlines()
    assert re.findall(r"\d+", first) == ["1", "2"]
    assert job.split() == ["data=digits", "model=resnet99"]
    assert re.search(r"\bmodel=resnet99\b", reason)
    # Among all choices, and once more.
    assert len(re.findall(r"\bresnet8v2\b", reason)) == 2
    assert len(re.findall(r"\bresnet44v2\b", reason)) == 1
    assert not list(tmp_path.iterdir())


def test_hydras_own_values_can_be_used(call: Command, tmp_path: Path) -> None:
    done = call(main, "model=resnet8v2", "data.root=${hydra:runtime.cwd}/data", "hydra.run.dir=run")
    processes.assert_refused(done, f"data.root={tmp_path}/data")


def test_without_data_and_network_the_folder_for_the_data_is_named(
    command: Command, tmp_path: Path
) -> None:
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    done = command("model=resnet8v2", RESNET_SWEEP_DATA=str(tmp_path / "data"), **nowhere)
    processes.assert_refused(
        done, str(tmp_path / "data"), "cifar100/", "cifar-100-python/", "experiment=quickstart"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "job"],
        ["--help"],
        pytest.param(["--info"], marks=pytest.mark.slow),
        pytest.param(["--cfg", "all"], marks=pytest.mark.slow),
    ],
)
def test_showing_the_config_imports_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep", *arguments],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "sklearn", "matplotlib", "tensorboard", "optuna"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("model=", {"model=resnet44v2", "model=resnet8v2", "model=resnet20v2"}),
        pytest.param("optim.we", {"optim.weight_decay="}, marks=pytest.mark.slow),
        pytest.param("experiment=q", {"experiment=quickstart"}, marks=pytest.mark.slow),
    ],
)
def test_tab_completion(tmp_path: Path, typed: str, offered: set[str]) -> None:
    script = Path(sys.executable).with_name("resnet-sweep")
    line = f"resnet-sweep {typed}"
    done = subprocess.run(
        [script, "-sc", "query=bash"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment() | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
    )
    assert offered <= set(done.stdout.split())


class TestStopping:
    """A run that is stopped and resumed ends as the run that wasn't stopped."""

    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(cls, once: Once) -> Path:
        def make(folder: Path) -> None:
            done = processes.run(folder, *SMALL)
            assert done.returncode == 0, done.stderr

        return only_run(once("undisturbed", make))

    def start(self, folder: Path, *overrides: str) -> Process:
        return processes.start(
            folder, *SMALL, *overrides, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait_for(self, process: Process, text: str) -> list[str]:
        """Read what a run prints until a line has `text`."""
        lines = []
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return lines
        raise AssertionError("".join(lines))

    def resuming(self, output: str) -> list[str]:
        """The words behind `python -m resnet_sweep` in the last such command of an output."""
        commands = [
            line.strip()
            for line in output.splitlines()
            if line.strip().startswith("python -m resnet_sweep ")
        ]
        return shlex.split(commands[-1])[3:]

    @pytest.mark.parametrize(
        ("number", "status", "seed"),
        [
            (signal.SIGTERM, 75, 0),
            pytest.param(signal.SIGTERM, 75, 1, marks=pytest.mark.slow),
            pytest.param(signal.SIGTERM, 75, 2, marks=pytest.mark.slow),
            (signal.SIGINT, 130, 3),
            (signal.SIGUSR2, 75, 7),
            (signal.SIGKILL, -9, 4),
            pytest.param(signal.SIGKILL, -9, 5, marks=pytest.mark.slow),
            pytest.param(signal.SIGKILL, -9, 6, marks=pytest.mark.slow),
        ],
    )
    def test_resumed_run_equals_uninterrupted_run(
        self, tmp_path: Path, undisturbed: Path, number: int, status: int, seed: int
    ) -> None:
        chance = random.Random(seed)
        process = self.start(tmp_path)
        epoch = chance.randint(0, EPOCHS - 5)
        self.wait_for(process, f"{epoch}/{EPOCHS} " if epoch else "outputs/")
        # The signal comes at any moment of an epoch, which no condition names.
        time.sleep(chance.uniform(0, 0.1))
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == status, output
        directory = only_run(tmp_path)
        if number == signal.SIGKILL:
            assert record(directory)["state"] == "running"
            words = [*SMALL, f"hydra.run.dir={directory}"]
        else:
            assert record(directory)["state"] == "interrupted"
            assert record(directory)["heartbeat"] is None
            words = self.resuming(output)
        done = processes.run(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert only_run(tmp_path) == directory
        assert record(directory)["state"] == "finished"
        assert_same_results(directory, undisturbed)
        assert not [path for path in directory.rglob(".*-*")]
        # Each step and each picture is there once, as in the other run.
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("step/lr")] == list(range(STEPS))
        for picture in undisturbed.glob("plots/*.png"):
            assert (directory / "plots" / picture.name).read_bytes() == picture.read_bytes()

    def test_printed_command_resumes_the_run_as_it_is(self, tmp_path: Path) -> None:
        """With a directory whose name shells and Hydra take apart, and a config of one's own."""
        conf = tmp_path / "my conf" / "optim"
        conf.mkdir(parents=True)
        (conf / "mine.yaml").write_text("_target_: torch.optim.RMSprop\nlr: 0.001\n")
        process = self.start(
            tmp_path,
            "--config-dir",
            "my conf",
            "optim=mine",
            "trainer.resume=false",
            "logger=csv",
            "hydra.run.dir='a=b, (it\\'s) {mine}'",
        )
        self.wait_for(process, f"2/{EPOCHS} ")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 130, output
        done = processes.run(tmp_path, *self.resuming(output))
        assert done.returncode == 0, done.stderr
        # The first epoch isn't trained again.
        assert f"1/{EPOCHS} " not in done.stdout
        assert f"{EPOCHS}/{EPOCHS} " in done.stdout
        assert record(tmp_path / "a=b, (it's) {mine}")["state"] == "finished"

    def test_run_whose_reader_leaves_ends_as_usual(self, tmp_path: Path, undisturbed: Path) -> None:
        process = self.start(tmp_path)
        self.wait_for(process, f"2/{EPOCHS} ")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert_same_results(only_run(tmp_path), undisturbed)

    def test_second_process_in_the_same_directory_is_refused(self, tmp_path: Path) -> None:
        process = self.start(tmp_path, "hydra.run.dir=here", "trainer.epochs=500")
        try:
            self.wait_for(process, "1/500 ")
            hydra = snapshot(tmp_path / "here" / ".hydra")
            second = self.start(tmp_path, "hydra.run.dir=here", "trainer.epochs=500")
            output, _ = second.communicate(timeout=120)
            assert second.returncode == 2
            assert output.startswith("error: ")
            assert output.count("\n") == 1
            assert "here" in output
            assert re.search(rf"\b{process.pid}\b", output)
            assert snapshot(tmp_path / "here" / ".hydra") == hydra
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_runs_of_the_same_second_get_directories_of_their_own(self, tmp_path: Path) -> None:
        # A year is long enough for all of them to ask for the same name.
        arguments = ("trainer.max_steps=1", "logger=csv", "hydra.run.dir=outputs/${now:%Y}")
        started = [self.start(tmp_path, *arguments) for _ in range(3)]
        assert [process.wait(timeout=240) for process in started] == [0, 0, 0]
        names = sorted(path.parent.name for path in tmp_path.glob("outputs/*/run.json"))
        assert [name[4:] for name in names] == ["", "-2", "-3"]
        for name in names:
            assert record(tmp_path / "outputs" / name)["state"] == "finished"

    @pytest.mark.slow
    def test_sweeps_of_the_same_second_get_directories_of_their_own(self, tmp_path: Path) -> None:
        for _ in range(2):
            process = self.start(
                tmp_path,
                "--multirun",
                "trainer.max_steps=1",
                "logger=csv",
                "seed=0,1",
                "hydra.sweep.dir=multirun/${now:%Y}",
                "reuse=false",
            )
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
        jobs = sorted(path.parent for path in tmp_path.glob("multirun/*/*/run.json"))
        assert [(job.parent.name[4:], job.name) for job in jobs] == [
            ("", "0"),
            ("", "1"),
            ("-2", "0"),
            ("-2", "1"),
        ]
        assert all((job / ".hydra" / "overrides.yaml").exists() for job in jobs)

    def test_a_directory_may_be_named_from_above(self, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir()
        done = processes.run(
            tmp_path / "below",
            *SMALL,
            "trainer.max_steps=1",
            "logger=csv",
            "hydra.run.dir=../above",
        )
        assert done.returncode == 0, done.stderr
        assert record(tmp_path / "above")["state"] == "finished"

    def test_without_resume_a_finished_run_is_trained_again(
        self, tmp_path: Path, undisturbed: Path
    ) -> None:
        shutil.copytree(undisturbed, tmp_path / "here")
        started = record(undisturbed)["started"]
        done = processes.run(tmp_path, *SMALL, "hydra.run.dir=here", "trainer.resume=false")
        assert done.returncode == 0, done.stderr
        for epoch in range(1, EPOCHS + 1):
            assert f"{epoch}/{EPOCHS} " in done.stdout
        assert record(tmp_path / "here")["started"] != started
        assert_same_results(tmp_path / "here", undisturbed)


def test_diverging_run_ends_with_its_reason(command: Command, tmp_path: Path) -> None:
    arguments = (*SMALL, "optim.lr=1e10", "hydra.run.dir=run")
    done = command(*arguments)
    assert done.returncode == 1
    content = record(tmp_path / "run")
    assert content["state"] == "diverged"
    # The epoch is one of the first, the step one of four.
    assert re.search(r"epoch \d\b", content["reason"])
    assert re.search(r"step [1-4]\b.*\b4\b", content["reason"])
    # The learning rate, or the norm of the gradient, is a very large number.
    assert re.search(r"\de\+\d", content["reason"])
    assert content["reason"] in done.stdout
    before = snapshot(tmp_path / "run")
    again = command(*arguments)
    assert again.returncode == 1
    assert snapshot(tmp_path / "run") == before


def test_failed_run_names_the_error_and_is_resumed_when_it_is_fixed(
    command: Command, tmp_path: Path
) -> None:
    code = tmp_path / "mine.py"
    broken = """
class Odd:
    def __call__(self, images, labels, generator):
        # Not in the trial before the run, which has two images.
        if len(images) > 2:
            raise OSError(28, "No space left on device")
        return images, labels
"""
    code.write_text(broken)
    arguments = (
        *SMALL,
        "logger=csv",
        "+augmentation.odd={_target_: mine.Odd}",
        "hydra.run.dir=run",
    )
    done = command(*arguments, RESNET_SWEEP_TRUSTED_PACKAGES="mine")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    assert "No space left on device" in record(tmp_path / "run")["reason"]
    assert record(tmp_path / "run")["state"] == "failed"
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()
    code.write_text(
        broken.replace('raise OSError(28, "No space left on device")', "return images, labels")
    )
    done = command(*arguments, RESNET_SWEEP_TRUSTED_PACKAGES="mine")
    assert done.returncode == 0, done.stdout
    assert record(tmp_path / "run")["state"] == "finished"


def test_a_sweep_of_hydras_grammar_runs_each_combination(command: Command, tmp_path: Path) -> None:
    done = command(
        "--multirun", *SMALL, "trainer.epochs=1", "logger=csv", "optim.lr=0.1,1e10", "seed=0,1"
    )
    assert done.returncode == 1, done.stderr
    jobs = {
        path.parent.name: record(path.parent) for path in tmp_path.glob("multirun/*/*/*/run.json")
    }
    assert {name: (job["config"]["optim"]["lr"], job["seed"]) for name, job in jobs.items()} == {
        "0": (0.1, 0),
        "1": (0.1, 1),
        "2": (1e10, 0),
        "3": (1e10, 1),
    }
    assert [jobs[name]["state"] for name in "0123"] == ["finished"] * 2 + ["diverged"] * 2


class TestCIFAR100:
    """On the real images."""

    @pytest.mark.parametrize(
        ("overrides", "length", "images"),
        [
            (("debug=fast",), ("1", "4", "16", "2"), ("64", "64")),
            pytest.param(
                ("model=resnet44v2", "optim=sgd", "trainer.max_steps=2", "data.limit_test=500"),
                ("100", "391", "128", "2"),
                ("50,000", "500"),
                marks=pytest.mark.slow,
            ),
        ],
        ids=["fast", "all_images"],
    )
    def test_main_job_makes_two_steps(
        self,
        command: Command,
        tmp_path: Path,
        cifar100_root: Path,
        overrides: tuple[str, ...],
        length: tuple[str, ...],
        images: tuple[str, ...],
    ) -> None:
        done = command(*overrides, "trainer.threads=1", RESNET_SWEEP_DATA=str(cifar100_root))
        assert done.returncode == 0, done.stdout + done.stderr
        content = record(only_run(tmp_path))
        assert content["parameters"] == 5_940_356
        assert content["state"] == "finished"
        events = EventAccumulator(str(only_run(tmp_path) / "tensorboard"))
        events.Reload()
        assert [event.step for event in events.Scalars("step/lr")] == [0, 1]
        # Epochs, steps of an epoch, images of a step and steps in all.
        assert_has_line(done.stdout, *length)
        assert_has_line(done.stdout, *images)

    @pytest.mark.slow
    def test_64_images_are_learned_by_heart(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        done = command(
            "debug=overfit",
            "model=resnet20v2",
            "trainer.precision=float32",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert max(row["train_acc"] for row in read_metrics(only_run(tmp_path))) == 100

    @pytest.mark.slow
    def test_small_network_learns_with_a_holdout_and_keeps_the_test_set(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        done = command(
            "model=resnet8v2",
            "trainer.epochs=3",
            "data.limit_train=10000",
            "data.holdout=2000",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert_has_line(done.stdout, "10,000", "2,000")
        # Chance is 1%, with a standard deviation of 0.2 over 2,000 images.
        assert record(only_run(tmp_path))["best"]["val_acc"] > 5
        tested = command("evaluate", only_run(tmp_path), RESNET_SWEEP_DATA=str(cifar100_root))
        assert "10,000" in tested.stdout
        assert float(re.search(r"Top-1 [^\d\n]*([\d.]+)%", tested.stdout)[1]) > 5


def test_terminal_has_a_progress_bar(tmp_path: Path) -> None:
    """On a pseudo-terminal there is a bar, and the lines of a pipe remain."""
    master, slave = os.openpty()
    process = processes.start(
        tmp_path,
        *SMALL,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        environment={"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        output += chunk
    os.close(master)
    assert process.wait(timeout=60) == 0
    text = output.decode()
    # The bar is erased and drawn again, with the pace of training.
    assert "\x1b[2K" in text
    assert "images/s" in text
    rows = read_metrics(only_run(tmp_path))
    assert len(rows) == EPOCHS
    for row in rows:
        assert f"{row['epoch']}/{EPOCHS}" in text
        assert f"{row['val_acc']:.2f}%" in text
