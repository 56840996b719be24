"""Create a study in its storage and its directory, or join an existing one."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from omegaconf import read_write
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage

from resnet_sweep.compare.format import safe_text
from resnet_sweep.config.compose import is_named_by_time
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.run import make_directory
from resnet_sweep.runs.signature import code_file, differences
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.promotion import PausedTrials, promoted_share
from resnet_sweep.studies.storage import exclusive, find_study, is_shared, open_storage
from resnet_sweep.studies.trial_queue import TrialQueue
from resnet_sweep.sweeps.manifest import Manifest
from resnet_sweep.sweeps.runner import new_sweep_directory

# Seconds that another worker may take to write the attributes of a study that it has created.
CREATION_SECONDS = 5
# Names of user attributes of a study. WARM is the number of trials that were complete when the
# study was created.
FINGERPRINT, DIRECTORY, WARM = "resnet_sweep", "directory", "warm_started"
MAX_DIFFERENCES = 5


def check_directory(plan: StudyPlan) -> None:
    """Raise ConfigError if the directory belongs to a run, a grid sweep or another study."""
    sweep = plan.config.hydra.sweep
    if is_named_by_time(sweep):
        return
    directory = Path(os.path.abspath(sweep.dir))
    definition = Manifest.read(directory).definition
    theirs = (definition.model_extra or {}).get("study")
    if not definition.command or (theirs == plan.name and _find(plan, directory) is not None):
        return
    content = "a grid sweep"
    if theirs is not None:
        content = f"the study {safe_text(theirs)} with another name or storage"
    raise ConfigError(f"{directory} contains {content}: choose another hydra.sweep.dir")


def open_study(plan: StudyPlan) -> TrialQueue:
    """Create a study or join an existing one, and set the directory in the plan's config.

    Raises:
        ConfigError: the directory or the storage can't be used, or has another study.
    """
    check_directory(plan)
    sweep, shared = plan.config.hydra.sweep, is_shared(plan.settings["storage"])
    directory = Path(os.path.abspath(sweep.dir))
    asked = None if is_named_by_time(sweep) else directory
    found = _find(plan, directory)
    stored = _find_directory(plan.name, found or {}, asked) if shared else None
    if shared and stored is None:
        # This raises an error if the study can't be stored, before a directory is created.
        open_storage(plan.settings["storage"], directory)
    known = stored or asked
    made = missing_folders(known or Path(plan.config.hydra.sweep.dir).parent)
    directory = known or new_sweep_directory(plan.config)
    if known is None:
        made = [directory, *made]
    make_directory(directory)
    try:
        queue = _locked_queue(plan, directory, found is not None)
        if shared:
            # Another worker may have created the study, with its own directory, in the meantime.
            stored = _find_directory(plan.name, queue.study.user_attrs, asked)
            if stored is not None and stored != directory:
                remove_empty(made)
                queue.directory = directory = stored
    except BaseException:
        # A study that is refused leaves no empty directories.
        remove_empty(made)
        raise
    with read_write(sweep):
        sweep.dir = str(directory)
    return queue


def _find(plan: StudyPlan, directory: Path) -> Mapping[str, Any] | None:
    return find_study(plan.settings["storage"], directory, plan.name)


def _find_directory(name: str, attributes: Mapping[str, Any], asked: Path | None) -> Path | None:
    """Return the directory that a study was created with; None if it no longer exists.

    Raises:
        ConfigError: the command sets another directory. Workers couldn't find the checkpoints of
            other workers there.
    """
    found = attributes.get(DIRECTORY)
    if not found or not os.path.isdir(found):
        return None
    if asked is not None and not (asked.is_dir() and os.path.samefile(asked, found)):
        raise ConfigError(
            f"the study {safe_text(name)} has its trials in {found}, and not in {asked}: leave out "
            "hydra.sweep.dir, or choose another hydra.sweeper.study_name"
        )
    return Path(found)


def _locked_queue(plan: StudyPlan, directory: Path, is_known: bool) -> TrialQueue:
    try:
        with exclusive(directory):
            return _queue(plan, directory)
    except OSError as error:
        # The results of a finished study can be printed from a read-only directory.
        if is_known and (queue := _queue(plan, directory)).is_done():
            return queue
        raise ConfigError(
            f"the directory {directory} can't be used ({error.strerror or error}): make it "
            "writable, or choose another with hydra.sweep.dir=DIRECTORY"
        ) from error


def _queue(plan: StudyPlan, directory: Path) -> TrialQueue:
    storage = open_storage(plan.settings["storage"], directory)
    study = _study(plan, storage, directory)
    study.pruner = plan.pruner
    total = plan.n_trials + study.user_attrs.get(WARM, 0)
    if not plan.promotes:
        return TrialQueue(study, storage, directory, total)
    paused = PausedTrials(plan.objectives[0].gain, promoted_share(plan.settings["pruner"]))
    return TrialQueue(
        study, storage, directory, total, paused, plan.settings["timeout"] is not None
    )


def _study(plan: StudyPlan, storage: BaseStorage, directory: Path) -> optuna.Study:
    known = any(study.study_name == plan.name for study in storage.get_all_studies())
    if not known:
        try:
            optuna.create_study(storage=storage, study_name=plan.name, directions=plan.directions)
        except DuplicatedStudyError:
            known = True
    study = optuna.load_study(study_name=plan.name, storage=storage)
    directions = [direction.name.lower() for direction in study.directions]
    if known and not (directions == plan.directions and _is_abandoned(study)):
        _check_fingerprint(study, plan.fingerprint)
        return study
    finished = plan.finished_trials() if plan.settings["warm_start"] else []
    study.set_metric_names(plan.fingerprint["objective"])
    study.set_user_attr(DIRECTORY, str(directory))
    # The runs are copied before their trials exist, because a trial is read with its runs.
    for number, (trial, runs) in enumerate(finished):
        for planned, run in zip(plan.plan_trial(trial.params, number), runs, strict=True):
            planned.reuse(run)
    study.add_trials([trial for trial, _ in finished])
    study.set_user_attr(WARM, len(finished))
    for parameters in plan.enqueued:
        study.enqueue_trial(dict(parameters))
    study.set_user_attr(FINGERPRINT, plan.fingerprint)
    return study


def _is_abandoned(study: optuna.Study) -> bool:
    """Return whether the process that created a study exited before it wrote the attributes."""
    end = time.monotonic() + CREATION_SECONDS
    while FINGERPRINT not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False


def _check_fingerprint(study: optuna.Study, asked: Mapping[str, Any]) -> None:
    which = f"the study {safe_text(study.study_name)}"
    other = "choose another hydra.sweep.dir or hydra.sweeper.study_name"
    found = study.user_attrs.get(FINGERPRINT)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{which} was created by another program: {other}")
    # The fingerprint is converted to JSON and back, because tuples become lists in the storage.
    listed = [
        f"{safe_text(name)}: {safe_text(old)} in the study, {safe_text(new)} in this command"
        if (file := code_file(name)) is None
        else f"{safe_text(file)} has changed"
        for name, (old, new) in differences(found, json.loads(json.dumps(asked))).items()
    ]
    if listed:
        raise ConfigError(
            f"{which} has other settings ({'; '.join(listed[:MAX_DIFFERENCES])}): {other}"
        )
