"""The training of a planned run in its directory, with the environment of its config."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from conftest import Command
from small_run import config, open_run

from resnet_sweep import jobs
from resnet_sweep.__main__ import main
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.plan import PlannedRun, load_planned_run, plan_run
from resnet_sweep.errors import RunFailed
from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run, write_plan
from resnet_sweep.training.callbacks import Callback, Plots
from resnet_sweep.training.checkpoint import RunCheckpoints
from resnet_sweep.training.signals import StopSignal

TENSORBOARD = "resnet_sweep.training.callbacks.TensorBoard"


class AtEpochEnd(Callback):
    """Call a function at the end of each epoch."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.action()


class AtTrainEnd(Callback):
    """Call a function with the record at the end of training."""

    def __init__(self, action: Callable[[Record], object]) -> None:
        self.action = action

    def on_train_end(self, record: Record) -> None:
        self.action(record)


def fail() -> None:
    raise ValueError("an error")


def open_planned_run(directory: Path) -> tuple[PlannedRun, Run]:
    planned = plan_run(config())
    return planned, open_run(planned, directory)


def test_run_json_has_the_final_state_only_after_the_callbacks(tmp_path: Path) -> None:
    """A callback updates run.json, as a heartbeat does. The state there must still be running."""
    planned, run = open_planned_run(tmp_path / "run")
    states = []

    def record_states(record: Record) -> None:
        run.update(seconds=record.seconds)
        states.extend([record.state, Record.read(run.directory).state])

    jobs.train(planned, run, StopSignal(), [AtTrainEnd(record_states)])
    assert states == ["finished", "running"]
    assert Record.read(run.directory).state == "finished"


@pytest.mark.parametrize("chdir", [False, True])
def test_a_printed_command_is_relative_to_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, chdir: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    planned, run = open_planned_run(tmp_path / "run")
    folders = []
    callbacks = [AtEpochEnd(lambda: folders.append(Path.cwd())), AtEpochEnd(fail)]
    with pytest.raises(RunFailed):
        jobs.train(planned, run, StopSignal(), callbacks, chdir=chdir)
    assert folders == [tmp_path / "run" if chdir else tmp_path]
    assert Path.cwd() == tmp_path
    assert "python -m resnet_sweep hydra.run.dir=run\n" in caplog.text
    assert Record.read(tmp_path / "run").reason == "ValueError: an error"


@pytest.mark.parametrize("moment", ["load", "on_train_start"])
def test_an_interrupt_before_training_starts_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    # The interrupt comes while the checkpoint is loaded, or while a callback starts.
    monkeypatch.setattr(RunCheckpoints if moment == "load" else Plots, moment, interrupt)
    settings = config(logger={"tensorboard": {"_target_": TENSORBOARD}})
    planned = plan_run(settings)
    run = open_run(planned, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        jobs.train(planned, run, StopSignal())
    assert Record.read(tmp_path).state == "interrupted"


@pytest.mark.parametrize("chdir", [False, True])
@pytest.mark.parametrize(
    "remove", [shutil.rmtree, lambda directory: directory.rename(directory.with_name("elsewhere"))]
)
def test_no_resume_command_is_printed_if_the_directory_of_the_run_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    remove: Callable[[Path], object],
    chdir: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    planned, run = open_planned_run(tmp_path / "run")
    callbacks = [AtEpochEnd(lambda: remove(tmp_path / "run"))]
    with pytest.raises(RunFailed):
        jobs.train(planned, run, StopSignal(), callbacks, chdir=chdir)
    (message,) = (record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert re.search(r"\bdirectory run\b.*\bhydra\.run\.dir=", message)
    assert "hydra.run.dir=run" not in message
    assert Path.cwd() == tmp_path
    assert not (tmp_path / "run").exists()


def test_the_environment_of_a_job_is_set_before_its_data_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environments = []

    def load(record: Record) -> PlannedRun:
        environments.append(os.environ.get("RESNET_SWEEP_DATA"))
        return load_planned_run(record)

    monkeypatch.setenv("RESNET_SWEEP_DATA", "before")
    monkeypatch.setattr(jobs, "load_planned_run", load)
    settings = config(trainer__max_steps=1)
    planned = plan_run(settings)
    write_plan(tmp_path, planned.record(ComposedConfig(settings, {}, [], [])))
    job = {"env_set": {"RESNET_SWEEP_DATA": "elsewhere"}}
    write_hydra_folder(tmp_path, settings, {"job": job}, [])
    assert jobs.train_job(tmp_path) == "finished"
    assert environments == ["elsewhere"]
    assert os.environ["RESNET_SWEEP_DATA"] == "before"


def test_the_environment_of_a_single_run_is_set_before_its_data_are_loaded(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    result = call(main, f"+hydra.job.env_set.RESNET_SWEEP_DATA={tmp_path}/elsewhere")
    processes.assert_refused(result, f"{tmp_path}/elsewhere")


def test_a_log_file_that_cannot_be_opened_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone" / "train.log"
    with jobs.logging_to(path):
        for _ in range(3):
            jobs.log.info("message")
    assert capsys.readouterr().err.count(str(path)) == 1
    assert not path.parent.exists()
