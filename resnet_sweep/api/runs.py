"""Runs in Python: loaded from their directories, filtered, compared, and used to classify images.

Only `Run.load_model`, `Run.predict` and `Run.export` import torch and Hydra.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from resnet_sweep.compare.collection import LOGGED_RUNS, find_runs, read_run, resolve_trained_run
from resnet_sweep.compare.comparison import Comparison, summary_metrics
from resnet_sweep.compare.diff_columns import MISSING, diff_columns
from resnet_sweep.compare.diff_view import diff_html
from resnet_sweep.compare.filter_expression import FilterExpression, check_fields, run_fields
from resnet_sweep.compare.format import format_percent, pluralize, safe_text
from resnet_sweep.compare.group import COMPLETE
from resnet_sweep.compare.html import html_lines, html_table
from resnet_sweep.compare.loaded_run import BrokenRun, LoadedRun, metrics_of
from resnet_sweep.compare.objective import Objective
from resnet_sweep.compare.ranking import Ranking
from resnet_sweep.compare.runs_table import RunsTable
from resnet_sweep.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas

    from resnet_sweep.config.restore import TrainedNetwork

# At most this many runs are displayed in a notebook.
MAX_ROWS = 60
# The columns of a DataFrame before the further metrics and the settings; see `run_fields`.
FRAME_COLUMNS = (
    "run",
    "state",
    "started",
    "best",
    "best.epoch",
    "best.val_loss",
    "final",
    "final.val_loss",
    "final.train_acc",
    "final.train_loss",
    "gap",
    "parameters",
    "seconds",
)


class Run(LoadedRun):
    """A run, as its directory described it when it was loaded.

    Attributes:
        directory: the run directory, as an absolute path.
        name: the directory as it was given, or the name of a logged run.
        record: the content of `run.json`, with an attribute for each key.
    """

    @classmethod
    def of(cls, run: LoadedRun) -> Self:
        """Return a loaded run as an object of this class."""
        # An absolute path, because a notebook may change the current folder.
        return cls(run.directory.absolute(), run.name, run.record)

    def load_model(self) -> "TrainedNetwork":
        """Load the network with the weights of the best epoch, in evaluation mode, on the CPU.

        The network is a torch module. It maps images, (N, C, H, W), with values from 0 to 255, to
        logits, (N, classes), and normalizes the images itself. Its attribute `data` has the names
        of the classes. The data of the run aren't needed.

        Raises:
            ConfigError: the run has no valid checkpoint.
        """
        from resnet_sweep.config.restore import load_network

        return load_network(self._trained_directory)

    def export(self, file: str | Path) -> Path:
        """Write the network with the weights of the best epoch to a file for other programs.

        Its ending chooses the format, see the command `export`. A description in JSON is written
        beside it.

        Returns:
            The path of the file.

        Raises:
            ConfigError: the run has no valid checkpoint, its network can't be exported, or the
                file can't be written.
        """
        from resnet_sweep.config.export import export_network

        return export_network(self._trained_directory, Path(file)).files[0]

    @property
    def _trained_directory(self) -> Path:
        is_logged = self.directory.parent == LOGGED_RUNS
        return resolve_trained_run(self.name if is_logged else self.directory)

    def predict(self, images: "npt.ArrayLike") -> "npt.NDArray[np.float32]":
        """Return the probabilities of the classes for images, with the weights of the best epoch.

        They are computed in float32, on a GPU if there is one.

        Args:
            images: uint8, (N, C, H, W), as in the arrays of a dataset, or (N, H, W, C), as in
                decoded image files.

        Returns:
            Probabilities, (N, classes).

        Raises:
            ConfigError: the images have another type or shape, or the run has no valid checkpoint.
        """
        return self._network.probabilities(images)

    @cached_property
    def _network(self) -> "TrainedNetwork":
        from resnet_sweep.training.device import resolve_device

        return self.load_model().to(resolve_device("auto"))

    def __repr__(self) -> str:
        best = "" if self.best_accuracy is None else f", best {format_percent(self.best_accuracy)}"
        return f"<Run {safe_text(self.name)}: {safe_text(self.state)}{best}>"

    def _repr_html_(self) -> str:
        reason = f" ({safe_text(self.record.reason)})" if self.record.reason else ""
        groups = ("model", "data", "optim", "schedule", "augmentation", "loss")
        rows = [
            ("run", safe_text(self.name)),
            ("state", safe_text(self.state) + reason),
            *((group, safe_text(self.choices[group])) for group in groups if group in self.choices),
            ("seed", safe_text(self.seed)),
        ]
        for metric in summary_metrics([self]):
            value = metric.get(self)
            if value is not None:
                rows.append((metric.name, metric.format(value)))
        return html_table(rows)


class Runs(Sequence[Run]):
    """Runs, newest first.

    Attributes:
        broken: the runs that can't be read, each with `name` and `error`.
    """

    def __init__(self, runs: Iterable[Run], broken: Iterable[BrokenRun] = ()) -> None:
        self._runs, self.broken = tuple(runs), tuple(broken)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Run | Self:
        if isinstance(index, slice):
            return type(self)(self._runs[index])
        return self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    def filter(self, condition: str | Callable[[Run], bool]) -> Self:
        """Return the runs that meet a condition, in the same order.

        Args:
            condition: a text as in `runs --filter`, for example `optim.lr < 0.1`, or a function.

        Raises:
            ConfigError: the text isn't a condition, or it names a field that no run has.
        """
        if not isinstance(condition, str):
            return type(self)(filter(condition, self))
        expression, fields = FilterExpression(condition), [run_fields(run) for run in self]
        check_fields(expression.names, fields)
        pairs = zip(self, fields, strict=True)
        return type(self)(run for run, values in pairs if expression.matches(values))

    def best(self, objective: str = "val_acc", reference: str | None = None) -> Run:
        """Return the best complete run.

        Args:
            objective: the value to compare, such as `val_acc`, `val_loss` or
                `distance_to_reference`; see the setting `objective`.
            reference: the run for `distance_to_reference`; see the setting `reference`.

        Raises:
            ConfigError: no complete run has the objective, or there is no such objective.
        """
        measure = Objective(objective, reference, metrics_of(self))
        values = [(measure.value(run), run) for run in self if run.state in COMPLETE]
        gains = [(measure.gain(value), run) for value, run in values if value is not None]
        if not gains:
            raise ConfigError(
                f"none of {pluralize(len(self), 'run')} is complete and has {objective}: train a "
                "run to its end, or choose other runs"
            )
        return max(gains, key=lambda pair: pair[0])[1]

    def rank(
        self,
        baseline: str | None = None,
        objective: str = "val_acc",
        reference: str | None = None,
    ) -> Ranking:
        """Rank the variants: the groups of runs that differ only in their seeds.

        Args:
            baseline: a condition; the variant that meets it is compared with the others.
            objective, reference: as in `best`.

        Raises:
            ConfigError: the condition or the objective is wrong, or not exactly one variant meets
                the condition.
        """
        expression = None
        if baseline is not None:
            expression = FilterExpression(baseline)
            check_fields(expression.names, map(run_fields, self))
        measure = Objective(objective, reference, metrics_of(self))
        ranking = Ranking(self._runs, expression, measure)
        if ranking.mismatch is not None:
            raise ConfigError(f"{ranking.mismatch}: choose a condition that one variant meets")
        return ranking

    def to_frame(self, all_settings: bool = False) -> "pandas.DataFrame":
        """Return a DataFrame with a row for each run.

        Its columns are the outcomes, and then the settings and choices that differ between the
        runs. A list is converted to text.

        Args:
            all_settings: include the settings and choices that all runs have in common.

        Raises:
            ConfigError: pandas isn't installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise ConfigError(
                "to_frame needs the package pandas: pip install 'resnet-sweep[pandas]'"
            ) from error
        fields = [run_fields(run) for run in self]
        annotations = [name for name in ("tags", "note") if any(run[name] for run in fields)]
        further = [metric.column for metric in metrics_of(self)]
        names = [*FRAME_COLUMNS, *further, *annotations]
        columns = {name: [values.get(name) for values in fields] for name in names}
        columns |= _all_columns(self._runs) if all_settings else diff_columns(self._runs)
        frame = pandas.DataFrame(
            {name: [_cell(value) for value in values] for name, values in columns.items()}
        )
        frame["started"] = pandas.to_datetime(frame["started"], utc=True, format="ISO8601")
        return frame

    def __repr__(self) -> str:
        return f"<{pluralize(len(self), 'run')}>"

    def __str__(self) -> str:
        return "\n".join(RunsTable(self._runs, keys=()).lines(None)) if self else "no runs"

    def _repr_html_(self) -> str:
        if not self:
            return html_lines(["no runs"])
        table = RunsTable(self._runs[:MAX_ROWS], keys=())._repr_html_()
        more = len(self) - MAX_ROWS
        return table + (html_lines([f"and {pluralize(more, 'more run')}"]) if more > 0 else "")


def load_runs(paths: str | Path | Iterable[str | Path] = ("outputs", "multirun")) -> Runs:
    """Load the runs in directories and below, newest first, as the command `runs` does.

    Args:
        paths: a directory, a run directory or the name of a logged run, or several of them. By
            default, `outputs` and `multirun`, if they exist.

    Raises:
        ConfigError: a path doesn't exist.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    elif paths == ("outputs", "multirun"):
        paths = [path for path in paths if Path(path).is_dir()]
    runs = find_runs(paths)
    return Runs(
        (Run.of(run) for run in runs if isinstance(run, LoadedRun)),
        (run for run in runs if isinstance(run, BrokenRun)),
    )


def load_run(path: str | Path) -> Run:
    """Load the run in a run directory, or a logged run by its name.

    Raises:
        ConfigError: there is no run, or it can't be read.
    """
    return Run.of(read_run(path))


class Diff(Comparison):
    """The difference between two or more runs. It is true, as a condition, if they differ.

    Attributes:
        runs: the runs. The lists in the other attributes have the same order.
        settings: the settings that decide what is trained and that differ, by dotted name.
        choices: the choices of config groups that differ.
        outcomes: the results, such as `best accuracy`, whether they differ or not.
        states: the states of the runs, if they differ.
        environment: the differences in device, host, versions and other settings.
        same: whether all settings, states and outcomes are the same, except the time.
        replicates: whether the seed is the only setting that differs.
    """

    def __bool__(self) -> bool:
        return not self.same

    def __repr__(self) -> str:
        names = ", ".join(safe_text(run.name) for run in self.runs)
        found = "the same" if self.same else f"differ in {', '.join(self.settings) or 'outcomes'}"
        return f"<Diff of {names}: {found}>"

    def _repr_html_(self) -> str:
        return diff_html(self)


def diff(first: LoadedRun | str | Path, *others: LoadedRun | str | Path) -> Diff:
    """Compare two or more runs by their settings and their outcomes, as the command `diff` does.

    Args:
        first, others: runs, run directories, or names of logged runs.

    Raises:
        ConfigError: only one run is given, or a run can't be read.
    """
    if not others:
        raise ConfigError("diff needs two runs or more, but only one is given: name another run")
    return Diff([run if isinstance(run, LoadedRun) else load_run(run) for run in (first, *others)])


def _all_columns(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return all settings and choices of runs, with the value of each run."""
    every = [{**run.settings, **run.choices} for run in runs]
    names = dict.fromkeys(name for values in every for name in values)
    return {name: [values.get(name, MISSING) for values in every] for name in names}


def _cell(value: Any) -> Any:
    """Return a value for a cell of a DataFrame."""
    if value is MISSING:
        return None
    return json.dumps(value) if isinstance(value, (list, dict)) else value
