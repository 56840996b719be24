"""The command line of `python -m resnet_sweep`, started as a user starts it, in an empty folder."""

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
from processes import Process, clean_environment, run_and_list_imports
from small_run import without_times
from small_sweep import commands, snapshot
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_sweep.__main__ import main
from resnet_sweep.runs.metrics import COLUMNS, read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint

# The overrides of a run that takes a second and uses every source of randomness.
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


def assert_same_results(first: Path, second: Path) -> None:
    assert without_times(read_metrics(first)) == without_times(read_metrics(second))
    for name in (BEST, LAST):
        first_model, second_model = (
            read_checkpoint(directory / "checkpoints" / name)["model"]
            for directory in (first, second)
        )
        assert all(torch.equal(first_model[key], second_model[key]) for key in first_model)


def assert_has_line(text: str, *facts: str) -> None:
    """Assert that a line of a text contains all facts, which may be words or numbers."""
    patterns = [rf"(?<![\w.,]){re.escape(fact)}(?![\w,]|\.\d)" for fact in facts]
    assert any(
        all(re.search(pattern, line) for pattern in patterns) for line in text.splitlines()
    ), f"no line has {facts}: {text}"


class Quickstart(NamedTuple):
    """A finished quickstart: its folder, its output, and its numbers of epochs and steps."""

    folder: Path
    output: str
    epochs: int
    steps: int


SHORT = pytest.param((3, 24, ("trainer.epochs=3", "data.limit_train=512")), id="short")
COMPLETE = pytest.param((10, 230, ()), id="complete", marks=pytest.mark.slow)


class TestQuickstart:
    @pytest.fixture(scope="class", params=[SHORT, COMPLETE])
    @classmethod
    def finished(cls, request: pytest.FixtureRequest, once: Once) -> Quickstart:
        epochs, steps, overrides = request.param

        def make(folder: Path) -> None:
            result = processes.run(folder, "experiment=quickstart", *overrides, cold=True)
            assert result.returncode == 0, result.stderr
            (folder / "output.txt").write_text(result.stdout)

        folder = once(f"quickstart_{epochs}", make)
        return Quickstart(folder, (folder / "output.txt").read_text(), epochs, steps)

    @pytest.fixture
    def run_copy(self, finished: Quickstart, tmp_path: Path) -> Path:
        """Return a copy of the run directory, which the test may change."""
        return shutil.copytree(only_run(finished.folder), tmp_path / "copied")

    def test_the_training_loss_falls(self, finished: Quickstart) -> None:
        losses = [row["train_loss"] for row in read_metrics(only_run(finished.folder))]
        assert losses[-1] < 0.9 * losses[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("finished", [COMPLETE], indirect=True)
    def test_the_validation_accuracy_exceeds_95_percent(self, finished: Quickstart) -> None:
        assert record(only_run(finished.folder))["best"]["val_acc"] > 95

    def test_the_run_directory_has_every_file_and_no_temporary_ones(
        self, finished: Quickstart
    ) -> None:
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
        for plot in directory.glob("plots/*.png"):
            assert plot.read_bytes().startswith(b"\x89PNG")

    def test_run_json_has_every_key_and_agrees_with_the_metrics(self, finished: Quickstart) -> None:
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

    def test_the_output_in_a_pipe_is_plain_text_with_the_results_in_the_terms_of_the_log(
        self, finished: Quickstart
    ) -> None:
        output = finished.output
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", output)
        rows = read_metrics(only_run(finished.folder))
        for row in rows:
            (line,) = (
                line for line in output.splitlines() if f"{row['epoch']}/{finished.epochs}" in line
            )
            assert f"{row['train_acc']:.2f}%" in line
            assert f"{row['val_acc']:.2f}%" in line
        content = record(only_run(finished.folder))
        # The training log uses these terms.
        for term, value in {
            "Best validation accuracy": f"{content['best']['val_acc']:.2f}%",
            "Final training accuracy": f"{rows[-1]['train_acc']:.2f}%",
            "Final validation accuracy": f"{rows[-1]['val_acc']:.2f}%",
            "loss": f"{rows[-1]['train_loss']:.4f}",
            "Overfitting gap": f"{content['gap']:.2f}%",
        }.items():
            pattern = rf"{term}\W+{re.escape(value)}"
            assert re.search(pattern, output, re.IGNORECASE), (pattern, output)
        assert "77,850" in output
        assert str(only_run(finished.folder).relative_to(finished.folder)) in output

    def test_tensorboard_has_the_learning_rate_and_the_gradient_norm_of_each_step(
        self, finished: Quickstart
    ) -> None:
        directory = only_run(finished.folder)
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        steps = [event.step for event in events.Scalars("step/lr")]
        assert steps == list(range(finished.steps))
        assert len(events.Scalars("step/grad_norm")) == finished.steps
        assert len(events.Scalars("epoch/val_acc")) == finished.epochs

    def test_evaluate_reproduces_the_best_validation_accuracy(
        self, run_copy: Path, command: Command
    ) -> None:
        result = command("evaluate", run_copy)
        assert result.returncode == 0, result.stderr
        best = record(run_copy)["best"]["val_acc"]
        assert re.search(rf"Top-1 .*\b{best:.2f}%", result.stdout)
        assert re.search(r"Top-5 .*\d%", result.stdout)

    def test_a_finished_run_that_is_started_again_prints_its_summary_and_is_not_trained(
        self, finished: Quickstart, run_copy: Path, command: Command
    ) -> None:
        before = snapshot(run_copy)
        overrides = record(run_copy)["overrides"]
        result = command(*overrides, f"hydra.run.dir={run_copy}")
        assert result.returncode == 0
        assert f"{record(run_copy)['best']['val_acc']:.2f}%" in result.stdout
        # No epoch is trained again.
        assert f"1/{finished.epochs}" not in result.stdout
        assert snapshot(run_copy) == before

    def test_another_configuration_in_the_directory_of_a_run_is_refused(
        self, run_copy: Path, command: Command
    ) -> None:
        before = snapshot(run_copy)
        overrides = record(run_copy)["overrides"]
        result = command(*overrides, "optim.lr=0.05", f"hydra.run.dir={run_copy}")
        assert result.returncode == 2
        assert_has_line(result.stderr, "optim.lr", "0.1", "0.05")
        assert "Traceback" not in result.stderr
        assert snapshot(run_copy) == before

    def test_a_damaged_checkpoint_is_not_evaluated(self, run_copy: Path, command: Command) -> None:
        path = run_copy / "checkpoints" / BEST
        checkpoint = path.read_bytes()
        path.write_bytes(checkpoint[: len(checkpoint) // 2])
        result = command("evaluate", run_copy)
        processes.assert_refused(result, str(path))


WRONG_REQUESTS = [
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
# A misspelt override, the suggested name, and a name that only a list of all names would contain.
MISSPELT = [
    ("modle=resnet8v2", "model", "optim"),
    ("expriment=quickstart", "experiment", "debug"),
    ("optim.momentun=0.9", "optim.momentum", "optim.nesterov"),
    ("+optim.momentun=0.9", "optim.momentum", "optim.nesterov"),
]


@pytest.mark.parametrize(
    ("override", "facts"),
    [(override, facts) for override, *facts in WRONG_REQUESTS],
    ids=[override for override, *_ in WRONG_REQUESTS],
)
def test_a_wrong_request_is_refused_and_writes_nothing(
    call: Command, tmp_path: Path, override: str, facts: list[str]
) -> None:
    # data.root is a setting of the default, data=cifar100.
    base = [] if override.startswith(("data.root", "model=")) else ["data=digits"]
    result = call(main, *base, override)
    processes.assert_refused(result, *facts)
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "nearest", "unrelated"), MISSPELT, ids=[override for override, *_ in MISSPELT]
)
def test_a_misspelt_setting_is_refused_with_only_the_nearest_name(
    call: Command, tmp_path: Path, override: str, nearest: str, unrelated: str
) -> None:
    result = call(main, "data=digits", override)
    processes.assert_refused(result, override.strip("+").partition("=")[0], nearest)
    assert unrelated not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_a_misspelt_choice_is_refused_with_the_nearest_and_the_list_of_all(
    call: Command, tmp_path: Path
) -> None:
    result = call(main, "model=resnet44")
    processes.assert_refused(result, "model=resnet44", "resnet44v2", "resnet8v2")
    # The suggestion is named twice: alone, and in the list of all choices.
    assert len(re.findall(r"\bresnet44v2\b", result.stderr)) == 2
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


def test_the_process_of_a_wrong_request_exits_with_status_2(
    command: Command, tmp_path: Path
) -> None:
    result = command("data=digits", "optim.momentun=0.9")
    processes.assert_refused(result, "optim.momentun", "optim.momentum")
    assert "optim.nesterov" not in result.stderr
    assert result.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("optim.lrr=0.1,0.2", ("optim.lrr", "optim.lr")),
        ("hydra.sweep.dir=x/${nope}", ("nope",)),
        ("hydra.sweep.dir=/dev/null/x", ("/dev/null/x", "hydra.sweep.dir")),
    ],
)
def test_a_wrong_sweep_is_refused_and_writes_nothing(
    call: Command, tmp_path: Path, override: str, facts: tuple[str, ...]
) -> None:
    result = call(main, "--multirun", "data=digits", override)
    processes.assert_refused(result, *facts)
    # The message suggests the nearest setting, and doesn't list all settings.
    assert "optim.momentum" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_sweep_with_a_wrong_job_is_refused_with_the_nearest_choice(
    call: Command, tmp_path: Path
) -> None:
    result = call(main, "--multirun", "data=digits", "model=resnet8v2,resnet99")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    # The message says that 1 of 2 jobs is wrong, and gives its overrides and the reason.
    first, job, reason = result.stderr.splitlines()
    assert re.findall(r"\d+", first) == ["1", "2"]
    assert job.split() == ["data=digits", "model=resnet99"]
    assert re.search(r"\bmodel=resnet99\b", reason)
    # The suggestion is named twice: alone, and in the list of all choices.
    assert len(re.findall(r"\bresnet8v2\b", reason)) == 2
    assert len(re.findall(r"\bresnet44v2\b", reason)) == 1
    assert not list(tmp_path.iterdir())


def test_a_setting_can_refer_to_hydras_configuration(call: Command, tmp_path: Path) -> None:
    result = call(
        main, "model=resnet8v2", "data.root=${hydra:runtime.cwd}/data", "hydra.run.dir=run"
    )
    processes.assert_refused(result, f"data.root={tmp_path}/data")


def test_without_data_and_internet_the_error_names_the_folder_for_the_data(
    command: Command, tmp_path: Path
) -> None:
    unreachable_proxy = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    result = command(
        "model=resnet8v2", RESNET_SWEEP_DATA=str(tmp_path / "data"), **unreachable_proxy
    )
    processes.assert_refused(
        result, str(tmp_path / "data"), "cifar100/", "cifar-100-python/", "experiment=quickstart"
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
def test_showing_the_config_does_not_import_torch(tmp_path: Path, arguments: list[str]) -> None:
    result, imported = run_and_list_imports(tmp_path, *arguments)
    assert result.returncode == 0
    assert not imported & {"torch", "torchvision", "sklearn", "matplotlib", "tensorboard", "optuna"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("prefix", "completions"),
    [
        ("model=", {"model=resnet44v2", "model=resnet8v2", "model=resnet20v2"}),
        pytest.param("optim.we", {"optim.weight_decay="}, marks=pytest.mark.slow),
        pytest.param("experiment=q", {"experiment=quickstart"}, marks=pytest.mark.slow),
    ],
)
def test_tab_completion_offers_choices_and_settings(
    tmp_path: Path, prefix: str, completions: set[str]
) -> None:
    script = Path(sys.executable).with_name("resnet-sweep")
    line = f"resnet-sweep {prefix}"
    result = subprocess.run(
        [script, "-sc", "query=bash"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment() | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
    )
    assert completions <= set(result.stdout.split())


class TestStopping:
    """Runs that are stopped and resumed, and several processes in one folder."""

    @pytest.fixture(scope="class")
    @classmethod
    def uninterrupted(cls, once: Once) -> Path:
        def make(folder: Path) -> None:
            result = processes.run(folder, *SMALL)
            assert result.returncode == 0, result.stderr

        return only_run(once("uninterrupted", make))

    def start(self, folder: Path, *overrides: str) -> Process:
        return processes.start(
            folder, *SMALL, *overrides, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def wait_for(self, process: Process, text: str) -> list[str]:
        """Read the output of a run until a line contains `text`, and return the lines."""
        lines = []
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return lines
        raise AssertionError("".join(lines))

    def resume_arguments(self, output: str) -> list[str]:
        """Return the arguments of the last `python -m resnet_sweep` command in an output."""
        return shlex.split(commands(output)[-1])[3:]

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
    def test_a_resumed_run_equals_the_uninterrupted_run(
        self, tmp_path: Path, uninterrupted: Path, number: int, status: int, seed: int
    ) -> None:
        rng = random.Random(seed)
        process = self.start(tmp_path)
        epoch = rng.randint(0, EPOCHS - 5)
        self.wait_for(process, f"{epoch}/{EPOCHS} " if epoch else "outputs/")
        # The signal must arrive at a random moment of an epoch; no condition describes it.
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == status, output
        directory = only_run(tmp_path)
        if number == signal.SIGKILL:
            assert record(directory)["state"] == "running"
            arguments = [*SMALL, f"hydra.run.dir={directory}"]
        else:
            assert record(directory)["state"] == "interrupted"
            assert record(directory)["heartbeat"] is None
            arguments = self.resume_arguments(output)
        result = processes.run(tmp_path, *arguments)
        assert result.returncode == 0, result.stderr
        assert only_run(tmp_path) == directory
        assert record(directory)["state"] == "finished"
        assert_same_results(directory, uninterrupted)
        assert not [path for path in directory.rglob(".*-*")]
        # TensorBoard has each step once, and the plots equal those of the uninterrupted run.
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("step/lr")] == list(range(STEPS))
        for plot in uninterrupted.glob("plots/*.png"):
            assert (directory / "plots" / plot.name).read_bytes() == plot.read_bytes()

    def test_the_printed_command_resumes_the_run(self, tmp_path: Path) -> None:
        """The directory's name needs quotes in the shell and in Hydra; a config folder is given."""
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
        result = processes.run(tmp_path, *self.resume_arguments(output))
        assert result.returncode == 0, result.stderr
        # The first epoch isn't trained again.
        assert f"1/{EPOCHS} " not in result.stdout
        assert f"{EPOCHS}/{EPOCHS} " in result.stdout
        assert record(tmp_path / "a=b, (it's) {mine}")["state"] == "finished"

    def test_a_run_finishes_after_the_reader_of_its_output_has_closed_the_pipe(
        self, tmp_path: Path, uninterrupted: Path
    ) -> None:
        process = self.start(tmp_path)
        self.wait_for(process, f"2/{EPOCHS} ")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert_same_results(only_run(tmp_path), uninterrupted)

    def test_a_second_process_in_the_same_directory_is_refused(self, tmp_path: Path) -> None:
        process = self.start(tmp_path, "hydra.run.dir=my_run", "trainer.epochs=500")
        try:
            self.wait_for(process, "1/500 ")
            hydra = snapshot(tmp_path / "my_run" / ".hydra")
            second = self.start(tmp_path, "hydra.run.dir=my_run", "trainer.epochs=500")
            output, _ = second.communicate(timeout=120)
            assert second.returncode == 2
            assert output.startswith("error: ")
            assert output.count("\n") == 1
            assert "my_run" in output
            assert re.search(rf"\b{process.pid}\b", output)
            assert snapshot(tmp_path / "my_run" / ".hydra") == hydra
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_runs_that_start_in_the_same_second_get_different_directories(
        self, tmp_path: Path
    ) -> None:
        # With the year as the name, all runs ask for the same directory.
        arguments = ("trainer.max_steps=1", "logger=csv", "hydra.run.dir=outputs/${now:%Y}")
        started = [self.start(tmp_path, *arguments) for _ in range(3)]
        assert [process.wait(timeout=240) for process in started] == [0, 0, 0]
        names = sorted(path.parent.name for path in tmp_path.glob("outputs/*/run.json"))
        assert [name[4:] for name in names] == ["", "-2", "-3"]
        for name in names:
            assert record(tmp_path / "outputs" / name)["state"] == "finished"

    @pytest.mark.slow
    def test_sweeps_that_start_in_the_same_second_get_different_directories(
        self, tmp_path: Path
    ) -> None:
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

    def test_a_run_directory_may_be_outside_the_current_folder(self, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir()
        result = processes.run(
            tmp_path / "below",
            *SMALL,
            "trainer.max_steps=1",
            "logger=csv",
            "hydra.run.dir=../above",
        )
        assert result.returncode == 0, result.stderr
        assert record(tmp_path / "above")["state"] == "finished"

    def test_with_resume_false_a_finished_run_is_trained_again(
        self, tmp_path: Path, uninterrupted: Path
    ) -> None:
        shutil.copytree(uninterrupted, tmp_path / "my_run")
        started = record(uninterrupted)["started"]
        result = processes.run(tmp_path, *SMALL, "hydra.run.dir=my_run", "trainer.resume=false")
        assert result.returncode == 0, result.stderr
        for epoch in range(1, EPOCHS + 1):
            assert f"{epoch}/{EPOCHS} " in result.stdout
        assert record(tmp_path / "my_run")["started"] != started
        assert_same_results(tmp_path / "my_run", uninterrupted)


def test_a_diverged_run_records_and_prints_the_reason_and_is_not_trained_again(
    command: Command, tmp_path: Path
) -> None:
    arguments = (*SMALL, "optim.lr=1e10", "hydra.run.dir=run")
    result = command(*arguments)
    assert result.returncode == 1
    content = record(tmp_path / "run")
    assert content["state"] == "diverged"
    # The reason names one of the first epochs, and one of its 4 steps.
    assert re.search(r"epoch \d\b", content["reason"])
    assert re.search(r"step [1-4]\b.*\b4\b", content["reason"])
    # The reason contains the learning rate, or the norm of the gradient.
    assert re.search(r"\de\+\d", content["reason"])
    assert content["reason"] in result.stdout
    before = snapshot(tmp_path / "run")
    again = command(*arguments)
    assert again.returncode == 1
    assert snapshot(tmp_path / "run") == before


def test_a_failed_run_reports_its_error_and_is_resumed_when_it_is_fixed(
    command: Command, tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.touch()
    code = f"""
import os

class Faulty:
    def __call__(self, images, labels, generator):
        # The validation before the run has a batch of two images, and must succeed.
        if len(images) > 2 and os.path.exists({str(full)!r}):
            raise OSError(28, "No space left on device")
        return images, labels
"""
    (tmp_path / "mine.py").write_text(code)
    arguments = (
        *SMALL,
        "logger=csv",
        "+augmentation.faulty={_target_: mine.Faulty}",
        "hydra.run.dir=run",
    )
    result = command(*arguments, RESNET_SWEEP_TRUSTED_PACKAGES="mine")
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    assert "No space left on device" in result.stdout
    assert "No space left on device" in record(tmp_path / "run")["reason"]
    # The line of the user's own code.
    assert "mine.py, line 8" in result.stdout
    assert record(tmp_path / "run")["state"] == "failed"
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()
    full.unlink()
    result = command(*arguments, RESNET_SWEEP_TRUSTED_PACKAGES="mine")
    assert result.returncode == 0, result.stdout
    assert record(tmp_path / "run")["state"] == "finished"


def test_a_sweep_in_hydras_grammar_trains_each_combination(
    command: Command, tmp_path: Path
) -> None:
    result = command(
        "--multirun", *SMALL, "trainer.epochs=1", "logger=csv", "optim.lr=0.1,1e10", "seed=0,1"
    )
    assert result.returncode == 1, result.stderr
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
    """Runs on the real images."""

    @pytest.mark.parametrize(
        ("overrides", "counts", "image_counts"),
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
    def test_a_run_of_the_default_model_makes_two_steps(
        self,
        command: Command,
        tmp_path: Path,
        cifar100_root: Path,
        overrides: tuple[str, ...],
        counts: tuple[str, ...],
        image_counts: tuple[str, ...],
    ) -> None:
        result = command(*overrides, "trainer.threads=1", RESNET_SWEEP_DATA=str(cifar100_root))
        assert result.returncode == 0, result.stdout + result.stderr
        content = record(only_run(tmp_path))
        assert content["parameters"] == 5_940_356
        assert content["state"] == "finished"
        events = EventAccumulator(str(only_run(tmp_path) / "tensorboard"))
        events.Reload()
        assert [event.step for event in events.Scalars("step/lr")] == [0, 1]
        # The epochs, the steps of an epoch, the batch size, and the total number of steps.
        assert_has_line(result.stdout, *counts)
        assert_has_line(result.stdout, *image_counts)

    @pytest.mark.slow
    def test_64_images_are_fitted_to_100_percent(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        result = command(
            "debug=overfit",
            "model=resnet20v2",
            "trainer.precision=float32",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert max(row["train_acc"] for row in read_metrics(only_run(tmp_path))) == 100

    @pytest.mark.slow
    def test_a_small_network_learns_with_a_holdout_and_keeps_the_test_set(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        result = command(
            "model=resnet8v2",
            "trainer.epochs=3",
            "data.limit_train=10000",
            "data.holdout=2000",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert_has_line(result.stdout, "10,000", "2,000")
        # The accuracy of chance is 1%, with a standard deviation of 0.2 points over 2,000 images.
        assert record(only_run(tmp_path))["best"]["val_acc"] > 5
        tested = command("evaluate", only_run(tmp_path), RESNET_SWEEP_DATA=str(cifar100_root))
        assert "10,000" in tested.stdout
        assert float(re.search(r"Top-1 [^\d\n]*([\d.]+)%", tested.stdout)[1]) > 5


def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    """A pseudo-terminal gets the bar, and the same lines as a pipe."""
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
    # The bar is erased and drawn again, and shows the training speed.
    assert "\x1b[2K" in text
    assert "images/s" in text
    rows = read_metrics(only_run(tmp_path))
    assert len(rows) == EPOCHS
    for row in rows:
        assert f"{row['epoch']}/{EPOCHS}" in text
        assert f"{row['val_acc']:.2f}%" in text
