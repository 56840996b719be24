"""A study that is asked for, validated before anything is written, and its planned trials."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, TrialState, create_trial

from resnet_sweep.compare.format import shown
from resnet_sweep.compare.group import COMPLETE, replicates
from resnet_sweep.compare.objective import Direction, Objective, check_directions
from resnet_sweep.config.check import SETTINGS as CONFIG_SETTINGS
from resnet_sweep.config.check import check_names, check_value
from resnet_sweep.config.compose import (
    ComposedConfig,
    composed_job,
    read_hydra_flags,
    read_overrides,
    resolve,
    unresolved,
)
from resnet_sweep.config.errors import COMPOSITION_ERRORS, format_error
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.errors import ConfigError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import write_plan
from resnet_sweep.runs.signature import flatten, signed_settings
from resnet_sweep.studies.search_space import (
    Parameters,
    SearchSpace,
    TrialSampler,
    build_pruner,
)
from resnet_sweep.studies.trial_queue import FOUND, SIGNATURE
from resnet_sweep.sweeps.grid import preset_overrides
from resnet_sweep.sweeps.plan import (
    SWEEP_KEYS,
    invalid_jobs,
    override_key,
    sweep_settings,
    with_seed,
)
from resnet_sweep.sweeps.run_cache import RunCache

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


@dataclass(frozen=True)
class TrialRun:
    """A planned run of a trial, which differs from the trial's others in the seed alone.

    Attributes:
        directory: absolute.
        record: in state `pending`.
        hydra: Hydra's own part of its config.
    """

    planned: PlannedRun
    directory: Path
    record: Record
    hydra: Mapping[str, Any]

    def write(self) -> None:
        """Write the directory of the run, unless it is there; raises as `write_plan` does."""
        write_plan(self.directory, self.record)
        record = self.record
        write_hydra_folder(self.directory, record.config, self.hydra, record.overrides)


class StudyPlan:
    """A study, validated in all that can be known before a trial starts; it plans the trials.

    Args:
        loader: Hydra's.
        config: of the study as a whole.

    Attributes:
        settings: of the sweeper.
        whole: settings of the sweep as a whole, such as `replicates`.
        n_trials: how many trials are to be sampled.
        max_failures: after how many failed trials the study ends; None for any number.
        corners: a planned run at each corner of the space.
        enqueued: the parameters that are tried first.
        fingerprint: the settings that mustn't change while the study is resumed.

    Raises:
        ConfigError: something is wrong; nothing was written.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self.loader, self.config = loader, config
        self.settings = settings = _sweeper_settings(config)
        self.name: str = settings["study_name"] or NAME
        self.sweep_settings = sweep_settings(config)
        _check_settings(config, self.sweep_settings)
        self.replicates: int = self.sweep_settings["replicates"]
        self.space = SearchSpace(
            [*preset_overrides(settings["params"]), *read_overrides(config.hydra)]
        )
        self.objectives = Objective.all_of(self.sweep_settings)
        self.directions = check_directions(self.objectives, settings["direction"])
        self.sampler = TrialSampler(settings["sampler"], self.space, self.directions)
        count: int = settings["n_trials"]
        self.n_trials = min(count, self.sampler.size or count)
        rate: float | None = settings["max_failure_rate"]
        limits = [settings["max_failures"], None if rate is None else int(rate * count) + 1]
        self.max_failures = min((limit for limit in limits if limit is not None), default=None)
        self.smoke_tests = SmokeTests()
        self.corners = self._plan_corners()
        epochs = max(corner.record.epochs for corner in self.corners) * self.replicates
        self.pruner = build_pruner(settings["pruner"], len(self.objectives), epochs)
        self.enqueued = self._enqueued()
        self.fingerprint = self._fingerprint()

    def describe(self) -> str:
        """Return what would be searched, in some lines."""
        sampler = str(self.settings["sampler"].get("_target_", "")).rpartition(".")[2]
        pruner = type(self.pruner).__name__.removesuffix("Pruner")
        goals = zip(self.objectives, self.directions, strict=True)
        lines = [f"{self.n_trials} trials, sampled by {sampler}, pruned by {pruner}"]
        lines += [f"  {objective.name}: {direction}" for objective, direction in goals]
        lines += [f"  {shown(key)}: {text}" for key, text in self.space.descriptions().items()]
        lines.append(f"  {len(self.corners)} corners of this space are valid")
        lines += [f"  first: {_words(parameters)}" for parameters in self.enqueued]
        return "\n".join(lines)

    def plan_trial(self, parameters: Parameters, number: int = 0) -> list[TrialRun]:
        """Plan the runs of a trial, one for each replicate.

        Raises:
            ConfigError: they can't be trained.
        """
        overrides = self.space.overrides(parameters)
        try:
            with composed_job(self.loader, self.config, overrides) as config:
                config.hydra.job.num, config.hydra.job.id = number, str(number)
                typed = [
                    word
                    for word in read_overrides(config.hydra)
                    if override_key(word) not in SWEEP_KEYS
                ]
                seed = resolve(config, "seed")
                check_value("seed", seed, CONFIG_SETTINGS["seed"])
                return [
                    self._plan_run(config, typed, str(number), seed + replicate)
                    for replicate in range(self.replicates)
                ]
        except COMPOSITION_ERRORS as error:
            raise ConfigError(format_error(error, overrides)) from error

    def _plan_run(
        self, config: DictConfig, overrides: list[str], subdirectory: str, seed: int
    ) -> TrialRun:
        if self.replicates > 1:
            overrides = with_seed(overrides, seed)
            subdirectory = f"{subdirectory}/{seed}"
        config.seed = seed
        config.hydra.overrides.task = overrides
        # The flags of the command, which a worker composes without.
        composed = replace(
            ComposedConfig.of(config, config.hydra), hydra_flags=read_hydra_flags(self.config.hydra)
        )
        planned = plan_run(composed.settings, smoke_tests=self.smoke_tests)
        if not planned.settings.resume:
            raise ConfigError(
                "trainer.resume=false would train a trial anew whenever a worker resumes it: leave "
                "it out, or start another study with another hydra.sweep.dir"
            )
        sweep = os.path.abspath(self.config.hydra.sweep.dir)
        directory = Path(sweep, subdirectory)
        hydra = unresolved(config.hydra)
        # Resolved here, as the settings are, and not in the process that reads the file.
        hydra["job"] |= {name: resolve(config.hydra.job, name) for name in ("env_set", "chdir")}
        hydra["sweep"] |= {"dir": sweep, "subdir": subdirectory}
        hydra["runtime"]["output_dir"] = str(directory)
        return TrialRun(planned, directory, planned.record(composed), hydra)

    def _plan_corners(self) -> list[TrialRun]:
        corners: list[TrialRun] = []
        wrong: dict[str, list[str]] = {}
        for parameters in self.space.corners():
            try:
                corners.append(self.plan_trial(parameters)[0])
            except ConfigError as error:
                wrong.setdefault(str(error), []).append(_words(parameters))
        if wrong:
            count = len(corners) + sum(map(len, wrong.values()))
            raise invalid_jobs(wrong, count, "corners of the search space")
        return corners

    def _searched(self, settings: Mapping[str, Any], choices: Mapping[str, str]) -> Parameters:
        """Return the parameters that a config has; raises as `SearchSpace.parameters` does."""
        known = {**dict(flatten(settings)), **choices}
        return self.space.parameters(
            {key: known.get(key.lstrip("+")) for key in self.space.distributions}
        )

    def _enqueued(self) -> list[Parameters]:
        asked = self.settings["enqueue"]
        if asked is None:
            return []
        if self.sampler.size is not None:
            raise ConfigError(
                "hydra.sweeper.enqueue says what is tried first, and a grid is tried whole in any "
                "case: leave it out, or choose another hydra/sweeper/sampler"
            )
        keys = self.space.distributions.keys()
        try:
            if asked == "current_config":
                fixed = list(self.space.fixed.values())
                with composed_job(self.loader, self.config, fixed) as config:
                    composed = ComposedConfig.of(config, config.hydra)
                return [self._searched(composed.settings, composed.choices)]
            for values in asked:
                if not isinstance(values, Mapping) or values.keys() != keys:
                    raise ConfigError(
                        f"{shown(values)} hasn't a value of each key that is searched "
                        f"({', '.join(keys)})"
                    )
            return [self.space.parameters(values) for values in asked]
        except ConfigError as error:
            raise ConfigError(
                f"hydra.sweeper.enqueue: {error}: change that, or leave it out"
            ) from error

    def _fingerprint(self) -> dict[str, Any]:
        record = self.corners[0].record
        settings = signed_settings(record.config, record.precision or "", record.fingerprint or "")
        searched = self.space.descriptions().items()
        return {
            **settings,
            **{key.lstrip("+"): f"searched, {text}" for key, text in searched},
            "objective": [objective.name for objective in self.objectives],
            "reference": self.sweep_settings["reference"],
            "replicates": self.replicates,
        }

    def finished_trials(self) -> list[FrozenTrial]:
        """Return the trials whose runs are finished already, oldest first, to begin with."""
        cache = RunCache.default()
        found: dict[str, FrozenTrial] = {}
        for group in reversed(replicates(cache.runs)):
            complete = next((run for run in group.counted if run.state in COMPLETE), None)
            if complete is None:
                continue
            try:
                parameters = self._searched(complete.record.config, complete.choices)
                # Whatever else the run may be, it must be just what the study would train.
                signatures = [run.planned.signature for run in self.plan_trial(parameters)]
            except ConfigError:
                continue
            runs = [run for name in signatures if (run := cache.find_complete(name)) is not None]
            values = [[goal.value(run) for run in runs] for goal in self.objectives]
            known = [[value for value in column if value is not None] for column in values]
            if any(len(column) < len(signatures) for column in known):
                continue
            places = [os.path.abspath(run.directory) for run in runs]
            trial = create_trial(
                state=TrialState.COMPLETE,
                values=[*map(fmean, known)],
                params=dict(parameters),
                distributions=self.space.distributions,
                user_attrs={SIGNATURE: signatures[0], FOUND: places},
            )
            found.setdefault(signatures[0], trial)
        return list(found.values())


def _sweeper_settings(config: DictConfig) -> dict[str, Any]:
    settings: Any = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    given = {name: value for name, value in settings.items() if name != "_target_"}
    check_names("hydra.sweeper.", given, SETTINGS)
    full = {**dict.fromkeys(SETTINGS), **given}
    for name, annotation in SETTINGS.items():
        check_value(f"hydra.sweeper.{name}", full[name], annotation)
    return full


def _check_settings(config: DictConfig, whole: Mapping[str, Any]) -> None:
    """Refuse settings of a grid."""
    pattern = unresolved(config.hydra.sweep)["subdir"]
    if pattern not in SUBDIRECTORIES:
        raise ConfigError(
            f"hydra.sweep.subdir={pattern} isn't possible in a study, whose directories are named "
            "by the numbers of its trials: leave it out"
        )
    for name in ("sweep_filter", "zip", "baseline"):
        if whole[name]:
            raise ConfigError(
                f"{name}={whole[name]} is of a grid's combinations, which a study doesn't have: "
                "leave it out, or use hydra/sweeper=grid"
            )


def _words(parameters: Parameters) -> str:
    return " ".join(f"{key}={value}" for key, value in parameters.items())
