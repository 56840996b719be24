"""The runs of trials: planned from the trials' parameters, or found finished elsewhere."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.compare.group import COMPLETE, replicates
from resnet_sweep.compare.loaded_run import LoadedRun
from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.check import SETTINGS, check_value
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    flags_of,
    overrides_of,
    resolve,
)
from resnet_sweep.config.errors import COMPOSITION_ERRORS, format_error
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import write_plan
from resnet_sweep.runs.signature import flatten
from resnet_sweep.studies.search_space import Parameters, SearchSpace
from resnet_sweep.sweeps.plan import (
    SWEEP_SETTINGS,
    invalid_jobs,
    key_of,
    sweep_settings,
    with_seed,
)
from resnet_sweep.sweeps.run_cache import RunCache

# Overrides that a run's own command leaves out.
_OF_STUDY = {"sweep", *SWEEP_SETTINGS} - {"objective", "reference"}


@dataclass(frozen=True)
class TrialRun:
    """A planned run of a trial, which differs from the trial's others in the seed alone.

    Attributes:
        planned: the run.
        record: of the run, in state `pending`.
        subdirectory: of the run, in the sweep's directory.
        hydra: Hydra's own part of its config.
    """

    planned: PlannedRun
    record: Record
    subdirectory: Path
    hydra: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """How many epochs the run has at most."""
        return self.record.epochs

    def write(self, sweep: Path) -> Path:
        """Write the directory of the run, unless it is there; return it.

        Args:
            sweep: the sweep's directory.

        Raises:
            ConfigError: the directory is another run's or something else's, or is in use.
        """
        directory = sweep / self.subdirectory
        write_plan(directory, self.record)
        hydra = {
            **self.hydra,
            "sweep": {
                **self.hydra["sweep"],
                "dir": str(sweep),
                "subdir": str(self.subdirectory),
            },
            "runtime": {**self.hydra["runtime"], "output_dir": str(directory)},
        }
        write_hydra_folder(directory, self.record.config, hydra, self.record.overrides)
        return directory


class TrialPlanner:
    """Plans the runs of trials.

    Args:
        loader: Hydra's.
        master: the config of the study as a whole.
        space: what is searched.

    Attributes:
        settings: of the study as a whole.
        objectives: what trials are judged by.

    Raises:
        ConfigError: a setting of the study is wrong.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, space: SearchSpace) -> None:
        self.loader, self.master, self.space = loader, master, space
        self.settings = sweep_settings(master)
        for name in ("sweep_filter", "zip", "baseline"):
            if self.settings[name]:
                raise ConfigError(
                    f"{name}={self.settings[name]} is of a grid's combinations, which a study "
                    "doesn't have: leave it out, or use hydra/sweeper=grid"
                )
        self.objectives = Objective.all_of(self.settings)
        self.smoke_tests = SmokeTests()

    @property
    def replicates(self) -> int:
        """How many runs a trial has."""
        return int(self.settings["replicates"])

    def plan(self, parameters: Parameters, number: int = 0) -> list[TrialRun]:
        """Plan the runs of a trial.

        Args:
            parameters: of the trial.
            number: of the trial.

        Raises:
            ConfigError: they can't be trained.
        """
        overrides = self.space.overrides(parameters)
        try:
            with composed_job(self.loader, self.master, overrides) as config:
                config.hydra.job.num, config.hydra.job.id = number, str(number)
                typed = [
                    word for word in overrides_of(config.hydra) if key_of(word) not in _OF_STUDY
                ]
                seed = resolve(config, "seed")
                check_value("seed", seed, SETTINGS["seed"])
                return [
                    self._plan_run(config, typed, number, seed + replicate)
                    for replicate in range(self.replicates)
                ]
        except COMPOSITION_ERRORS as error:
            raise ConfigError(format_error(error, overrides)) from error

    def plan_corners(self) -> list[TrialRun]:
        """Plan a run at each corner of the space.

        Raises:
            ConfigError: some can't be trained, all of which are named.
        """
        corners: list[TrialRun] = []
        wrong: dict[str, list[str]] = {}
        for parameters in self.space.corners():
            try:
                corners.append(self.plan(parameters)[0])
            except ConfigError as error:
                words = " ".join(f"{key}={value}" for key, value in parameters.items())
                wrong.setdefault(str(error), []).append(words)
        if wrong:
            count = len(corners) + sum(map(len, wrong.values()))
            raise invalid_jobs(wrong, count, "corners of the search space")
        return corners

    def current_config(self) -> dict[str, Any]:
        """Return the values of the searched keys that the command has without the search."""
        with composed_job(self.loader, self.master, list(self.space.fixed.values())) as config:
            composed = ComposedConfig.of(config, config.hydra)
        found = {}
        for key in self.space.distributions:
            value: Any = composed.settings
            for part in key.lstrip("+").split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            found[key] = composed.choices.get(key, value)
        return found

    def _plan_run(
        self, config: DictConfig, overrides: list[str], number: int, seed: int
    ) -> TrialRun:
        subdirectory = Path(str(number))
        if self.replicates > 1:
            overrides = with_seed(overrides, seed)
            subdirectory /= str(seed)
        config.seed = seed
        config.hydra.overrides.task = overrides
        # The flags of the command, which a worker composes without.
        composed = replace(
            ComposedConfig.of(config, config.hydra), flags=flags_of(self.master.hydra)
        )
        planned = plan_run(composed.settings, smoke_tests=self.smoke_tests)
        if not planned.settings.resume:
            raise ConfigError(
                "trainer.resume=false would train a trial anew whenever a worker resumes it: leave "
                "it out, or start another study with another hydra.sweep.dir"
            )
        hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
        return TrialRun(planned, planned.record(composed), subdirectory, hydra)


@dataclass(frozen=True)
class FinishedTrial:
    """A trial whose runs are finished elsewhere.

    Attributes:
        parameters: of the trial.
        values: of its objectives.
        directories: of its runs, one for each replicate; absolute.
        signature: of the first one.
    """

    parameters: Parameters
    values: list[float]
    directories: list[str]
    signature: str


def find_finished_trials(cache: RunCache, planner: TrialPlanner) -> list[FinishedTrial]:
    """Return the trials whose runs are finished already, oldest first.

    Args:
        cache: the runs that there are.
        planner: of the study.
    """
    found: dict[str, FinishedTrial] = {}
    for group in reversed(replicates(cache.runs)):
        complete = next((run for run in group.counted if run.state in COMPLETE), None)
        settings = None if complete is None else _searched_settings(complete, planner.space)
        parameters = None if settings is None else planner.space.parameters(settings)
        if parameters is None:
            continue
        try:
            # Whatever else the run may be, it must be just what the study would train.
            signatures = [run.planned.signature for run in planner.plan(parameters)]
        except ConfigError:
            continue
        runs = [run for signature in signatures if (run := cache.complete(signature)) is not None]
        values = [[goal.value(run) for run in runs] for goal in planner.objectives]
        known = [[value for value in column if value is not None] for column in values]
        if all(len(column) == len(signatures) for column in known):
            directories = [os.path.abspath(run.directory) for run in runs]
            trial = FinishedTrial(parameters, [*map(fmean, known)], directories, signatures[0])
            found.setdefault(signatures[0], trial)
    return list(found.values())


def _searched_settings(run: LoadedRun, space: SearchSpace) -> dict[str, Any] | None:
    """Return the values that a run has of the searched keys; None if it hasn't all of them."""
    known = {**dict(flatten(run.record.config)), **run.choices}
    names = {key: key.lstrip("+") for key in space.distributions}
    if not all(name in known for name in names.values()):
        return None
    return {key: known[name] for key, name in names.items()}
