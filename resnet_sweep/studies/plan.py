"""A study that is asked for: validated before anything is written, then made or joined."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf, read_write
from optuna.trial import TrialState, create_trial

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.objective import check_directions
from resnet_sweep.config.check import check_names, check_value
from resnet_sweep.config.compose import is_named_by_time, overrides_of
from resnet_sweep.errors import ConfigError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.files import remove_if_empty
from resnet_sweep.runs.run import make_directory
from resnet_sweep.runs.signature import relevant
from resnet_sweep.studies.search_space import (
    Direction,
    SearchSpace,
    TrialSampler,
    build_pruner,
)
from resnet_sweep.studies.storage import (
    DIRECTORY,
    WARM,
    exclusive,
    is_shared,
    open_storage,
    open_study,
    study_fingerprint,
)
from resnet_sweep.studies.trial_queue import FOUND, PLACE, SIGNATURE, STATE, TrialQueue
from resnet_sweep.studies.trial_runs import TrialPlanner, find_finished_trials
from resnet_sweep.sweeps.grid import preset_overrides
from resnet_sweep.sweeps.manifest import Manifest
from resnet_sweep.sweeps.run_cache import RunCache
from resnet_sweep.sweeps.runner import new_sweep_directory

# `hydra.sweeper`; see conf/hydra/sweeper/optuna.yaml.
SETTINGS = {
    "sampler": dict,
    "pruner": dict | None,
    "direction": Direction | list[Direction],
    "storage": str | None,
    "study_name": str | None,
    "n_trials": Count,
    "n_jobs": Count,
    "max_failures": Count | None,
    "max_failure_rate": float | None,
    "max_worker_crashes": Count | None,
    "enqueue": Literal["current_config"] | list | None,
    "warm_start": bool,
    "params": dict | None,
}
NAME = "resnet_sweep"
SUBDIRECTORIES = ("${hydra.job.num}", "${hydra:job.num}", "${hydra.job.id}")


class StudyPlan:
    """A study, validated in all that can be known before a trial starts.

    Args:
        loader: Hydra's.
        config: of the study as a whole.

    Attributes:
        settings: of the sweeper.
        space, planner, directions, sampler, pruner: what is searched, and how.
        corners: a planned run at each corner of the space.
        enqueued: the parameters that are tried first.
        fingerprint: what mustn't change while the study is resumed.

    Raises:
        ConfigError: something is wrong; nothing was written.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.config = config
        self.settings = _sweeper_settings(config)
        _check_subdirectory(config)
        self.space = SearchSpace(
            [*preset_overrides(self.settings["params"]), *overrides_of(config.hydra)]
        )
        self.planner = TrialPlanner(loader, config, self.space)
        objectives = self.planner.objectives
        self.directions = check_directions(objectives, self.settings["direction"])
        self.sampler = TrialSampler(self.settings["sampler"], self.space)
        self.sampler.check(self.directions)
        self.corners = self.planner.plan_corners()
        epochs = max(corner.epochs for corner in self.corners) * self.planner.replicates
        self.pruner = build_pruner(self.settings["pruner"], len(objectives), epochs)
        self.enqueued = self._enqueued()
        record = self.corners[0].record
        self.fingerprint = study_fingerprint(
            [objective.name for objective in objectives],
            self.planner.settings,
            self.space,
            relevant(record.config, record.precision or "", record.fingerprint or ""),
        )

    @property
    def name(self) -> str:
        """The name of the study in its storage."""
        return self.settings["study_name"] or NAME

    @property
    def n_trials(self) -> int:
        """How many trials are to be sampled."""
        size, asked = self.sampler.size, int(self.settings["n_trials"])
        return asked if size is None else min(size, asked)

    @property
    def max_failures(self) -> int | None:
        """After how many failed trials the study ends; None for any number."""
        rate, count = self.settings["max_failure_rate"], self.settings["max_failures"]
        if rate is None:
            return None if count is None else int(count)
        by_rate = int(rate * self.settings["n_trials"]) + 1
        return by_rate if count is None else min(count, by_rate)

    def describe(self) -> str:
        """Return what would be searched, in some lines."""
        sampler = str(self.settings["sampler"].get("_target_", "")).rpartition(".")[2]
        pruner = type(self.pruner).__name__.removesuffix("Pruner")
        goals = zip(self.planner.objectives, self.directions, strict=True)
        lines = [f"{self.n_trials} trials, sampled by {sampler}, pruned by {pruner}"]
        lines += [f"  {objective.name}: {direction}" for objective, direction in goals]
        lines += [f"  {line}" for line in self.space.lines()]
        lines.append(f"  {len(self.corners)} corners of this space are valid")
        lines += [
            f"  first: {' '.join(f'{key}={value}' for key, value in parameters.items())}"
            for parameters in self.enqueued
        ]
        return "\n".join(lines)

    def cache(self, directory: Path) -> RunCache | None:
        """Return the finished runs that trials may reuse; None if they are to reuse none."""
        return RunCache.here(directory) if self.planner.settings["reuse"] else None

    def open(self) -> TrialQueue:
        """Make the study, or join the one that there is.

        Raises:
            ConfigError: its directory or its storage can't be used, or has another study.
        """
        url, sweep = self.settings["storage"], self.config.hydra.sweep
        directory, new = Path(os.path.abspath(sweep.dir)), is_named_by_time(sweep)
        if not new:
            # Refuses the directory of a run.
            Manifest.read(directory)
        storage = None
        if is_shared(url):
            # Before a directory is made for a study that can't be had, or has one already.
            storage = open_storage(url, directory)
            known = {study.study_name: study.user_attrs for study in storage.get_all_studies()}
            home = _home(self.name, known.get(self.name, {}), None if new else directory)
            if home is not None:
                directory, new = home, False
        if new:
            directory = new_sweep_directory(self.config)
        make_directory(directory)
        with exclusive(directory):
            storage = storage or open_storage(url, directory)
            study = open_study(
                storage,
                self.name,
                self.directions,
                self.sampler,
                self.pruner,
                self.fingerprint,
                directory,
                self._fill,
            )
        if is_shared(url):
            # Another worker may have made the study, with its own directory, meanwhile.
            home = _home(self.name, study.user_attrs, None if new else directory)
            if home not in (None, directory):
                assert home is not None
                remove_if_empty(directory)
                directory = home
        with read_write(sweep):
            sweep.dir = str(directory)
        total = self.n_trials + study.user_attrs.get(WARM, 0)
        return TrialQueue(study, storage, directory, total, self.space.distributions)

    def _enqueued(self) -> list[dict[str, Any]]:
        asked = self.settings["enqueue"]
        if asked is None:
            return []
        if self.sampler.size is not None:
            raise ConfigError(
                "hydra.sweeper.enqueue says what is tried first, and a grid is tried whole in any "
                "case: leave it out, or choose another hydra/sweeper/sampler"
            )
        found = []
        for values in [self.planner.current_config()] if asked == "current_config" else asked:
            if not isinstance(values, Mapping) or values.keys() != self.space.distributions.keys():
                raise ConfigError(
                    f"hydra.sweeper.enqueue has {shown(values)}: give each key that is searched "
                    f"({', '.join(self.space.distributions)}) a value, or say current_config"
                )
            parameters = self.space.parameters(values)
            if parameters is None:
                listed = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
                raise ConfigError(
                    f"hydra.sweeper.enqueue: {listed} is outside of the search space: widen that, "
                    "or leave it out"
                )
            found.append(parameters)
        return found

    def _fill(self, study: optuna.Study) -> int:
        """Add the first trials to a new study; return how many have an outcome already."""
        finished = []
        if self.settings["warm_start"]:
            finished = find_finished_trials(RunCache.here(), self.planner)
        for trial in finished:
            first, *others = trial.directories
            attributes = {SIGNATURE: trial.signature, STATE: "finished", PLACE: first}
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=trial.values,
                    params=dict(trial.parameters),
                    distributions=self.space.distributions,
                    user_attrs=attributes | ({FOUND: others} if others else {}),
                )
            )
        for parameters in self.enqueued:
            study.enqueue_trial(parameters)
        return len(finished)


def _sweeper_settings(config: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    given = {name: value for name, value in settings.items() if name != "_target_"}
    check_names("hydra.sweeper.", given, SETTINGS)
    full = {**dict.fromkeys(SETTINGS), **given}
    for name, annotation in SETTINGS.items():
        check_value(f"hydra.sweeper.{name}", full[name], annotation)
    return full


def _check_subdirectory(config: DictConfig) -> None:
    sweep: Any = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    pattern = sweep["subdir"]
    if pattern not in SUBDIRECTORIES:
        raise ConfigError(
            f"hydra.sweep.subdir={pattern} isn't possible in a study, whose directories are named "
            "by the numbers of its trials: leave it out"
        )


def _home(name: str, attributes: Mapping[str, Any], asked: Path | None) -> Path | None:
    """Return the directory that a study was made with.

    Args:
        name: of the study.
        attributes: of the study.
        asked: the directory that the command names, if it does.

    Returns:
        None if there is none here: nobody has made the study, or its directory was moved.

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
