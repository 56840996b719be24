"""Which trials aren't worth going on with: Optuna's pruners."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.trial import Trial

from resnet_sweep.compare.entry import Entry, Metrics
from resnet_sweep.compare.objective import Objective
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row, read_metrics
from resnet_sweep.training.monitor import Monitor, Pruned

WHITELIST = ("optuna.pruners.*",)


def build_pruner(node: Mapping[str, Any] | None, objectives: int, epochs: int) -> BasePruner:
    """The pruner of a study.

    Args:
        node: `hydra.sweeper.pruner`; None is Hyperband where there is one objective.
        objectives: how many there are.
        epochs: of a whole trial, over all its replicates.

    Raises:
        RequestError: there is no such pruner, or it can't prune by several objectives.
    """
    if node is None:
        return NopPruner() if objectives > 1 else HyperbandPruner(max_resource=epochs)
    # Otherwise Optuna waits for a trial that ends, and each worker for one of its own.
    if node.get("max_resource") == "auto" and str(node.get("_target_")).endswith("HyperbandPruner"):
        node = {**node, "max_resource": epochs}
    try:
        pruner = instantiate(node, _execution_whitelist_=WHITELIST, _convert_="all")
        if not isinstance(pruner, BasePruner):
            raise ValueError(f"_target_={node.get('_target_')} isn't a pruner")
    # A pruner's settings come from a user, so whatever it makes of them is for the user.
    except Exception as error:
        raise RequestError(f"hydra.sweeper.pruner: {' '.join(str(error).split())}") from error
    if objectives > 1 and not isinstance(pruner, NopPruner):
        raise RequestError(
            f"{type(pruner).__name__} can't prune by {objectives} objectives: search with one "
            "objective, or with hydra/sweeper/pruner=none"
        )
    return pruner


class Pruning(Monitor):
    """Tells a trial what each epoch came to, and ends the run that isn't worth going on with.

    Args:
        trial: that the run is of.
        objective: what it is judged by.
        epochs: of the run; after the last one there is nothing left to save.
    """

    def __init__(self, trial: Trial, objective: Objective, epochs: int) -> None:
        self.trial, self.objective, self.epochs = trial, objective, epochs

    def started(self, directory: Path, step: int) -> None:
        # A worker that was killed may have ended an epoch without a chance to tell of it.
        rows = self.tell(directory)
        if rows:
            self._judge(rows[-1])

    def tell(self, directory: Path) -> Sequence[Row]:
        """Report the epochs of a run that aren't reported yet, and return all of them."""
        self.directory = directory
        self.known = {*self.trial.storage.get_trial(self.trial._trial_id).intermediate_values}
        self.rows: list[Row] = []
        for row in read_metrics(directory):
            self._report(row)
        return self.rows

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        self._report(row)
        self._judge(row)

    def _report(self, row: Row) -> None:
        self.rows.append(row)
        # Of a worker that was killed, it may be known here, and not yet in the run directory.
        if row["epoch"] in self.known:
            return
        value = row.get(self.objective.name)
        if value is None:
            entry = Entry.read(self.directory, str(self.directory))
            # On a GPU, metrics.csv is still being written.
            entry.metrics = Metrics(self.rows, None)
            value = self.objective.value(entry)
        if value is not None:
            self.trial.report(value, row["epoch"])

    def _judge(self, row: Row) -> None:
        if row["epoch"] < self.epochs and self.trial.should_prune():
            name = type(self.trial.study.pruner).__name__
            raise Pruned(f"by {name} after epoch {row['epoch']} of {self.epochs}")
