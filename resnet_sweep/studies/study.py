"""The study in its storage and its directory: made, or joined if there is one."""

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

from resnet_sweep.compare.format import shown
from resnet_sweep.config.compose import is_named_by_time
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.run import make_directory
from resnet_sweep.runs.signature import differences
from resnet_sweep.studies.plan import StudyPlan
from resnet_sweep.studies.storage import exclusive, find_study, is_shared, open_storage
from resnet_sweep.studies.trial_queue import TrialQueue
from resnet_sweep.sweeps.manifest import Manifest
from resnet_sweep.sweeps.runner import new_sweep_directory

# How long another worker may take to describe the study that it has just made.
PATIENCE_SECONDS = 5
# User attributes of a study: its fingerprint, the sweep's directory, and how many of its trials had
# an outcome when it was made.
FINGERPRINT, DIRECTORY, WARM = "resnet_sweep", "directory", "warm_started"
MAX_DIFFERENCES = 5


def check_directory(plan: StudyPlan) -> None:
    """Refuse the directory of a run, a grid sweep or another study."""
    sweep = plan.config.hydra.sweep
    if is_named_by_time(sweep):
        return
    directory = Path(os.path.abspath(sweep.dir))
    there = Manifest.read(directory).definition
    theirs = (there.model_extra or {}).get("study")
    if not there.command or (theirs == plan.name and _find(plan, directory) is not None):
        return
    what = "a grid sweep"
    if theirs is not None:
        what = f"the study {shown(theirs)}, whose name or storage is another"
    raise ConfigError(f"{directory} has {what}: choose another hydra.sweep.dir")


def open_study(plan: StudyPlan) -> TrialQueue:
    """Make a study, or join the one that there is; the directory is set in the plan's config.

    Raises:
        ConfigError: its directory or its storage can't be used, or has another study.
    """
    check_directory(plan)
    sweep, shared = plan.config.hydra.sweep, is_shared(plan.settings["storage"])
    directory = Path(os.path.abspath(sweep.dir))
    asked = None if is_named_by_time(sweep) else directory
    found = _find(plan, directory)
    home = _home(plan.name, found or {}, asked) if shared else None
    if shared and home is None:
        # Before a directory is made for a study that has nowhere to be stored.
        open_storage(plan.settings["storage"], directory)
    known = home or asked
    made = missing_folders(known or Path(plan.config.hydra.sweep.dir).parent)
    directory = known or new_sweep_directory(plan.config)
    if known is None:
        made = [directory, *made]
    make_directory(directory)
    try:
        queue = _locked_queue(plan, directory, found is not None)
        if shared:
            # Another worker may have made the study, with its own directory, meanwhile.
            home = _home(plan.name, queue.study.user_attrs, asked)
            if home is not None and home != directory:
                remove_empty(made)
                queue.directory = directory = home
    except BaseException:
        # Of a study that is refused, nothing is left.
        remove_empty(made)
        raise
    with read_write(sweep):
        sweep.dir = str(directory)
    return queue


def _find(plan: StudyPlan, directory: Path) -> Mapping[str, Any] | None:
    return find_study(plan.settings["storage"], directory, plan.name)


def _home(name: str, attributes: Mapping[str, Any], asked: Path | None) -> Path | None:
    """Return the directory that a study was made with; None if it was moved.

    Raises:
        ConfigError: it isn't the one that is asked for. Workers in two directories couldn't see
            each other's checkpoints.
    """
    found = attributes.get(DIRECTORY)
    if not found or not os.path.isdir(found):
        return None
    if asked is not None and not (asked.is_dir() and os.path.samefile(asked, found)):
        raise ConfigError(
            f"the study {shown(name)} has its trials in {found}, and not in {asked}: leave "
            "hydra.sweep.dir out, or choose another hydra.sweeper.study_name"
        )
    return Path(found)


def _locked_queue(plan: StudyPlan, directory: Path, is_known: bool) -> TrialQueue:
    try:
        with exclusive(directory):
            return _queue(plan, directory)
    except OSError as error:
        # A finished study can be looked at where nothing can be written.
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
    return TrialQueue(study, storage, directory, plan.n_trials + study.user_attrs.get(WARM, 0))


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
    study.add_trials(finished)
    study.set_user_attr(WARM, len(finished))
    for parameters in plan.enqueued:
        study.enqueue_trial(dict(parameters))
    study.set_user_attr(FINGERPRINT, plan.fingerprint)
    return study


def _is_abandoned(study: optuna.Study) -> bool:
    """Return whether the process that made a study was gone before it had described it."""
    end = time.monotonic() + PATIENCE_SECONDS
    while FINGERPRINT not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            return False
        if time.monotonic() > end:
            return True
        time.sleep(0.1)
    return False


def _check_fingerprint(study: optuna.Study, asked: Mapping[str, Any]) -> None:
    which = f"the study {shown(study.study_name)}"
    other = "choose another hydra.sweep.dir or hydra.sweeper.study_name"
    found = study.user_attrs.get(FINGERPRINT)
    if not isinstance(found, Mapping):
        raise ConfigError(f"{which} was made by another program: {other}")
    # As JSON has it, where lists and tuples are the same.
    listed = [
        f"{shown(name)}: {shown(there)} there, {shown(here)} here"
        for name, (there, here) in differences(found, json.loads(json.dumps(asked))).items()
    ]
    if listed:
        raise ConfigError(
            f"{which} has other settings ({'; '.join(listed[:MAX_DIFFERENCES])}): {other}"
        )
