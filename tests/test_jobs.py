"""A planned run is trained in its directory, in the environment that its config asks for."""

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


class AtEpoch(Callback):
    """Calls a function at the end of an epoch."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.action()


class AtEnd(Callback):
    """Calls a function at the end of a run, with the record."""

    def __init__(self, action: Callable[[Record], object]) -> None:
        self.action = action

    def on_train_end(self, record: Record) -> None:
        self.action(record)


def fail() -> None:
    raise ValueError("odd")


def opened(directory: Path) -> tuple[PlannedRun, Run]:
    planned = plan_run(config())
    return planned, open_run(planned, directory)


def test_a_run_has_not_ended_on_the_disk_before_its_callbacks_have(tmp_path: Path) -> None:
    """A heartbeat comes meanwhile, and writes the record."""
    planned, run = opened(tmp_path / "run")
    states = []

    def look(record: Record) -> None:
        run.update(seconds=record.seconds)
        states.extend([record.state, Record.read(run.directory).state])

    jobs.train(planned, run, StopSignal(), [AtEnd(look)])
    assert states == ["finished", "running"]
    assert Record.read(run.directory).state == "finished"


@pytest.mark.parametrize("chdir", [False, True])
def test_a_command_is_to_be_given_where_this_one_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, chdir: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    planned, run = opened(tmp_path / "run")
    folders = []
    callbacks = [AtEpoch(lambda: folders.append(Path.cwd())), AtEpoch(fail)]
    with pytest.raises(RunFailed):
        jobs.train(planned, run, StopSignal(), callbacks, chdir=chdir)
    assert folders == [tmp_path / "run" if chdir else tmp_path]
    assert Path.cwd() == tmp_path
    assert "python -m resnet_sweep hydra.run.dir=run\n" in caplog.text
    assert Record.read(tmp_path / "run").reason == "ValueError: odd"


@pytest.mark.parametrize("late", ["load", "on_train_start"])
def test_an_interrupt_before_training_starts_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    # While the checkpoint is loaded, or while a callback starts.
    monkeypatch.setattr(RunCheckpoints if late == "load" else Plots, late, interrupt)
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
def test_a_run_whose_directory_is_gone_is_not_to_be_resumed_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    remove: Callable[[Path], object],
    chdir: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    planned, run = opened(tmp_path / "run")
    callbacks = [AtEpoch(lambda: remove(tmp_path / "run"))]
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
    seen = []

    def load(record: Record) -> PlannedRun:
        seen.append(os.environ.get("RESNET_SWEEP_DATA"))
        return load_planned_run(record)

    monkeypatch.setenv("RESNET_SWEEP_DATA", "before")
    monkeypatch.setattr(jobs, "load_planned_run", load)
    settings = config(trainer__max_steps=1)
    planned = plan_run(settings)
    write_plan(tmp_path, planned.record(ComposedConfig(settings, {}, [], [])))
    job = {"env_set": {"RESNET_SWEEP_DATA": "elsewhere"}}
    write_hydra_folder(tmp_path, settings, {"job": job}, [])
    assert jobs.train_job(tmp_path) == "finished"
    assert seen == ["elsewhere"]
    assert os.environ["RESNET_SWEEP_DATA"] == "before"


def test_the_environment_of_a_single_run_is_set_before_its_data_are_loaded(
    call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    done = call(main, f"+hydra.job.env_set.RESNET_SWEEP_DATA={tmp_path}/elsewhere")
    processes.assert_refused(done, f"{tmp_path}/elsewhere")


def test_a_log_file_that_cannot_be_opened_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gone" / "train.log"
    with jobs.logging_to(path):
        for _ in range(3):
            jobs.log.info("message")
    assert capsys.readouterr().err.count(str(path)) == 1
    assert not path.parent.exists()
