"""The TensorBoard and MLflow loggers, tested by what TensorBoard and MLflow read."""

import importlib.util
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import processes
import pytest
from conftest import Command, Once
from processes import assert_refused
from small_run import config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.plan import plan_run
from resnet_sweep.config.restore import restore
from resnet_sweep.errors import ConfigError
from resnet_sweep.jobs import add_environment, train
from resnet_sweep.runs.metrics import best_row, read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run, reset_run
from resnet_sweep.training.signals import Interrupted, StopSignal

TENSORBOARD = {"tensorboard": {"_target_": "resnet_sweep.training.callbacks.TensorBoard"}}
SMALL = (
    "experiment=quickstart",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.threads=1",
    "data.limit_train=100",
    "data.limit_test=50",
)


class StopAfter(StopSignal):
    """Request a stop when the trainer has checked the signal `checks` times."""

    def __init__(self, checks: int) -> None:
        super().__init__()
        self.checks = checks

    @property
    def received(self) -> int | None:
        self.checks -= 1
        return 15 if self.checks <= 0 else None

    @received.setter
    def received(self, number: int | None) -> None:
        assert number is None


def run(settings: dict, directory: Path, stop: StopSignal | None = None) -> Record:
    """Train a run as the command does, and return its record."""
    planned = plan_run(settings)
    try:
        composed = ComposedConfig(settings, {"optim": "sgd"}, ["data=digits"], [])
        record = add_environment(planned.record(composed), planned)
        if not planned.settings.resume:
            reset_run(directory, record)
        train(planned, Run.open(directory, record), stop or StopSignal())
    except Interrupted:
        assert stop is not None
    return Record.read(directory)


def request_json(url: str, body: dict | None = None) -> Any:
    """Return the JSON response of an HTTP server, to a POST request if there is a body."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_tensorboard_has_each_step_of_a_resumed_run_once(tmp_path: Path) -> None:
    """The run is stopped in its second epoch of 7 steps, and again in its third."""
    settings = config(logger=TENSORBOARD, optim__lr=0.2, trainer__threads=1)
    for checks in (12, 6):
        assert run(settings, tmp_path / "run", StopAfter(checks)).state == "interrupted"
    record = run(settings, tmp_path / "run")
    assert record.state == "finished"
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("step/lr")] == list(range(21))
    rows = read_metrics(tmp_path / "run")
    best = [best_row(rows[:count])["val_acc"] for count in (1, 2, 3)]
    assert [event.step for event in events.Scalars("best/val_acc")] == [6, 13, 20]
    assert [event.value for event in events.Scalars("best/val_acc")] == pytest.approx(best)
    layers = [tag for tag in events.Tags()["scalars"] if tag.startswith("layer_")]
    assert layers
    for tag in layers:
        assert [event.step for event in events.Scalars(tag)] == [6, 13, 20]
    content = events.PluginTagToContent("hparams")
    assert {*content} == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    start = HParamsPluginData.FromString(content["_hparams_/session_start_info"])
    settings = start.session_start_info.hparams
    assert settings["optim"].string_value == record.choices["optim"] == "sgd"
    assert settings["optim.lr"].number_value == 0.2
    assert settings["model.widths"].string_value == "[4, 8]"


@pytest.mark.slow
class TestTensorBoard:
    @pytest.fixture
    def sweep(self, once: Once) -> Path:
        """Return a sweep with two optimizers, with and without gradient clipping."""

        def make(folder: Path) -> None:
            result = processes.run(
                folder,
                "--multirun",
                *SMALL,
                "optim=sgd,adamw",
                "trainer.clip_grad_norm=null,1",
                "hydra.sweep.dir=sweep",
            )
            assert result.returncode == 0, result.stderr

        return once("tensorboard", make) / "sweep"

    @pytest.fixture
    def url(self, sweep: Path) -> Iterator[str]:
        """Run TensorBoard with the sweep, and yield its URL."""
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tensorboard.main",
                "--logdir",
                str(sweep),
                "--host",
                "127.0.0.1",
                "--port",
                "0",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise AssertionError("TensorBoard ended without printing its URL")
            for _ in range(240):
                if len(request_json(f"{found[0]}/data/runs")) == 4:
                    break
                time.sleep(0.25)
            yield found[0]
        finally:
            server.kill()
            server.wait()

    def test_the_names_of_the_runs_have_the_numbers_of_the_jobs(self, url: str) -> None:
        names = [f"{job}/tensorboard" for job in range(4)]
        assert request_json(f"{url}/data/runs") == names
        tags = request_json(f"{url}/data/plugin/scalars/tags")
        assert {*tags} == {*names}
        assert all(
            {"step/lr", "epoch/val_acc", "best/val_acc"} <= tags[name].keys() for name in tags
        )

    def test_settings_that_differ_come_first(self, url: str) -> None:
        experiment = request_json(f"{url}/data/plugin/hparams/experiment", {"experimentName": ""})
        names = [info["name"] for info in experiment["hparamInfos"]]
        differing = [info["name"] for info in experiment["hparamInfos"] if info["differs"]]
        assert names[: len(differing)] == differing
        assert {"optim", "optim.lr"} <= {*differing}
        # Settings of only one optimizer are included.
        assert {"optim.momentum", "optim.betas", "seed", "model", "precision"} <= {*names}
        assert not {"trainer.device", "trainer.threads", "logger", "optim._target_"} & {*names}
        metrics = [info["name"]["tag"] for info in experiment["metricInfos"]]
        # TensorBoard's page shows only the first five metrics.
        assert metrics[:3] == ["best/epoch", "best/val_acc", "best/val_loss"]

    def test_a_setting_that_is_null_in_some_runs_is_a_number(self, url: str) -> None:
        experiment = request_json(f"{url}/data/plugin/hparams/experiment", {"experimentName": ""})
        types = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
        assert types["trainer.clip_grad_norm"] == "DATA_TYPE_FLOAT64"

    def test_each_run_has_its_settings_and_metrics(self, url: str, sweep: Path) -> None:
        groups = request_json(
            f"{url}/data/plugin/hparams/session_groups",
            {
                "experimentName": "",
                "allowedStatuses": ["STATUS_SUCCESS"],
                "colParams": [],
                "startIndex": 0,
                "sliceSize": 10,
            },
        )["sessionGroups"]
        assert len(groups) == 4
        for group in groups:
            record = Record.read(sweep / group["name"].split("/")[0])
            settings = group["hparams"]
            assert settings["optim.lr"] == record.config["optim"]["lr"]
            assert settings["optim"] == record.choices["optim"]
            # A setting that is null is missing.
            limit = record.config["trainer"]["clip_grad_norm"]
            assert settings.get("trainer.clip_grad_norm") == limit
            assert settings["model.widths"] == "[16, 32, 64]"
            assert settings["trainer.drop_last"] == "false"
            values = {metric["name"]["tag"]: metric["value"] for metric in group["metricValues"]}
            for name, value in record.best.items():
                assert values[f"best/{name}"] == pytest.approx(value, rel=1e-6)
            for name in ("train_acc", "train_loss", "val_acc", "val_loss"):
                assert values[f"epoch/{name}"] == pytest.approx(record.final[name], rel=1e-6)


def mlflow(**settings: object) -> dict:
    """Return the config of a run of three epochs that is logged to MLflow."""
    node = {"_target_": "resnet_sweep.training.callbacks.MLflow"} | settings
    return config(logger={"mlflow": node}, trainer__threads=1)


def store(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs(tracking_uri: str, experiment: str = "resnet_sweep") -> list[Any]:
    """Return all runs of an experiment, with the client that can read more about them."""
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri)
    number = client.get_experiment_by_name(experiment).experiment_id
    return [(client, mlflow_run) for mlflow_run in client.search_runs([number])]


def assert_has_metrics(client: Any, run_id: str, directory: Path) -> None:
    """Assert that MLflow has the metrics of each epoch once."""
    rows = read_metrics(directory)
    for name in ("train_loss", "train_acc", "val_loss", "val_acc", "lr", "grad_norm"):
        history = sorted(client.get_metric_history(run_id, name), key=lambda metric: metric.step)
        assert [metric.step for metric in history] == [row["epoch"] for row in rows]
        assert [metric.value for metric in history] == [row[name] for row in rows]
    best = sorted(client.get_metric_history(run_id, "best_val_acc"), key=lambda metric: metric.step)
    assert best[-1].value == best_row(rows)["val_acc"]


class TestMLflow:
    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow", reason="MLflow isn't installed: pip install mlflow-skinny")
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def empty(self, once: Once) -> Path:
        """Return a store without runs. Making one takes seconds."""

        def make(folder: Path) -> None:
            pytest.importorskip("mlflow").MlflowClient(store(folder))

        return once("mlflow", make) / "mlflow.db"

    @pytest.fixture
    def tracking_uri(self, empty: Path, tmp_path: Path) -> str:
        shutil.copy(empty, tmp_path)
        return store(tmp_path)

    def test_a_run_is_logged_to_the_store_in_the_current_folder(
        self, command: Command, tmp_path: Path
    ) -> None:
        result = command(*SMALL, "logger=[tensorboard,mlflow]", "hydra.run.dir=outputs/one")
        assert result.returncode == 0, result.stderr
        assert "tables" not in result.stderr
        ((client, mlflow_run),) = runs(store(tmp_path))
        record = Record.read(tmp_path / "outputs" / "one")
        assert mlflow_run.info.status == "FINISHED"
        assert mlflow_run.info.run_name == "outputs/one"
        assert mlflow_run.data.tags["state"] == "finished"
        assert mlflow_run.data.tags["signature"] == record.signature
        parameters = mlflow_run.data.params
        assert parameters["optim.lr"] == "0.1"
        assert parameters["model"] == "resnet8v2"
        assert parameters["model.attention"] == "null"
        assert parameters["model.widths"] == "[16, 32, 64]"
        assert parameters["overrides"] == " ".join(record.overrides)
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "outputs" / "one")
        stored = Path(client.download_artifacts(mlflow_run.info.run_id, "", str(tmp_path)))
        assert {path.name for path in stored.iterdir()} >= {"run.json", "metrics.csv", "plots"}
        copy = Record.read(stored)
        assert (copy.state, copy.heartbeat, copy.best) == ("finished", None, record.best)
        assert (tmp_path / "mlruns").is_dir()
        assert list((tmp_path / "outputs" / "one" / "tensorboard").iterdir())

    def test_a_resumed_run_continues_its_run_in_the_store(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        run(settings, tmp_path / "run", StopAfter(12))
        ((client, stopped),) = runs(tracking_uri)
        assert stopped.info.status == "KILLED"
        assert stopped.data.tags["state"] == "interrupted"
        # A run can be resumed with another number of threads.
        run(settings | {"trainer": settings["trainer"] | {"threads": None}}, tmp_path / "run")
        ((client, mlflow_run),) = runs(tracking_uri)
        assert mlflow_run.info.run_id == stopped.info.run_id
        assert mlflow_run.info.status == "FINISHED"
        assert mlflow_run.data.tags["state"] == "finished"
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "run")
        assert len(read_metrics(tmp_path / "run")) == 3

    def test_a_run_that_is_trained_again_is_a_new_run_in_the_store(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        run(settings, tmp_path / "run", StopAfter(12))
        restarted = settings | {"trainer": settings["trainer"] | {"resume": False}}
        run(restarted, tmp_path / "run")
        assert sorted(mlflow_run.info.status for _, mlflow_run in runs(tracking_uri)) == [
            "FINISHED",
            "KILLED",
        ]

    def test_settings_that_were_not_stored_because_of_an_error_are_stored_later(
        self, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Settings are sent in batches, and the second batch fails once."""
        from mlflow import MlflowClient

        monkeypatch.setattr("resnet_sweep.training.callbacks.mlflow.PARAMETERS_PER_REQUEST", 5)
        original = MlflowClient.log_batch
        calls = []

        def log_batch(*args: Any, **kwargs: Any) -> None:
            calls.append(kwargs)
            if len(calls) == 2:
                raise ConnectionError("lost")
            original(*args, **kwargs)

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        record = run(mlflow(tracking_uri=tracking_uri), tmp_path / "run")
        ((client, mlflow_run),) = runs(tracking_uri)
        assert mlflow_run.info.status == "FINISHED"
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "run")
        for group in ("model", "data", "optim", "schedule", "loss", "trainer"):
            for name, value in record.config[group].items():
                if isinstance(value, (int, str)):
                    stored = mlflow_run.data.params[f"{group}.{name}"]
                    assert stored == (value if isinstance(value, str) else json.dumps(value))
        assert mlflow_run.data.params["overrides"] == "data=digits"

    # In a URI, these names would contain a fragment, a query and an escape sequence.
    @pytest.mark.parametrize(
        "name", [pytest.param("lr#1", marks=pytest.mark.slow), "50%41 or more? k=v"]
    )
    def test_the_folder_may_have_any_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        settings = mlflow()
        settings["trainer"] |= {"epochs": 1}
        run(settings, folder / "run")
        assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlruns", "run"}
        assert list(tmp_path.iterdir()) == [folder]
        with closing(sqlite3.connect(folder / "mlflow.db")) as database:
            ((stored_name, status, artifact_uri),) = database.execute(
                "SELECT name, status, artifact_uri FROM runs"
            ).fetchall()
        assert (stored_name, status) == ("run", "FINISHED")
        assert (Path(unquote(urlsplit(artifact_uri).path)) / "run.json").exists()

    def test_a_relative_store_is_in_the_folder_of_the_command_with_chdir(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        planned = plan_run(mlflow(tracking_uri="sqlite:///mlflow.db"))
        record = planned.record(ComposedConfig(dict(planned.config), {}, [], []))
        train(planned, Run.open(tmp_path / "run", record), StopSignal(), chdir=True)
        ((client, mlflow_run),) = runs(tracking_uri)
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "run")
        assert not list((tmp_path / "run").glob("*.db"))

    def test_a_run_that_is_resumed_with_another_store_logs_all_epochs_there(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        (tmp_path / "other").mkdir()
        shutil.copy(tmp_path / "mlflow.db", tmp_path / "other")
        run(mlflow(tracking_uri=tracking_uri), tmp_path / "run", StopAfter(12))
        run(mlflow(tracking_uri=store(tmp_path / "other")), tmp_path / "run")
        ((client, mlflow_run),) = runs(store(tmp_path / "other"))
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "run")

    def test_a_diverged_run_has_the_status_failed_and_its_reason(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        settings["optim"] |= {"lr": 1e9}
        record = run(settings, tmp_path / "run")
        assert record.state == "diverged"
        ((_, mlflow_run),) = runs(tracking_uri)
        assert mlflow_run.info.status == "FAILED"
        assert mlflow_run.data.tags["reason"] == record.reason != ""

    def test_mlflows_environment_variables_set_the_store_and_the_experiment(
        self, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        run(mlflow(best_model=True), tmp_path / "run")
        ((client, mlflow_run),) = runs(tracking_uri, "mine")
        stored = [file.path for file in client.list_artifacts(mlflow_run.info.run_id)]
        assert "best_model.pth" in stored

    def test_planning_a_run_writes_nothing(self, tmp_path: Path) -> None:
        plan_run(mlflow(tracking_uri=store(tmp_path)))
        assert not list(tmp_path.iterdir())

    def test_an_unreachable_store_is_refused_before_anything_is_written(
        self, command: Command, tmp_path: Path
    ) -> None:
        uri = "http://127.0.0.1:9"
        result = command(*SMALL, "logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
        assert_refused(result, "logger.mlflow", uri)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "tracking_uri", ["sqlite:///nowhere/mlflow.db", "sqlite:nowhere", "carrier-pigeon://x"]
    )
    def test_a_wrong_uri_of_a_store_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as refusal:
            plan_run(mlflow(tracking_uri=tracking_uri))
        assert "logger.mlflow" in str(refusal.value)
        assert tracking_uri in str(refusal.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_two_runs_can_make_the_same_store_at_the_same_time(self, tmp_path: Path) -> None:
        arguments = [*SMALL, "trainer.epochs=1", "logger=mlflow"]
        started = [
            processes.start(
                tmp_path,
                *arguments,
                f"hydra.run.dir={name}",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for name in ("one", "other")
        ]
        for process in started:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
            assert "warning" not in output
        names = {mlflow_run.info.run_name for _, mlflow_run in runs(store(tmp_path))}
        assert names == {"one", "other"}
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".mlflow-")]

    def test_evaluating_a_run_does_not_need_its_store(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        (tmp_path / "store").mkdir()
        (tmp_path / "mlflow.db").rename(tmp_path / "store" / "mlflow.db")
        record = run(mlflow(tracking_uri=store(tmp_path / "store")), tmp_path / "run")
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        assert restore(tmp_path / "run").val_acc == record.best["val_acc"]

    def test_a_damaged_store_does_not_stop_the_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "mlflow.db").write_text("This isn't a database.")
        assert run(mlflow(tracking_uri=store(tmp_path)), tmp_path / "run").state == "finished"
        warnings = [message for message in caplog.messages if store(tmp_path) in message]
        assert len(warnings) == 1


def test_without_mlflow_the_logger_is_refused_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'resnet-sweep\[mlflow\]'"):
        plan_run(mlflow())


class Server:
    """An MLflow server, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--workers",
                "1",
                "--backend-store-uri",
                store(self.folder),
                "--artifacts-destination",
                str(self.folder / "files"),
            ],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(480):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.25)
        raise AssertionError(f"MLflow's server at {self.url} doesn't respond")

    def stop(self) -> None:
        if self.process is not None:
            # The signal must reach the server's workers, too.
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


class Outage(StopSignal):
    """Stop a server at one check of the signal, and start it again at a later one."""

    def __init__(self, server: Server, first: int, last: int) -> None:
        super().__init__()
        self.server, self.first, self.last, self.checks = server, first, last, 0

    @property
    def received(self) -> int | None:
        self.checks += 1
        if self.checks == self.first:
            self.server.stop()
        if self.checks == self.last:
            self.server.start()
        return None

    @received.setter
    def received(self, number: int | None) -> None:
        assert number is None


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mlflow", "flask"))),
    reason="MLflow's server isn't installed: pip install mlflow",
)
class TestMLflowServer:
    @pytest.fixture
    def server(self, tmp_path: Path) -> Iterator[Server]:
        folder = tmp_path / "server"
        folder.mkdir()
        server = Server(folder)
        server.start()
        yield server
        server.stop()

    def test_a_server_that_was_unavailable_gets_the_missing_metrics(
        self, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The server is stopped at the end of the first of three epochs of 7 steps."""
        settings = mlflow(tracking_uri=server.url)
        assert run(settings, tmp_path / "run", Outage(server, 3, 12)).state == "finished"
        warnings = [message for message in caplog.messages if server.url in message]
        assert len(warnings) == 1
        ((client, mlflow_run),) = runs(server.url)
        assert mlflow_run.info.status == "FINISHED"
        assert_has_metrics(client, mlflow_run.info.run_id, tmp_path / "run")
        stored = {file.path for file in client.list_artifacts(mlflow_run.info.run_id)}
        assert {"run.json", "metrics.csv", "plots"} <= stored
