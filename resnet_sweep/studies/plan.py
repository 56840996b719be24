"""The plans of a study and of its trials. A study is validated before anything is written."""

import os
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

from annotated_types import Gt, Le
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from resnet_sweep.compare.format import pluralize, safe_text
from resnet_sweep.compare.group import COMPLETE, group_replicates
from resnet_sweep.compare.loaded_run import LoadedRun, load_run
from resnet_sweep.compare.objective import Direction, Objective, check_directions
from resnet_sweep.config.check import AUTO_SETTINGS, check_names, check_value
from resnet_sweep.config.check import SETTINGS as CONFIG_SETTINGS
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
from resnet_sweep.ranges import Count, Probability
from resnet_sweep.runs.provenance import write_hydra_folder
from resnet_sweep.runs.record import PENDING, Record, duration
from resnet_sweep.runs.run import copy_results, reused_record, write_plan
from resnet_sweep.runs.signature import flatten, signed_settings
from resnet_sweep.studies.promotion import promoted_share
from resnet_sweep.studies.search_space import (
    Parameters,
    SearchSpace,
    TrialSampler,
    build_pruner,
)
from resnet_sweep.studies.trial_queue import SIGNATURE
from resnet_sweep.sweeps.grid import preset_overrides
from resnet_sweep.sweeps.plan import (
    SWEEP_KEYS,
    invalid_jobs,
    override_key,
    sweep_settings,
    with_seed,
)
from resnet_sweep.sweeps.run_cache import RunCache

# The types of the settings in `hydra.sweeper`; see conf/hydra/sweeper/optuna.yaml.
SETTINGS = {
    "sampler": dict,
    "pruner": dict | None,
    "direction": Direction | list[Direction],
    "storage": str | None,
    "study_name": str | None,
    "n_trials": Count,
    "n_jobs": Count,
    "promote": bool,
    # A longer time can't be given to a timer of Python.
    "timeout": Annotated[float, Gt(0), Le(10**9)] | None,
    "max_stagnation_trials": Count | None,
    "confirm": Count | None,
    "confirm_replicates": Count,
    "max_failures": Count | None,
    "max_failure_rate": Probability | None,
    "max_worker_crashes": Count | None,
    "enqueue": Literal["current_config"] | list | None,
    "warm_start": bool,
    "params": dict | None,
}
# Maps the settings that only a grid uses to the values that a study accepts.
GRID_SETTINGS: dict[str, Any] = {
    "sweep_filter": None,
    "zip": [],
    "baseline": None,
    "retry_failed": True,
    **AUTO_SETTINGS,
}
# The default name of a study.
NAME = "resnet_sweep"
# The directory of the confirmation in the sweep directory.
CONFIRMATION = "confirmation"
SUBDIRECTORIES = ("${hydra.job.num}", "${hydra:job.num}", "${hydra.job.id}")


@dataclass(frozen=True)
class TrialRun:
    """A planned run of a trial; the runs of a trial differ only in the seed.

    Attributes:
        directory: the run directory, as an absolute path.
        record: the record of the run, in state `pending`.
        hydra: the `hydra` node of the run's config.
    """

    planned: PlannedRun
    directory: Path
    record: Record
    hydra: Mapping[str, Any]

    def write(self) -> None:
        """Write the plan of the run to its directory; see `write_plan`."""
        write_plan(self.directory, self.record)
        record = self.record
        write_hydra_folder(self.directory, record.config, self.hydra, record.overrides)

    def write_or_reuse(self, cache: RunCache | None) -> None:
        """Write the results of a complete run with the same signature, or else the plan of the run.

        Args:
            cache: the runs that can be reused. A run that has started isn't replaced.
        """
        found = None
        # A process that is killed while it copies a reused run leaves a pending run.
        is_new = not (self.directory / "run.json").exists()
        if cache is not None and (is_new or load_run(self.directory, "").state == PENDING):
            found = cache.find_complete(self.planned.signature)
        if found is None:
            self.write()
        else:
            self.reuse(found)

    def reuse(self, found: LoadedRun) -> None:
        """Write the results of a complete run to the directory; see `copy_results`."""
        self.write()
        record = reused_record(self.record, found.record, found.directory)
        copy_results(found.directory, self.directory, record)


class StudyPlan:
    """A validated study. It plans its trials.

    Args:
        loader: the loader of configs that Hydra passes to the sweeper.
        config: the config of the whole study.
        elsewhere: whether other machines may train the trials.

    Attributes:
        settings: the settings of the sweeper.
        sweep_settings: settings of the whole sweep, for example `replicates`.
        n_trials: number of trials to sample.
        max_failures: number of failed trials that ends the study; None for no limit.
        corners: planned runs, one for every corner of the search space.
        enqueued: the parameters of the first trials.
        fingerprint: the settings that must be the same when the study is resumed.

    Raises:
        ConfigError: the study is invalid; nothing was written.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, elsewhere: bool = False) -> None:
        self.loader, self.config, self.elsewhere = loader, config, elsewhere
        self.settings = settings = _sweeper_settings(config)
        self.name: str = settings["study_name"] or NAME
        self.sweep_settings = sweep_settings(config)
        _check_settings(config, self.sweep_settings)
        self.replicates: int = self.sweep_settings["replicates"]
        self.space = SearchSpace(
            [*preset_overrides(settings["params"]), *read_overrides(config.hydra)]
        )
        self.objectives = Objective.all_from_config(
            self.sweep_settings | {name: resolve(config, name) for name in ("metric", "trainer")}
        )
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
        self.promotes: bool = settings["promote"]
        if self.promotes and isinstance(self.pruner, NopPruner):
            raise ConfigError(
                "hydra.sweeper.promote=true continues pruned trials, but this study prunes none: "
                "leave it out, or choose a pruner and one objective"
            )
        if settings["max_stagnation_trials"] is not None and len(self.objectives) > 1:
            raise ConfigError(
                f"hydra.sweeper.max_stagnation_trials needs one objective, but there are "
                f"{len(self.objectives)}: leave it out, or use one objective"
            )
        if settings["confirm"] is not None:
            self._check_confirmation()
        self.enqueued = self._enqueued()
        self.fingerprint = self._fingerprint()

    def describe(self) -> str:
        """Return a few lines that describe the search, for a dry run."""
        settings = self.settings
        sampler = str(settings["sampler"].get("_target_", "")).rpartition(".")[2]
        pruner = type(self.pruner).__name__.removesuffix("Pruner")
        goals = zip(self.objectives, self.directions, strict=True)
        lines = [f"{pluralize(self.n_trials, 'trial')}, sampled by {sampler}, pruned by {pruner}"]
        lines += [f"  {objective.name}: {direction}" for objective, direction in goals]
        lines += [f"  {safe_text(key)}: {text}" for key, text in self.space.descriptions().items()]
        lines.append(f"  {pluralize(len(self.corners), 'corner')} of the search space checked")
        if self.promotes:
            share = 100 * promoted_share(settings["pruner"])
            lines.append(
                f"  promoted: pruned trials among the best {share:.3g}% at their last epoch"
            )
        if settings["max_stagnation_trials"] is not None:
            lines.append(
                "  search ends without an improvement in "
                + pluralize(settings["max_stagnation_trials"], "trial")
            )
        if settings["timeout"] is not None:
            lines.append(f"  search ends after {duration(settings['timeout'])}")
        if settings["confirm"] is not None:
            configs = f"the best {pluralize(settings['confirm'], 'trial')} and the current config"
            seeds = pluralize(settings["confirm_replicates"], "new seed")
            lines.append(f"  confirmed: {configs}, with {seeds}")
        lines += [f"  enqueued: {_format_parameters(parameters)}" for parameters in self.enqueued]
        return "\n".join(lines)

    def plan_trial(self, parameters: Parameters, number: int = 0) -> list[TrialRun]:
        """Plan the runs of a trial, one for every replicate.

        Raises:
            ConfigError: the runs can't be trained.
        """
        return self._plan_runs(self.space.overrides(parameters), number)

    def plan_confirmation(self, parameters: Parameters | None, name: str) -> list[TrialRun]:
        """Plan the runs that train a config again, with seeds that no trial has.

        Args:
            parameters: the parameters of a trial; None for the config without the search.
            name: the name of their directory in `confirmation/`.

        Raises:
            ConfigError: the runs can't be trained.
        """
        overrides = list(self.space.fixed.values())
        if parameters is not None:
            overrides = self.space.overrides(parameters)
        count: int = self.settings["confirm_replicates"]
        seeds = range(self.replicates, self.replicates + count)
        return self._plan_runs(overrides, 0, f"{CONFIRMATION}/{name}", seeds)

    def _plan_runs(
        self,
        overrides: list[str],
        number: int,
        subdirectory: str | None = None,
        replicates: range | None = None,
    ) -> list[TrialRun]:
        """Plan the runs of a config.

        Args:
            overrides: the overrides of the config.
            number: the number of the trial.
            subdirectory: the directory of the runs, in the sweep directory; None for `number`.
            replicates: numbers to add to the seed; None for those of a trial.
        """
        try:
            with composed_job(self.loader, self.config, overrides) as config:
                config.hydra.job.num, config.hydra.job.id = number, str(number)
                typed = [
                    text
                    for text in read_overrides(config.hydra)
                    if override_key(text) not in SWEEP_KEYS
                ]
                seed = resolve(config, "seed")
                check_value("seed", seed, CONFIG_SETTINGS["seed"])
                top = str(number) if subdirectory is None else subdirectory
                several = self.replicates > 1 or replicates is not None
                return [
                    self._plan_run(config, typed, top, seed + replicate, several)
                    for replicate in replicates or range(self.replicates)
                ]
        except COMPOSITION_ERRORS as error:
            raise ConfigError(format_error(error, overrides)) from error

    def _plan_run(
        self,
        config: DictConfig,
        overrides: list[str],
        subdirectory: str,
        seed: int,
        several: bool,
    ) -> TrialRun:
        if several:
            overrides = with_seed(overrides, seed)
            subdirectory = f"{subdirectory}/{seed}"
        config.seed = seed
        config.hydra.overrides.task = overrides
        # A worker composes the config without the flags of the command, but it records the flags.
        composed = replace(
            ComposedConfig.of(config, config.hydra), hydra_flags=read_hydra_flags(self.config.hydra)
        )
        sweep = os.path.abspath(self.config.hydra.sweep.dir)
        planned = plan_run(
            composed.settings,
            smoke_tests=self.smoke_tests,
            directory=Path(sweep),
            elsewhere=self.elsewhere,
        )
        if not planned.settings.resume:
            raise ConfigError(
                "trainer.resume=false would restart a trial whenever a worker resumes it: leave it "
                "out, or start a new study with another hydra.sweep.dir"
            )
        directory = Path(sweep, subdirectory)
        hydra = unresolved(config.hydra)
        # These values are resolved in this process, because another process may read the file.
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
                wrong.setdefault(str(error), []).append(_format_parameters(parameters))
        if wrong:
            count = len(corners) + sum(map(len, wrong.values()))
            raise invalid_jobs(wrong, count, "corners of the search space")
        return corners

    def _check_confirmation(self) -> None:
        """Raise ConfigError if the study can't be confirmed."""
        if len(self.objectives) > 1:
            raise ConfigError(
                f"hydra.sweeper.confirm needs one objective, but there are {len(self.objectives)}: "
                "leave it out, or use one objective"
            )
        try:
            self.plan_confirmation(None, "current")
        except ConfigError as error:
            raise ConfigError(
                f"hydra.sweeper.confirm trains the config without the search, which is invalid "
                f"({error}): correct it, or leave hydra.sweeper.confirm out"
            ) from error

    def _parameters_of(self, settings: Mapping[str, Any], choices: Mapping[str, str]) -> Parameters:
        """Return the parameters in a config; raises as `SearchSpace.parameters` does."""
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
                "hydra.sweeper.enqueue sets the first trials, but hydra/sweeper/sampler=grid tries "
                "every point anyway: leave it out, or choose another sampler"
            )
        keys = self.space.distributions.keys()
        try:
            if asked == "current_config":
                fixed = list(self.space.fixed.values())
                with composed_job(self.loader, self.config, fixed) as config:
                    composed = ComposedConfig.of(config, config.hydra)
                return [self._parameters_of(composed.settings, composed.choices)]
            for values in asked:
                if not isinstance(values, Mapping) or values.keys() != keys:
                    raise ConfigError(
                        f"{safe_text(values)} must have exactly one value for every searched key "
                        f"({', '.join(keys)})"
                    )
            return [self.space.parameters(values) for values in asked]
        except ConfigError as error:
            raise ConfigError(
                f"hydra.sweeper.enqueue is invalid ({error}): correct it, or leave it out"
            ) from error

    def _fingerprint(self) -> dict[str, Any]:
        record = self.corners[0].record
        # Each corner may use other code of the user. The data may be searched, too, so the first
        # corner takes precedence.
        inputs = dict(ChainMap(*(corner.record.inputs for corner in self.corners)))
        settings = signed_settings(record.config, record.precision, inputs)
        searched = self.space.descriptions().items()
        return {
            **settings,
            **{key.lstrip("+"): f"searched ({text})" for key, text in searched},
            "objective": [objective.name for objective in self.objectives],
            "reference": self.sweep_settings["reference"],
            "replicates": self.replicates,
        }

    def finished_trials(self) -> list[tuple[FrozenTrial, list[LoadedRun]]]:
        """Return trials for a warm start, oldest first, each with its complete runs."""
        cache = RunCache.default()
        found: dict[str, tuple[FrozenTrial, list[LoadedRun]]] = {}
        for group in reversed(group_replicates(cache.runs)):
            complete = next((run for run in group.counted if run.state in COMPLETE), None)
            if complete is None:
                continue
            try:
                parameters = self._parameters_of(complete.record.config, complete.choices)
                # The run counts only if the study would train a run with the same signature.
                signatures = [run.planned.signature for run in self.plan_trial(parameters)]
            except ConfigError:
                continue
            runs = [run for name in signatures if (run := cache.find_complete(name)) is not None]
            values = [[goal.value(run) for run in runs] for goal in self.objectives]
            known = [[value for value in column if value is not None] for column in values]
            if any(len(column) < len(signatures) for column in known):
                continue
            trial = create_trial(
                state=TrialState.COMPLETE,
                values=[*map(fmean, known)],
                params=dict(parameters),
                distributions=self.space.distributions,
                user_attrs={SIGNATURE: signatures[0]},
            )
            found.setdefault(signatures[0], (trial, runs))
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
    """Raise ConfigError for settings that a study can't have."""
    pattern = unresolved(config.hydra.sweep)["subdir"]
    if pattern not in SUBDIRECTORIES:
        raise ConfigError(
            f"hydra.sweep.subdir={pattern} isn't possible in a study, because directories are "
            "named by trial number: leave it out"
        )
    if whole["replicates"] == "auto":
        raise ConfigError(
            "replicates=auto compares the variants of a grid, but this is a study: set replicates "
            "to a number, or use hydra/sweeper=grid"
        )
    for name, neutral in GRID_SETTINGS.items():
        if whole[name] != neutral:
            raise ConfigError(
                f"{name}={safe_text(whole[name])} only applies to a grid, but this is a study: "
                "leave it out, or use hydra/sweeper=grid"
            )


def _format_parameters(parameters: Parameters) -> str:
    return " ".join(f"{key}={value}" for key, value in parameters.items())
