"""Runs in MLflow."""

import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row, best_row, read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import now
from resnet_sweep.runs.signature import flatten, typed
from resnet_sweep.training.monitor import Monitor

# The file of a run directory that says which run of the store it is.
RUN_ID = "mlflow_run_id"
# What MLflow calls the states of a run; the exact one is in the tag "state".
STATUSES = {
    "finished": "FINISHED",
    "stopped_early": "FINISHED",
    "pruned": "FINISHED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
# Of MLflow's own, unless they are set. By default it waits minutes for a lost server, which a
# training shouldn't: what the server misses it is told after the next epoch. And nobody else is
# to be told of a run.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# MLflow takes no more at once.
PARAMETERS_AT_ONCE = 100

log = logging.getLogger(__name__)


class MLflow(Monitor):
    """Keeps a run's settings, the metrics of each epoch, and its files in an MLflow store.

    A run that goes on does so in the store, too. A store that is lost doesn't end the training,
    and is told what it missed once it is back.

    Args:
        folder: of `mlflow.db`, the store of those who name none.
        tracking_uri: of the store, such as `http://HOST:PORT` or `sqlite:///FILE`; None for
            $MLFLOW_TRACKING_URI, or else `mlflow.db`.
        experiment: that the run belongs to; None for $MLFLOW_EXPERIMENT_NAME, or else
            `resnet_sweep`.
        best_model: whether the weights of the best epoch are kept, too.

    Raises:
        ValueError: MLflow isn't installed, or the store can't be reached.
    """

    def __init__(
        self,
        folder: Path,
        tracking_uri: str | None = None,
        experiment: str | None = None,
        best_model: bool = False,
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            # Imported here because it takes seconds, and isn't needed by those without a store.
            from mlflow import MlflowClient

            self.tracking_uri = (
                tracking_uri
                or os.environ.get("MLFLOW_TRACKING_URI")
                or sqlite_uri(folder / "mlflow.db")
            )
        except ModuleNotFoundError as error:
            raise ValueError(
                "this logger needs MLflow, which isn't installed: pip install "
                "'resnet-sweep[mlflow]'"
            ) from error
        self.folder = folder
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "resnet_sweep"
        self.best_model = best_model
        self.connect: Callable[[str], Any] = MlflowClient
        try:
            self.file = sqlite_file(self.tracking_uri)
            if self.file is None:
                self.connect(self.tracking_uri).search_experiments(max_results=1)
            # A file is made when training begins, since nothing is written before.
            elif not os.access(self.file.parent, os.W_OK):
                raise OSError(f"{self.file.parent} isn't a folder to write into")
        except Exception as error:
            raise ValueError(
                f"the MLflow store {self.tracking_uri} can't be reached ({reason(error)}): start "
                "its server, or name another with tracking_uri"
            ) from error

    def started(self, directory: Path, step: int) -> None:
        self.directory = directory
        self.rows = read_metrics(directory)
        self.run_id: str | None = None
        self.lost = False
        self._attempt(self._catch_up)

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        self.rows.append(row)
        self._attempt(self._catch_up)

    def ended(self, record: Record) -> None:
        self._attempt(lambda: self._end(record))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
            self.lost = False
        # Whatever ails a store, it is no reason to end a training.
        except Exception as error:
            if not self.lost:
                log.warning(
                    "warning: the MLflow store %s can't be told of the run (%s); the training goes "
                    "on, and tries again after each epoch", self.tracking_uri, reason(error),
                )  # fmt: skip
            self.lost, self.run_id = True, None

    def _catch_up(self) -> None:
        """Tell the store of the epochs that it doesn't know."""
        from mlflow.entities import Metric

        if self.run_id is None:
            self._open()
        for count, row in enumerate(self.rows, start=1):
            if row["epoch"] in self.known:
                continue
            values = {name: value for name, value in row.items() if name != "epoch"}
            values["best_val_acc"] = best_row(self.rows[:count])["val_acc"]
            moment = round(1000 * time.time())
            metrics = [Metric(name, value, moment, row["epoch"]) for name, value in values.items()]
            self.client.log_batch(self.run_id, metrics=metrics)
            self.known.add(row["epoch"])

    def _open(self) -> None:
        """Go on with the run in the store, or begin one."""
        from mlflow.exceptions import MlflowException

        if self.file is not None and not self.file.exists():
            self._make()
        self.client = self.connect(self.tracking_uri)
        path = self.directory / RUN_ID
        try:
            run = self.client.get_run(path.read_text(encoding="utf-8"))
            deleted = run.info.lifecycle_stage != "active"
        except FileNotFoundError:
            deleted = True
        except MlflowException as error:
            # It was another store then.
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            deleted = True
        record = Record.read(self.directory)
        if deleted:
            run = self._begin(record)
            # Before the store is told more: should it be lost meanwhile, this run goes on later.
            write_atomically(path, run.info.run_id.encode())
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        run_id = run.info.run_id
        self._log_parameters(run_id, record, run.data.params)
        self.known = {entry.step for entry in self.client.get_metric_history(run_id, "val_acc")}
        self.run_id = run_id

    def _make(self) -> None:
        """Make the file of the store.

        Under another name first, since two processes that make it at once would break it.
        """
        with TemporaryDirectory(dir=self.file.parent, prefix=".mlflow-") as folder:
            made = Path(folder) / self.file.name
            self.connect(sqlite_uri(made))
            with suppress(FileExistsError):
                os.link(made, self.file)

    def _begin(self, record: Record) -> Any:
        inside = self.directory.is_relative_to(self.folder)
        name = self.directory.relative_to(self.folder) if inside else self.directory
        tags = {
            "signature": record.signature,
            "directory": str(self.directory),
            "host": record.host,
            "device": record.device,
            "mlflow.source.name": "resnet_sweep",
            "mlflow.source.git.commit": record.git_commit,
        }
        return self.client.create_run(
            self._experiment_id(),
            tags={key: value for key, value in tags.items() if value},
            run_name=name.as_posix(),
        )

    def _log_parameters(self, run_id: str, record: Record, known: Collection[str]) -> None:
        """Tell the store of the settings that it doesn't know; it lets none be changed."""
        from mlflow.entities import Param

        settings = dict(flatten(record.config)) | record.choices
        settings["overrides"] = " ".join(record.overrides)
        missing = [Param(key, typed(value)) for key, value in settings.items() if key not in known]
        for first in range(0, len(missing), PARAMETERS_AT_ONCE):
            chunk = missing[first : first + PARAMETERS_AT_ONCE]
            self.client.log_batch(run_id, params=chunk)

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        if self.client.get_experiment_by_name(self.experiment) is None:
            # Files lie beside a store that is a file; a server knows where it keeps them.
            place = None if self.file is None else (self.file.parent / "mlruns").as_uri()
            try:
                self.client.create_experiment(self.experiment, artifact_location=place)
            except MlflowException as error:
                # Another process was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        return self.client.get_experiment_by_name(self.experiment).experiment_id

    def _end(self, record: Record) -> None:
        self._catch_up()
        for name in ("state", "reason"):
            self.client.set_tag(self.run_id, name, getattr(record, name))
        self.client.set_terminated(self.run_id, STATUSES[record.state])
        with TemporaryDirectory() as folder:
            # The one in the run directory is written when all monitors are done.
            replace(record, ended=now(), lease=None).write(Path(folder))
            self.client.log_artifacts(self.run_id, folder)
        files = ["metrics.csv", "layers.csv"]
        if self.best_model:
            files.append("checkpoints/best_model.pth")
        for path in (self.directory / name for name in files):
            if path.exists():
                self.client.log_artifact(self.run_id, str(path))
        if (self.directory / "plots").exists():
            self.client.log_artifacts(self.run_id, str(self.directory / "plots"), "plots")


def sqlite_uri(file: Path) -> str:
    """What MLflow calls the SQLite store in a file."""
    from sqlalchemy.engine import URL, make_url

    uri = f"sqlite:///{file}"
    if make_url(uri).database == str(file):
        return uri
    # The name has characters that mean something in a URI. With a driver, because MLflow makes
    # the folder of one without, and takes the quoted name for it.
    return str(URL.create("sqlite+pysqlite", database=str(file)))


def sqlite_file(tracking_uri: str) -> Path | None:
    """The file of an SQLite store; None if the store is something else."""
    if not tracking_uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(tracking_uri).database
    return Path(os.path.abspath(database)) if database else None


def reason(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
