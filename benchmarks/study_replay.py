"""Replay searches over recorded curves, so that hundreds of searches take minutes.

`python -m benchmarks.study --replay` calls this module. A recorded curve takes the place of the
training of a trial. The trial queue, the pruners and the rule of promotion are those of a study.
"""

import csv
import gzip
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.trial import Trial, TrialState

from resnet_sweep.compare.objective import Objective
from resnet_sweep.studies.promotion import PausedTrials, promoted_share
from resnet_sweep.studies.search_space import build_pruner
from resnet_sweep.studies.storage import set_up_optuna
from resnet_sweep.studies.trial_queue import PAUSED_AT, TrialQueue
from resnet_sweep.studies.worker import PruningCallback
from resnet_sweep.training.callbacks import Pruned

RECORDED = Path(__file__).with_name("data") / "recorded_curves.csv.gz"
# Validation images of the recorded curves of resnet8v2.
IMAGES = 2500
# Trials that are continued after one epoch by the simplest search with early stopping.
TOP = 5
PRUNERS: Mapping[str, Mapping[str, Any] | None] = {
    "Hyperband (factor 3)": None,
    "successive halving (factor 4)": {
        "_target_": "optuna.pruners.SuccessiveHalvingPruner",
        "min_resource": 1,
        "reduction_factor": 4,
    },
    "median": {"_target_": "optuna.pruners.MedianPruner"},
}

Row = dict[str, float]
Curve = list[Row]


def load_curves(path: Path = RECORDED) -> list[Curve]:
    """Return the curves in a file with the columns variant, seed, epoch, and metrics."""
    curves: defaultdict[tuple[str, str], Curve] = defaultdict(list)
    with gzip.open(path, "rt", newline="") as file:
        for line in csv.DictReader(file):
            variant, seed = line.pop("variant"), line.pop("seed")
            row: Row = {name: float(value) for name, value in line.items()}
            curves[variant, seed].append({**row, "epoch": int(row["epoch"])})
    return list(curves.values())


def best_accuracy(curve: Curve) -> float:
    """Return the best accuracy of a curve, percent."""
    return max(row["val_acc"] for row in curve)


def target_of(curves: Sequence[Curve], margin: float) -> float:
    """Return the best accuracy of some curves less `margin` of its standard errors, percent."""
    best = max(map(best_accuracy, curves))
    return best - margin * 100 * math.sqrt(best / 100 * (1 - best / 100) / IMAGES)


def random_search(curves: Sequence[Curve], target: float) -> int | None:
    """Return the epochs that are trained until a trial has the target; None if none has it."""
    rows = [row for curve in curves for row in curve]
    return next(
        (count for count, row in enumerate(rows, start=1) if row["val_acc"] >= target), None
    )


def top_few(curves: Sequence[Curve], target: float) -> int | None:
    """Train all trials for one epoch, and continue the best ones, one after another.

    Returns:
        As for `random_search`.
    """
    ranked = sorted(curves, key=lambda curve: curve[0]["val_acc"], reverse=True)
    rows = [*(curve[0] for curve in curves), *(row for curve in ranked[:TOP] for row in curve[1:])]
    return random_search([rows], target)


class ReplayedStudy:
    """A study with one worker whose trials have recorded curves.

    Args:
        pruner: `hydra.sweeper.pruner`.
        promote: whether pruned trials are promoted.
        promote_all: whether all pruned trials are promoted after the last new trial.
    """

    def __init__(
        self, pruner: Mapping[str, Any] | None, promote: bool = False, promote_all: bool = False
    ) -> None:
        self.node, self.promote, self.promote_all = pruner, promote, promote_all

    def __call__(self, curves: Sequence[Curve], target: float) -> int | None:
        """Return the epochs until a trial has the target, as for `random_search`."""
        pruner = build_pruner(self.node, 1, len(curves[0]))
        with tempfile.TemporaryDirectory() as folder:
            return self._search(pruner, Path(folder), curves, target)

    def _search(
        self, pruner: BasePruner, folder: Path, curves: Sequence[Curve], target: float
    ) -> int | None:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, direction="maximize", pruner=pruner)
        paused = None
        if self.promote:
            paused = PausedTrials(Objective().gain, promoted_share(self.node))
        queue = TrialQueue(study, storage, folder, len(curves), paused, self.promote_all)
        # The numbers of the trials have gaps, because a promoted trial has a number, too.
        indices: dict[int, int] = {}
        epochs = 0
        while (lock := queue.take()) is not None:
            index = indices.setdefault(lock.number, len(indices))
            trial = Trial(study, lock.id)
            paused_at: int = trial.user_attrs.get(PAUSED_AT, 0)
            if not paused_at:
                queue.mark_if_duplicate(trial, str(index))
            curve = curves[index]
            callback = PruningCallback(trial, Objective(), len(curve), set(), paused_at)
            callback.report(curve[:paused_at])
            state, values = TrialState.COMPLETE, [best_accuracy(curve)]
            for row in curve[paused_at:]:
                epochs += 1
                if row["val_acc"] >= target:
                    lock.release()
                    return epochs
                try:
                    callback.on_epoch_end(row, [], 0)
                except Pruned:
                    state, values = TrialState.PRUNED, []
                    break
            queue.end(trial, state, values or None)
            lock.release()
        return None


def replay(
    replays: int, trials: int, margin: float = 1.0, path: Path = RECORDED
) -> dict[str, list[float]]:
    """Replay all searches, each with the same trials in the same random order.

    The target depends on the best accuracy of the trials, see `target_of`.

    Args:
        replays: number of random orders.
        trials: number of trials of a search; they are drawn from the curves.
        margin: distance of the target from the best accuracy, see `target_of`.
        path: file with curves.

    Returns:
        For each search, the epochs until the target in each replay; infinite if the search ended
        without the target.
    """
    set_up_optuna()
    curves = load_curves(path)
    searches: dict[str, Callable[[Sequence[Curve], float], int | None]] = {
        f"first epoch, then the top {TOP}": top_few,
    }
    for name, node in PRUNERS.items():
        searches[name] = ReplayedStudy(node)
        searches[f"{name}, promote"] = ReplayedStudy(node, promote=True)
        searches[f"{name}, promote all"] = ReplayedStudy(node, promote=True, promote_all=True)
    rng = random.Random(0)
    results: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(replays):
        first = rng.sample(curves, min(trials, len(curves)))
        target = target_of(first, margin)
        full = random_search(first, target)
        results["random search"].append(full or math.inf)
        for name, search in searches.items():
            results[name].append(search(first, target) or math.inf)
    return dict(results)
