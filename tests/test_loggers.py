"""What TensorBoard and MLflow themselves read of runs that were logged there."""

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
    "experiment=quickstart", "trainer.epochs=2", "trainer.device=cpu", "trainer.threads=1",
    "data.limit_train=100", "data.limit_test=50",
)  # fmt: skip


class StopAfter(StopSignal):
    """Stops a training at its n-th look."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    @property
    def received(self) -> int | None:
        self.looks -= 1
        return 15 if self.looks <= 0 else None

    @received.setter
    def received(self, number: int | None) -> None:
        assert number is None


def run(settings: dict, directory: Path, stop: StopSignal | None = None) -> Record:
    """Carry out a run as the command line does, and read its record."""
    prepared = plan_run(settings)
    try:
        composed = ComposedConfig(settings, {"optim": "sgd"}, ["data=digits"], [])
        record = add_environment(prepared.record(composed), prepared)
        if not prepared.settings.resume:
            reset_run(directory, record)
        train(prepared, Run.open(directory, record), stop or StopSignal())
    except Interrupted:
        assert stop is not None
    return Record.read(directory)


def ask(url: str, question: dict | None = None) -> Any:
    """The answer of an HTTP server that speaks JSON."""
    request = urllib.request.Request(
        url,
        data=None if question is None else json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_tensorboard_has_a_resumed_run_once(tmp_path: Path) -> None:
    """The run is stopped in its second epoch of 7 steps, and again in its third."""
    settings = config(logger=TENSORBOARD, optim__lr=0.2, trainer__threads=1)
    for looks in (12, 6):
        assert run(settings, tmp_path / "run", StopAfter(looks)).state == "interrupted"
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
        """Four jobs: two optimizers, each with and without gradient clipping."""

        def make(folder: Path) -> None:
            done = processes.run(
                folder, "--multirun", *SMALL, "optim=sgd,adamw", "trainer.clip_grad_norm=null,1",
                "hydra.sweep.dir=sweep",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr

        return once("tensorboard", make) / "sweep"

    @pytest.fixture
    def url(self, sweep: Path) -> Iterator[str]:
        """TensorBoard itself, at work on the whole sweep."""
        server = subprocess.Popen(
            [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep),
             "--host", "127.0.0.1", "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            for line in server.stdout:
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            else:
                raise AssertionError("TensorBoard ended")
            for _ in range(240):
                if len(ask(f"{found[0]}/data/runs")) == 4:
                    break
                time.sleep(0.25)
            yield found[0]
        finally:
            server.kill()
            server.wait()

    def test_the_runs_have_the_numbers_of_their_jobs(self, url: str) -> None:
        names = [f"{job}/tensorboard" for job in range(4)]
        assert ask(f"{url}/data/runs") == names
        tags = ask(f"{url}/data/plugin/scalars/tags")
        assert {*tags} == {*names}
        assert all(
            {"step/lr", "epoch/val_acc", "best/val_acc"} <= tags[name].keys() for name in tags
        )

    def test_what_differs_comes_first(self, url: str) -> None:
        infos = ask(f"{url}/data/plugin/hparams/experiment", {"experimentName": ""})
        names = [info["name"] for info in infos["hparamInfos"]]
        differing = [info["name"] for info in infos["hparamInfos"] if info["differs"]]
        assert names[: len(differing)] == differing
        assert {"optim", "optim.lr"} <= {*differing}
        # Those of one optimizer alone are there, too.
        assert {"optim.momentum", "optim.betas", "seed", "model", "precision"} <= {*names}
        assert not {"trainer.device", "trainer.threads", "logger", "optim._target_"} & {*names}
        metrics = [info["name"]["tag"] for info in infos["metricInfos"]]
        # The page shows five until asked for more.
        assert metrics[:3] == ["best/epoch", "best/val_acc", "best/val_loss"]

    def test_a_setting_that_some_runs_lack_stays_a_number(self, url: str) -> None:
        infos = ask(f"{url}/data/plugin/hparams/experiment", {"experimentName": ""})
        types = {info["name"]: info["type"] for info in infos["hparamInfos"]}
        assert types["trainer.clip_grad_norm"] == "DATA_TYPE_FLOAT64"

    def test_each_run_has_its_settings_and_figures(self, url: str, sweep: Path) -> None:
        groups = ask(
            f"{url}/data/plugin/hparams/session_groups",
            {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "colParams": [],
             "startIndex": 0, "sliceSize": 10},
        )["sessionGroups"]  # fmt: skip
        assert len(groups) == 4
        for group in groups:
            record = Record.read(sweep / group["name"].split("/")[0])
            settings = group["hparams"]
            assert settings["optim.lr"] == record.config["optim"]["lr"]
            assert settings["optim"] == record.choices["optim"]
            # One that is null isn't there.
            limit = record.config["trainer"]["clip_grad_norm"]
            assert settings.get("trainer.clip_grad_norm") == limit
            assert settings["model.widths"] == "[16, 32, 64]"
            assert settings["trainer.drop_last"] == "false"
            figures = {entry["name"]["tag"]: entry["value"] for entry in group["metricValues"]}
            for name, value in record.best.items():
                assert figures[f"best/{name}"] == pytest.approx(value, rel=1e-6)
            for name in ("train_acc", "train_loss", "val_acc", "val_loss"):
                assert figures[f"epoch/{name}"] == pytest.approx(record.final[name], rel=1e-6)


def mlflow(**settings: object) -> dict:
    """A run of three epochs that is logged to MLflow."""
    node = {"_target_": "resnet_sweep.training.callbacks.MLflow"} | settings
    return config(logger={"mlflow": node}, trainer__threads=1)


def store(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def runs(tracking_uri: str, experiment: str = "resnet_sweep") -> list[Any]:
    """All runs of an experiment, with the client to ask for more."""
    client = pytest.importorskip("mlflow").MlflowClient(tracking_uri)
    number = client.get_experiment_by_name(experiment).experiment_id
    return [(client, entry) for entry in client.search_runs([number])]


def assert_holds_metrics(client: Any, run_id: str, directory: Path) -> None:
    """Each epoch's row is there, once."""
    rows = read_metrics(directory)
    for name in ("train_loss", "train_acc", "val_loss", "val_acc", "lr", "grad_norm"):
        history = sorted(client.get_metric_history(run_id, name), key=lambda entry: entry.step)
        assert [entry.step for entry in history] == [row["epoch"] for row in rows]
        assert [entry.value for entry in history] == [row[name] for row in rows]
    best = sorted(client.get_metric_history(run_id, "best_val_acc"), key=lambda entry: entry.step)
    assert best[-1].value == best_row(rows)["val_acc"]


class TestMLflow:
    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("mlflow", reason="MLflow isn't installed: pip install mlflow-skinny")
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def empty(self, once: Once) -> Path:
        """Return a store without runs, which takes seconds to make."""

        def make(folder: Path) -> None:
            pytest.importorskip("mlflow").MlflowClient(store(folder))

        return once("mlflow", make) / "mlflow.db"

    @pytest.fixture
    def tracking_uri(self, empty: Path, tmp_path: Path) -> str:
        shutil.copy(empty, tmp_path)
        return store(tmp_path)

    def test_a_run_is_in_the_store_of_the_folder(self, command: Command, tmp_path: Path) -> None:
        done = command(*SMALL, "logger=[tensorboard,mlflow]", "hydra.run.dir=outputs/one")
        assert done.returncode == 0, done.stderr
        ((client, entry),) = runs(store(tmp_path))
        record = Record.read(tmp_path / "outputs" / "one")
        assert entry.info.status == "FINISHED"
        assert entry.info.run_name == "outputs/one"
        assert entry.data.tags["state"] == "finished"
        assert entry.data.tags["signature"] == record.signature
        parameters = entry.data.params
        assert parameters["optim.lr"] == "0.1"
        assert parameters["model"] == "resnet8v2"
        assert parameters["model.attention"] == "null"
        assert parameters["model.widths"] == "[16, 32, 64]"
        assert parameters["overrides"] == " ".join(record.overrides)
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "outputs" / "one")
        kept = Path(client.download_artifacts(entry.info.run_id, "", str(tmp_path)))
        assert {path.name for path in kept.iterdir()} >= {"run.json", "metrics.csv", "plots"}
        copy = Record.read(kept)
        assert (copy.state, copy.heartbeat, copy.best) == ("finished", None, record.best)
        assert (tmp_path / "mlruns").is_dir()
        assert list((tmp_path / "outputs" / "one" / "tensorboard").iterdir())

    def test_a_resumed_run_is_the_same_run_of_the_store(
        self, tmp_path: Path, tracking_uri: str
    ) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        run(settings, tmp_path / "run", StopAfter(12))
        ((client, stopped),) = runs(tracking_uri)
        assert stopped.info.status == "KILLED"
        assert stopped.data.tags["state"] == "interrupted"
        # The number of threads may differ when a run is resumed.
        run(settings | {"trainer": settings["trainer"] | {"threads": None}}, tmp_path / "run")
        ((client, entry),) = runs(tracking_uri)
        assert entry.info.run_id == stopped.info.run_id
        assert entry.info.status == "FINISHED"
        assert entry.data.tags["state"] == "finished"
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "run")
        assert len(read_metrics(tmp_path / "run")) == 3

    def test_a_run_that_starts_over_is_another(self, tmp_path: Path, tracking_uri: str) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        run(settings, tmp_path / "run", StopAfter(12))
        over = settings | {"trainer": settings["trainer"] | {"resume": False}}
        run(over, tmp_path / "run")
        assert sorted(entry.info.status for _, entry in runs(tracking_uri)) == [
            "FINISHED",
            "KILLED",
        ]

    def test_a_run_whose_settings_were_cut_off_gets_the_rest(
        self, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The store is lost between the first settings and the next, once."""
        from mlflow import MlflowClient

        monkeypatch.setattr("resnet_sweep.training.callbacks.mlflow.PARAMETERS_PER_REQUEST", 5)
        sent = MlflowClient.log_batch
        calls = []

        def log_batch(*positional: Any, **named: Any) -> None:
            calls.append(named)
            if len(calls) == 2:
                raise ConnectionError("lost")
            sent(*positional, **named)

        monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
        record = run(mlflow(tracking_uri=tracking_uri), tmp_path / "run")
        ((client, entry),) = runs(tracking_uri)
        assert entry.info.status == "FINISHED"
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "run")
        for group in ("model", "data", "optim", "schedule", "loss", "trainer"):
            for name, value in record.config[group].items():
                if isinstance(value, (int, str)):
                    kept = entry.data.params[f"{group}.{name}"]
                    assert kept == (value if isinstance(value, str) else json.dumps(value))
        assert entry.data.params["overrides"] == "data=digits"

    # A fragment, a query, and an escape, were they read as a URI's.
    @pytest.mark.parametrize(
        "name", [pytest.param("lr#1", marks=pytest.mark.slow), "50%41 or more? k=v"]
    )
    def test_a_folder_may_have_any_name(
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
            ((kept, status, place),) = database.execute(
                "SELECT name, status, artifact_uri FROM runs"
            ).fetchall()
        assert (kept, status) == ("run", "FINISHED")
        assert (Path(unquote(urlsplit(place).path)) / "run.json").exists()

    def test_a_relative_store_is_in_the_folder_of_the_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
    ) -> None:
        """With hydra.job.chdir, too."""
        monkeypatch.chdir(tmp_path)
        planned = plan_run(mlflow(tracking_uri="sqlite:///mlflow.db"))
        record = planned.record(ComposedConfig(dict(planned.config), {}, [], []))
        train(planned, Run.open(tmp_path / "run", record), StopSignal(), chdir=True)
        ((client, entry),) = runs(tracking_uri)
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "run")
        assert not list((tmp_path / "run").glob("*.db"))

    def test_another_store_gets_all_epochs(self, tmp_path: Path, tracking_uri: str) -> None:
        (tmp_path / "other").mkdir()
        shutil.copy(tmp_path / "mlflow.db", tmp_path / "other")
        run(mlflow(tracking_uri=tracking_uri), tmp_path / "run", StopAfter(12))
        run(mlflow(tracking_uri=store(tmp_path / "other")), tmp_path / "run")
        ((client, entry),) = runs(store(tmp_path / "other"))
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "run")

    def test_a_run_that_diverges_failed(self, tmp_path: Path, tracking_uri: str) -> None:
        settings = mlflow(tracking_uri=tracking_uri)
        settings["optim"] |= {"lr": 1e9}
        record = run(settings, tmp_path / "run")
        assert record.state == "diverged"
        ((_, entry),) = runs(tracking_uri)
        assert entry.info.status == "FAILED"
        assert entry.data.tags["reason"] == record.reason != ""

    def test_its_variables_name_store_and_experiment(
        self, tmp_path: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
        run(mlflow(best_model=True), tmp_path / "run")
        ((client, entry),) = runs(tracking_uri, "mine")
        kept = [file.path for file in client.list_artifacts(entry.info.run_id)]
        assert "best_model.pth" in kept

    def test_nothing_is_written_before_a_run_is_admitted(self, tmp_path: Path) -> None:
        plan_run(mlflow(tracking_uri=store(tmp_path)))
        assert not list(tmp_path.iterdir())

    def test_a_store_out_of_reach_is_refused_before_anything_is_written(
        self, command: Command, tmp_path: Path
    ) -> None:
        uri = "http://127.0.0.1:9"
        done = command(*SMALL, "logger=mlflow", f"logger.mlflow.tracking_uri={uri}")
        assert_refused(done, "logger.mlflow", uri)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "tracking_uri", ["sqlite:///nowhere/mlflow.db", "sqlite:nowhere", "carrier-pigeon://x"]
    )
    def test_a_name_of_no_store_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracking_uri: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConfigError) as refusal:
            plan_run(mlflow(tracking_uri=tracking_uri))
        assert "logger.mlflow" in str(refusal.value)
        assert tracking_uri in str(refusal.value)
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_two_runs_at_once_begin_a_store(self, tmp_path: Path) -> None:
        words = [*SMALL, "trainer.epochs=1", "logger=mlflow"]
        both = [
            processes.start(
                tmp_path, *words, f"hydra.run.dir={name}", stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for name in ("one", "other")
        ]  # fmt: skip
        for process in both:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
            assert "warning" not in output
        names = {entry.info.run_name for _, entry in runs(store(tmp_path))}
        assert names == {"one", "other"}
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".mlflow-")]

    def test_evaluating_needs_no_store(self, tmp_path: Path, tracking_uri: str) -> None:
        (tmp_path / "store").mkdir()
        (tmp_path / "mlflow.db").rename(tmp_path / "store" / "mlflow.db")
        record = run(mlflow(tracking_uri=store(tmp_path / "store")), tmp_path / "run")
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        assert restore(tmp_path / "run").val_acc == record.best["val_acc"]

    def test_a_store_that_is_lost_does_not_end_the_training(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "mlflow.db").write_text("This isn't a database.")
        assert run(mlflow(tracking_uri=store(tmp_path)), tmp_path / "run").state == "finished"
        warnings = [entry for entry in caplog.messages if store(tmp_path) in entry]
        assert len(warnings) == 1


def test_without_mlflow_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigError, match=r"pip install 'resnet-sweep\[mlflow\]'"):
        plan_run(mlflow())


class Server:
    """An MLflow server, which can be stopped and started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
             "--port", str(self.port), "--workers", "1",
             "--backend-store-uri", store(self.folder),
             "--artifacts-destination", str(self.folder / "files")],
            cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        for _ in range(480):
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.25)
        raise AssertionError("the server doesn't answer")

    def stop(self) -> None:
        if self.process is not None:
            # With its workers.
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


class Outage(StopSignal):
    """A server that is away between two looks at whether to stop."""

    def __init__(self, server: Server, first: int, last: int) -> None:
        super().__init__()
        self.server, self.first, self.last, self.looks = server, first, last, 0

    @property
    def received(self) -> int | None:
        self.looks += 1
        if self.looks == self.first:
            self.server.stop()
        if self.looks == self.last:
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

    def test_a_server_that_comes_back_gets_what_it_missed(
        self, tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Away at the end of the first of three epochs, each with 7 steps and one more look."""
        settings = mlflow(tracking_uri=server.url)
        assert run(settings, tmp_path / "run", Outage(server, 3, 12)).state == "finished"
        warnings = [entry for entry in caplog.messages if server.url in entry]
        assert len(warnings) == 1
        ((client, entry),) = runs(server.url)
        assert entry.info.status == "FINISHED"
        assert_holds_metrics(client, entry.info.run_id, tmp_path / "run")
        kept = {file.path for file in client.list_artifacts(entry.info.run_id)}
        assert {"run.json", "metrics.csv", "plots"} <= kept
