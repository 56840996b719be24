"""The MLflow logger."""

import logging
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from resnet_sweep.errors import one_line
from resnet_sweep.runs.files import write_atomically
from resnet_sweep.runs.metrics import LayerNorms, Row, best_row, read_metrics
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import now
from resnet_sweep.runs.signature import flatten, format_setting
from resnet_sweep.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from mlflow.entities import Run as MLflowRun

# File in the run directory that contains the run's MLflow id.
RUN_ID = "mlflow_run_id"
# MLflow's status for a state. It is "FINISHED" for all other states. The tag "state" has the state.
STATUSES = {"interrupted": "KILLED", "diverged": "FAILED", "failed": "FAILED"}
# Defaults of MLflow's environment variables. MLflow would wait minutes for a server that doesn't
# answer, and block training. What such a server misses is sent after the next epoch.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# The most parameters that MLflow accepts in one request.
PARAMETERS_PER_REQUEST = 100

log = logging.getLogger(__name__)

# MLflow logs that it creates the tables of a new store.
logging.getLogger("mlflow.store.db").setLevel(logging.WARNING)


class MLflow(Callback):
    """Logs a run's settings, the metrics of each epoch, and its files to an MLflow store.

    A resumed run is logged to the same MLflow run. An unreachable store doesn't end training; what
    it misses is sent after the next epoch.

    Args:
        folder: folder of the default store, `mlflow.db`.
        tracking_uri: URI of the store, for example `http://HOST:PORT` or `sqlite:///FILE`; None
            for $MLFLOW_TRACKING_URI, or `mlflow.db` if that isn't set.
        experiment: MLflow experiment of the run; None for $MLFLOW_EXPERIMENT_NAME, or
            `resnet_sweep` if that isn't set.
        best_model: also log the weights of the best epoch.

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
            # This import takes seconds, and runs without MLflow don't need it.
            from mlflow import MlflowClient

            default = sqlite_uri(folder / "mlflow.db")
        except ModuleNotFoundError as error:
            raise ValueError(
                "this logger needs MLflow, which isn't installed: pip install "
                "'resnet-sweep[mlflow]'"
            ) from error
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default
        self.experiment = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "resnet_sweep"
        self.folder, self.best_model, self.connect = folder, best_model, MlflowClient
        try:
            self.file = sqlite_file(self.tracking_uri)
            if self.file is None:
                self.connect(self.tracking_uri).search_experiments(max_results=1)
            # The file is created when training starts, because nothing may be written before.
            elif not os.access(self.file.parent, os.W_OK):
                raise OSError(f"{self.file.parent} isn't a writable folder")
            else:
                # With hydra.job.chdir, the working directory changes before training.
                self.tracking_uri = with_absolute_path(self.tracking_uri, self.file)
        except Exception as error:
            raise ValueError(
                f"the MLflow store {self.tracking_uri} can't be reached ({one_line(error)}): start "
                "its server, or set tracking_uri to another store"
            ) from error

    def on_train_start(self, directory: Path, step: int) -> None:
        self.directory = directory
        self.rows = read_metrics(directory)
        # The run's MLflow id; None while the store can't be reached.
        self.run_id: str | None = None
        self.unreachable = False
        self._attempt(self._log_epochs)

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.rows.append(dict(row))
        self._attempt(self._log_epochs)

    def on_train_end(self, record: Record) -> None:
        self._attempt(lambda: self._log_end(record))

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
            self.unreachable = False
        # An error of the store must not end training.
        except Exception as error:
            if not self.unreachable:
                log.warning(
                    "warning: the run can't be logged to the MLflow store %s (%s); training "
                    "continues, and logging is retried after each epoch",
                    self.tracking_uri,
                    one_line(error),
                )
            self.unreachable, self.run_id = True, None

    def _log_epochs(self) -> str:
        """Log the epochs that are missing in the store, and return the run's MLflow id."""
        from mlflow.entities import Metric

        run_id = self.run_id = self.run_id or self._open()
        for count, row in enumerate(self.rows, start=1):
            epoch = int(row["epoch"])
            if epoch in self.logged_epochs:
                continue
            values = {name: value for name, value in row.items() if name != "epoch"}
            if best := best_row(self.rows[:count]):
                values["best_val_acc"] = best["val_acc"]
            timestamp = round(1000 * time.time())
            metrics = [Metric(name, value, timestamp, epoch) for name, value in values.items()]
            self.client.log_batch(run_id, metrics=metrics)
            self.logged_epochs.add(epoch)
        return run_id

    def _open(self) -> str:
        """Resume the run in the store, or create one, and return its id."""
        if self.file is not None and not self.file.exists():
            self._make_store(self.file)
        self.client = self.connect(self.tracking_uri)
        record = Record.read(self.directory)
        run = self._find_run()
        if run is None:
            run = self._create_run(record)
            # The id is written before anything is logged, so that logging can continue in the same
            # MLflow run if the connection is lost.
            write_atomically(self.directory / RUN_ID, run.info.run_id.encode())
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        run_id: str = run.info.run_id
        self._log_parameters(run_id, record, run.data.params)
        history = self.client.get_metric_history(run_id, "val_acc")
        self.logged_epochs = {metric.step for metric in history}
        return run_id

    def _make_store(self, file: Path) -> None:
        """Create the file of an SQLite store.

        It is created under a temporary name, because two processes that create the same file at
        once would corrupt it.
        """
        with TemporaryDirectory(dir=file.parent, prefix=".mlflow-") as folder:
            made = Path(folder) / file.name
            self.connect(sqlite_uri(made))
            with suppress(FileExistsError):
                os.link(made, file)

    def _find_run(self) -> "MLflowRun | None":
        """Return the MLflow run of this run; None if it doesn't exist or was deleted."""
        try:
            run = self.client.get_run((self.directory / RUN_ID).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except Exception as error:
            # The id may belong to a run in another store.
            if getattr(error, "error_code", None) != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _create_run(self, record: Record) -> "MLflowRun":
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

    def _experiment_id(self) -> str:
        # Artifacts of an SQLite store are kept next to its file; a server chooses their location.
        location = None if self.file is None else (self.file.parent / "mlruns").as_uri()
        try:
            return self.client.create_experiment(self.experiment, artifact_location=location)
        except Exception as error:
            experiment = self.client.get_experiment_by_name(self.experiment)
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS" or not experiment:
                raise
            return str(experiment.experiment_id)

    def _log_parameters(self, run_id: str, record: Record, logged: Collection[str]) -> None:
        """Log the settings that are missing in the store; MLflow can't change logged ones."""
        from mlflow.entities import Param

        settings = {**dict(flatten(record.config)), **record.choices}
        settings["overrides"] = " ".join(record.overrides)
        missing = [
            Param(key, format_setting(value))
            for key, value in settings.items()
            if key not in logged
        ]
        for first in range(0, len(missing), PARAMETERS_PER_REQUEST):
            self.client.log_batch(run_id, params=missing[first : first + PARAMETERS_PER_REQUEST])

    def _log_end(self, record: Record) -> None:
        run_id = self._log_epochs()
        for name in ("state", "reason"):
            self.client.set_tag(run_id, name, getattr(record, name))
        self.client.set_terminated(run_id, STATUSES.get(record.state, "FINISHED"))
        with TemporaryDirectory() as folder:
            # The final run.json isn't in the run directory yet: it is written after all callbacks.
            replace(record, ended=now(), heartbeat=None).write(Path(folder))
            self.client.log_artifacts(run_id, folder)
        files = ["metrics.csv", "layer_norms.csv"]
        if self.best_model:
            files.append("checkpoints/best_model.pth")
        for path in (self.directory / name for name in files):
            if path.exists():
                self.client.log_artifact(run_id, str(path))
        plots = self.directory / "plots"
        if plots.exists():
            self.client.log_artifacts(run_id, str(plots), plots.name)


def sqlite_uri(file: Path) -> str:
    """Return MLflow's URI of the SQLite store in a file."""
    from sqlalchemy.engine import URL

    # SQLAlchemy quotes the file's name, and MLflow unquotes it only if the URI names a driver.
    return str(URL.create("sqlite+pysqlite", database=str(file)))


def sqlite_file(tracking_uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other kinds of stores."""
    if not tracking_uri.startswith(("sqlite:", "sqlite+")):
        return None
    from sqlalchemy.engine import make_url

    database = make_url(tracking_uri).database
    return Path(os.path.abspath(database)) if database else None


def with_absolute_path(tracking_uri: str, file: Path) -> str:
    """Return the URI of an SQLite store with its file's path made absolute."""
    from sqlalchemy.engine import make_url

    url = make_url(tracking_uri)
    return tracking_uri if url.database == str(file) else str(url.set(database=str(file)))
