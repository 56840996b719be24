"""A study in its storage, made or gone on with."""

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage

from resnet_sweep.sweeps.study.definition import DIRECTORY, KEY, SEEDED, compare

# How long another worker may take to say what the study is that it has just made.
PATIENCE_SECONDS = 5


def open_study(
    storage: BaseStorage,
    name: str,
    directions: Sequence[str],
    pruner: BasePruner,
    definition: Mapping[str, Any],
    directory: Path | None,
    fill: Callable[[optuna.Study], int],
) -> optuna.Study:
    """Make a study, or go on with one.

    Args:
        storage: where it is.
        name: of the study.
        directions: of its objectives.
        pruner: of its trials.
        definition: what it is.
        directory: of its trials, if it is new; None if that isn't known yet.
        fill: puts the first trials into a new one, and says how many have an outcome already.

    Raises:
        RequestError: the study that there is isn't the one that is asked for.
    """
    with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
        try:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=list(directions), pruner=pruner
            )
            new = True
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
            new = _is_empty(study)
        if new:
            study.set_metric_names(definition["objective"])
            if directory is not None:
                study.set_user_attr(DIRECTORY, str(directory))
            study.set_user_attr(SEEDED, fill(study))
            study.set_user_attr(KEY, definition)
        else:
            compare(study, directions, definition)
    return study


def _is_empty(study: optuna.Study) -> bool:
    """Whether whoever made a study was gone before saying what it is."""
    end = time.monotonic() + PATIENCE_SECONDS
    while KEY not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False
