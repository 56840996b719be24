"""The product as its users meet it: the real command line, in a folder of their own."""

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import torch
from conftest import Command
from processes import Process, clean_environment
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resnet_sweep.runs.metrics import COLUMNS, read_metrics
from resnet_sweep.training.checkpoint import BEST, LAST, read_checkpoint

# A run of some seconds that learns, with all that is random in one.
SMALL = (
    "experiment=quickstart",
    "augmentation=standard",
    "model.dropout=0.1",
    "trainer.epochs=8",
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.limit_train=500",
)


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


def snapshot(directory: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


class TestQuickstart:
    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
        folder = tmp_path_factory.mktemp("quickstart")
        done = processes.run(folder, "experiment=quickstart", cold=True)
        assert done.returncode == 0, done.stderr
        return folder, done.stdout

    def test_it_learns(self, finished) -> None:
        folder, _ = finished
        assert record(only_run(folder))["best"]["val_acc"] > 95

    def test_it_leaves_a_complete_run_directory(self, finished) -> None:
        directory = only_run(finished[0])
        files = {str(path.relative_to(directory)) for path in directory.rglob("*.*")}
        assert {
            ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "run.json",
            "metrics.csv", "train.log", f"checkpoints/{BEST}", f"checkpoints/{LAST}",
            "plots/accuracy.png", "plots/loss.png", "plots/lr.png",
        } <= files  # fmt: skip
        assert not (directory / "run.lock").exists()
        assert not [path for path in directory.rglob(".*-*")]
        for picture in directory.glob("plots/*.png"):
            assert picture.read_bytes().startswith(b"\x89PNG")

    def test_its_record_has_every_key(self, finished) -> None:
        content = record(only_run(finished[0]))
        assert {
            "signature", "state", "reason", "config", "overrides", "parameters", "best", "final",
            "gap", "seconds", "started", "ended", "host", "device", "threads", "precision",
            "versions", "git_commit", "seed", "lease",
        } <= content.keys()  # fmt: skip
        assert content["state"] == "finished"
        assert content["parameters"] == 77_850
        assert content["overrides"] == ["experiment=quickstart"]
        assert content["choices"]["model"] == "resnet8v2"
        rows = read_metrics(only_run(finished[0]))
        assert [row["epoch"] for row in rows] == list(range(1, 11))
        assert all(row.keys() == set(COLUMNS) for row in rows)
        assert content["final"]["val_acc"] == rows[-1]["val_acc"]
        assert content["gap"] == pytest.approx(rows[-1]["train_acc"] - rows[-1]["val_acc"])

    def test_in_a_pipe_it_prints_plain_lines_in_the_terms_of_the_log(self, finished) -> None:
        _, output = finished
        assert not re.search(r"[\x00-\x09\x0b-\x1f]", output)
        assert len(re.findall(r"^epoch +\d+/10  train acc .* val acc .* loss ", output, re.M)) == 10
        for term in (
            "Best validation accuracy:", "Final training accuracy:", "Final validation accuracy:",
            "Final training loss:", "Overfitting gap:", "Time:", "Run directory:",
            "77,850 parameters",
        ):  # fmt: skip
            assert term in output

    def test_its_tensorboard_has_learning_rate_and_gradient_norm(self, finished) -> None:
        directory = only_run(finished[0])
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        steps = [event.step for event in events.Scalars("step/lr")]
        assert steps == list(range(230))
        assert len(events.Scalars("step/grad_norm")) == 230
        assert len(events.Scalars("epoch/val_acc")) == 10

    def test_evaluate_gives_the_best_accuracy_again(self, finished, command: Command) -> None:
        directory = only_run(finished[0])
        done = command(directory, module="resnet_sweep.evaluate")
        assert done.returncode == 0, done.stderr
        best = record(directory)["best"]["val_acc"]
        assert f"Top-1 accuracy:  {best:.2f}%" in done.stdout
        assert "Top-5 accuracy:" in done.stdout

    def test_started_again_it_prints_its_summary_and_trains_nothing(
        self, finished, command: Command
    ) -> None:
        directory = only_run(finished[0])
        before = snapshot(directory)
        done = command("experiment=quickstart", f"hydra.run.dir={directory}")
        assert done.returncode == 0
        assert "nothing to train" in done.stdout
        assert "Best validation accuracy:" in done.stdout
        assert snapshot(directory) == before

    def test_another_configuration_in_its_directory_is_refused(
        self, finished, command: Command
    ) -> None:
        directory = only_run(finished[0])
        before = snapshot(directory)
        done = command("experiment=quickstart", "optim.lr=0.05", f"hydra.run.dir={directory}")
        assert done.returncode == 2
        assert "optim.lr: 0.1 there, 0.05 here" in done.stderr
        assert snapshot(directory) == before

    def test_a_damaged_checkpoint_is_not_evaluated(self, finished, command: Command) -> None:
        path = only_run(finished[0]) / "checkpoints" / BEST
        sound = path.read_bytes()
        path.write_bytes(sound[: len(sound) // 2])
        done = command(only_run(finished[0]), module="resnet_sweep.evaluate")
        path.write_bytes(sound)
        assert done.returncode == 2
        assert "is damaged" in done.stderr
        assert "Traceback" not in done.stderr


REFUSALS = [
    ("model=resnet44", "there is no model=resnet44: did you mean resnet44v2?"),
    ("modle=resnet8v2", "modle isn't a setting: did you mean model?"),
    ("expriment=quickstart", "did you mean experiment?"),
    ("optim.momentun=0.9", "optim.momentun isn't a setting: did you mean optim.momentum?"),
    ("+optim.momentun=0.9", "did you mean optim.momentum?"),
    ("+nonsense=1", "nonsense isn't a setting"),
    ("model.dropout=1.5", "model.dropout must be a number at least 0 and below 1, but is 1.5"),
    ("optim.lr=nan", "optim.lr must be a number above 0, but is nan"),
    ("optim.lr=[1,2", "can't be read as an override"),
    ("optim.lr=1,2", "--multirun"),
    ("optim.lr=${nope}", "nope"),
    ("optim.lr=???", "lr"),
    ("model=null", "Config group override"),
    ("trainer.device=cuda:7", "trainer.device=cuda:7 isn't there"),
    ("data.root=nowhere", "data.root=nowhere holds neither"),
    ("hydra.run.dir=/dev/null/x", "can't be used"),
    ("hydra.run.dir=x/${nope}", "nope"),
    ("trainer.threads=99999999999", "trainer.threads must be"),
    ("model._target_=torch.nn.functional.conv2d", "model"),
    ("+_target_=nonsense", "_target_ isn't a setting"),
    ("~optim.lr", "optim.lr is missing: give it with optim.lr=..."),
    ("lr=0.1", "lr isn't a setting: did you mean optim.lr?"),
    ("optim.lr='0.1'", "but is the text '0.1'"),
]


@pytest.mark.parametrize(("override", "sentence"), REFUSALS, ids=[entry[0] for entry in REFUSALS])
def test_a_wrong_request_gets_one_sentence_and_leaves_nothing(
    command: Command, tmp_path: Path, override: str, sentence: str
) -> None:
    # With "data.root" elsewhere, the sentence must come before any data are looked for.
    base = [] if override.startswith(("data.root", "model=")) else ["data=digits"]
    done = command(*base, override)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.lrr=0.1,0.2", "optim.lrr isn't a setting: did you mean optim.lr?"),
        ("model=resnet8v2,resnet99", "there is no model=resnet99"),
        ("hydra.sweep.dir=x/${nope}", "nope"),
        ("hydra.sweep.dir=/dev/null/x", "/dev/null/x/0 can't be the directory of a job"),
    ],
)
def test_a_wrong_sweep_is_refused_and_leaves_nothing(
    command: Command, tmp_path: Path, override: str, sentence: str
) -> None:
    done = command("--multirun", "data=digits", override)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_hydras_own_values_can_be_used(command: Command, tmp_path: Path) -> None:
    done = command(
        "model=resnet8v2", "data.root=${hydra:runtime.cwd}/data", "hydra.run.dir=run",
    )  # fmt: skip
    assert done.returncode == 2
    assert f"data.root={tmp_path}/data holds neither" in done.stderr


def test_without_data_and_network_it_says_what_to_put_where(
    command: Command, tmp_path: Path
) -> None:
    nowhere = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    done = command("model=resnet8v2", RESNET_SWEEP_DATA=str(tmp_path / "data"), **nowhere)
    assert done.returncode == 2
    assert "couldn't be had" in done.stderr
    assert str(tmp_path / "data") in done.stderr
    assert "experiment=quickstart" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [["--cfg", "job"], ["--help"], ["--info"], ["--cfg", "all"]])
def test_to_look_at_the_config_nothing_heavy_is_imported(
    tmp_path: Path, arguments: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "resnet_sweep", *arguments],
        cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "sklearn", "matplotlib", "tensorboard", "optuna"}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("model=", {"model=resnet44v2", "model=resnet8v2", "model=resnet20v2"}),
        ("optim.we", {"optim.weight_decay="}),
        ("experiment=q", {"experiment=quickstart"}),
    ],
)
def test_tab_completion(tmp_path: Path, typed: str, offered: set[str]) -> None:
    script = Path(sys.executable).with_name("resnet-sweep")
    line = f"resnet-sweep {typed}"
    done = subprocess.run(
        [script, "-sc", "query=bash"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=clean_environment() | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
    )  # fmt: skip
    assert offered <= set(done.stdout.split())


class TestStopping:
    """A run that is stopped, however, ends as the run that never was."""

    @pytest.fixture(scope="class")
    @classmethod
    def undisturbed(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        folder = tmp_path_factory.mktemp("undisturbed")
        done = processes.run(folder, *SMALL)
        assert done.returncode == 0, done.stderr
        return only_run(folder)

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

    @pytest.mark.parametrize(
        ("number", "status", "seed"),
        [
            (signal.SIGTERM, 75, 0),
            (signal.SIGTERM, 75, 1),
            (signal.SIGTERM, 75, 2),
            (signal.SIGINT, 130, 3),
            (signal.SIGKILL, -9, 4),
            (signal.SIGKILL, -9, 5),
            (signal.SIGKILL, -9, 6),
        ],
    )
    def test_it_goes_on_to_the_same_bits(
        self, tmp_path: Path, undisturbed: Path, number: int, status: int, seed: int
    ) -> None:
        chance = random.Random(seed)
        process = self.start(tmp_path)
        epoch = chance.randint(0, 5)
        self.wait_for(process, f"epoch {epoch}/8" if epoch else "Run directory:")
        time.sleep(chance.uniform(0, 0.2))
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == status, output
        directory = only_run(tmp_path)
        if number == signal.SIGKILL:
            assert record(directory)["state"] == "running"
            words = [*SMALL, f"hydra.run.dir={directory}"]
        else:
            assert record(directory)["state"] == "interrupted"
            assert record(directory)["lease"] is None
            told = output.splitlines()[-1].strip()
            assert told.startswith("python -m resnet_sweep ")
            words = shlex.split(told)[3:]
        done = processes.run(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert only_run(tmp_path) == directory
        assert record(directory)["state"] == "finished"
        assert_same_results(directory, undisturbed)
        assert not [path for path in directory.rglob(".*-*")]
        # Each step and each picture is there once, as if nothing had happened.
        events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        assert [event.step for event in events.Scalars("step/lr")] == list(range(64))
        for picture in undisturbed.glob("plots/*.png"):
            assert (directory / "plots" / picture.name).read_bytes() == picture.read_bytes()

    def test_the_command_to_go_on_works_as_it_is_printed(self, tmp_path: Path) -> None:
        """With a directory whose name shells and Hydra take apart, and a config of one's own."""
        conf = tmp_path / "my conf" / "optim"
        conf.mkdir(parents=True)
        (conf / "mine.yaml").write_text("_target_: torch.optim.RMSprop\nlr: 0.001\n")
        process = self.start(
            tmp_path, "--config-dir", "my conf", "optim=mine", "trainer.resume=false",
            "hydra.run.dir='a=b, (it\\'s) {mine}'",
        )  # fmt: skip
        self.wait_for(process, "epoch 2/8")
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 75, output
        python, *words = shlex.split(output.splitlines()[-1])
        assert (python, *words[:2]) == ("python", "-m", "resnet_sweep")
        done = processes.run(tmp_path, *words[2:])
        assert done.returncode == 0, done.stderr
        assert not re.search("^epoch 1/8", done.stdout, re.M)
        assert record(tmp_path / "a=b, (it's) {mine}")["state"] == "finished"

    def test_a_reader_that_leaves_does_not_end_the_run(
        self, tmp_path: Path, undisturbed: Path
    ) -> None:
        process = self.start(tmp_path)
        self.wait_for(process, "epoch 2/8")
        process.stdout.close()
        assert process.wait(timeout=120) == 0
        assert_same_results(only_run(tmp_path), undisturbed)

    def test_a_second_process_in_its_directory_is_refused(self, tmp_path: Path) -> None:
        process = self.start(tmp_path, "hydra.run.dir=here", "trainer.epochs=50")
        try:
            self.wait_for(process, "Run directory:")
            hydra = snapshot(tmp_path / "here" / ".hydra")
            second = self.start(tmp_path, "hydra.run.dir=here", "trainer.epochs=50")
            output, _ = second.communicate(timeout=120)
            assert second.returncode == 2
            assert f"is in use by process {process.pid}" in output
            assert snapshot(tmp_path / "here" / ".hydra") == hydra
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()

    def test_runs_of_the_same_second_get_directories_of_their_own(self, tmp_path: Path) -> None:
        # A year is long enough for all of them to ask for the same name.
        arguments = ("trainer.max_steps=1", "hydra.run.dir=outputs/${now:%Y}")
        processes = [self.start(tmp_path, *arguments) for _ in range(3)]
        assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]
        names = sorted(path.parent.name for path in tmp_path.glob("outputs/*/run.json"))
        assert [name[4:] for name in names] == ["", "-2", "-3"]
        for name in names:
            assert record(tmp_path / "outputs" / name)["state"] == "finished"

    def test_sweeps_of_the_same_second_get_directories_of_their_own(self, tmp_path: Path) -> None:
        for _ in range(2):
            process = self.start(
                tmp_path, "--multirun", "trainer.max_steps=1", "seed=0,1",
                "hydra.sweep.dir=multirun/${now:%Y}",
            )  # fmt: skip
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output
        jobs = sorted(path.parent for path in tmp_path.glob("multirun/*/*/run.json"))
        assert [(job.parent.name[4:], job.name) for job in jobs] == [
            ("", "0"), ("", "1"), ("-2", "0"), ("-2", "1")
        ]  # fmt: skip
        assert all((job / ".hydra" / "overrides.yaml").exists() for job in jobs)

    def test_a_directory_may_be_named_from_above(self, tmp_path: Path) -> None:
        (tmp_path / "below").mkdir()
        process = self.start(tmp_path / "below", "trainer.max_steps=1", "hydra.run.dir=../above")
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output
        assert record(tmp_path / "above")["state"] == "finished"

    def test_starting_over_is_an_option(self, tmp_path: Path, undisturbed: Path) -> None:
        for _ in range(2):
            process = self.start(tmp_path, "hydra.run.dir=here", "trainer.resume=false")
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0
            assert len(re.findall("^epoch", output, re.M)) == 8
        assert_same_results(tmp_path / "here", undisturbed)


def test_a_diverging_run_ends_with_its_reason(command: Command, tmp_path: Path) -> None:
    arguments = (*SMALL, "optim.lr=1e10", "hydra.run.dir=run")
    done = command(*arguments)
    assert done.returncode == 1
    content = record(tmp_path / "run")
    assert content["state"] == "diverged"
    assert re.search(r"epoch 1, step \d+ of 8, at learning rate .* norm", content["reason"])
    assert content["reason"] in done.stdout
    again = command(*arguments)
    assert again.returncode == 1
    assert "nothing to train" in again.stdout


def test_a_failing_run_says_so_and_goes_on_when_mended(command: Command, tmp_path: Path) -> None:
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
    arguments = (*SMALL, "+augmentation.odd={_target_: mine.Odd}", "hydra.run.dir=run")
    done = command(*arguments, RESNET_SWEEP_TRUST="mine")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "No space left on device" in done.stdout
    assert "No space left on device" in record(tmp_path / "run")["reason"]
    assert record(tmp_path / "run")["state"] == "failed"
    assert "Traceback" in (tmp_path / "run" / "train.log").read_text()
    code.write_text(broken.replace('raise OSError(28, "No space left on device")',
                                   "return images, labels"))  # fmt: skip
    done = command(*arguments, RESNET_SWEEP_TRUST="mine")
    assert done.returncode == 0, done.stdout
    assert record(tmp_path / "run")["state"] == "finished"


def test_a_sweep_of_hydras_grammar_runs_each_combination(command: Command, tmp_path: Path) -> None:
    done = command("--multirun", *SMALL, "trainer.epochs=1", "optim.lr=0.1,1e10", "seed=0,1")
    assert done.returncode == 1, done.stderr
    jobs = {
        path.parent.name: record(path.parent) for path in tmp_path.glob("multirun/*/*/*/run.json")
    }
    assert {name: (job["config"]["optim"]["lr"], job["seed"]) for name, job in jobs.items()} == {
        "0": (0.1, 0), "1": (0.1, 1), "2": (1e10, 0), "3": (1e10, 1)
    }  # fmt: skip
    assert [jobs[name]["state"] for name in "0123"] == ["finished"] * 2 + ["diverged"] * 2


class TestCIFAR100:
    """On the real images."""

    def test_the_main_job(self, command: Command, tmp_path: Path, cifar100_root: Path) -> None:
        done = command(
            "model=resnet44v2", "optim=sgd", "trainer.max_steps=2", "data.limit_test=500",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        content = record(only_run(tmp_path))
        assert content["parameters"] == 5_940_356
        assert content["state"] == "finished"
        assert "100 epochs of 391 steps of 128 images, cut off after 2 steps" in done.stdout
        assert "50,000 images to train on, 500 to validate on" in done.stdout

    def test_64_images_are_learned_by_heart(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        done = command(
            "debug=overfit", "model=resnet20v2", "trainer.precision=float32",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert max(row["train_acc"] for row in read_metrics(only_run(tmp_path))) == 100

    def test_two_steps_through_everything(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        done = command("debug=fast", RESNET_SWEEP_DATA=str(cifar100_root))
        assert done.returncode == 0, done.stdout + done.stderr
        assert record(only_run(tmp_path))["state"] == "finished"

    def test_a_small_network_learns_on_a_holdout_and_keeps_the_test_set(
        self, command: Command, tmp_path: Path, cifar100_root: Path
    ) -> None:
        done = command(
            "model=resnet8v2", "trainer.epochs=3", "data.limit_train=10000", "data.holdout=2000",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "10,000 images to train on, 2,000 held-out to validate on" in done.stdout
        # Chance is 1%, with a standard deviation of 0.2 over 2,000 images.
        assert record(only_run(tmp_path))["best"]["val_acc"] > 5
        tested = command(
            only_run(tmp_path), module="resnet_sweep.evaluate",
            RESNET_SWEEP_DATA=str(cifar100_root),
        )  # fmt: skip
        assert "Test set:        10,000 images" in tested.stdout
        assert float(re.search(r"Top-1 accuracy: +([\d.]+)%", tested.stdout)[1]) > 5


def test_the_progress_bar_is_for_terminals(tmp_path: Path) -> None:
    """On a pseudo-terminal there is a bar; it leaves the same lines behind."""
    master, slave = os.openpty()
    process = processes.start(
        tmp_path, *SMALL, stdin=slave, stdout=slave, stderr=slave,
        environment={"TERM": "xterm", "COLUMNS": "120"},
    )  # fmt: skip
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
    assert "images/s" in text
    assert "left" in text
    assert "\x1b[" in text
    assert len(re.findall(r"epoch \d/8  train acc .{5}% +val acc", text)) == 8
