"""A study that is asked for: found right, and then begun or gone on with."""

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState, create_trial

from resnet_sweep.compare.objective import check_directions
from resnet_sweep.compare.text import shown
from resnet_sweep.composition.check import check_names, check_value
from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.gate import claim_new
from resnet_sweep.console import console
from resnet_sweep.errors import RequestError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.run import make_directory
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.ledger import Ledger
from resnet_sweep.sweeps.study.composer import Composer, epochs_of
from resnet_sweep.sweeps.study.definition import DIRECTORY, SEEDED, define
from resnet_sweep.sweeps.study.opening import open_study
from resnet_sweep.sweeps.study.pruning import build_pruner
from resnet_sweep.sweeps.study.sampling import Sampling
from resnet_sweep.sweeps.study.seeding import finished_runs
from resnet_sweep.sweeps.study.sitting import Sitting
from resnet_sweep.sweeps.study.space import Space
from resnet_sweep.sweeps.study.storage import exclusive, is_shared, open_storage, vacate
from resnet_sweep.sweeps.study.trials import FOUND, PLACE, SIGNATURE, STATE, Trials

Direction = Literal["minimize", "maximize"]
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
    "max_losses": Count | None,
    "custom_search_space": None,
    "enqueue": Literal["recipe"] | list | None,
    "warm_start": bool,
    "params": dict | None,
}
NAME = "resnet_sweep"
SUBDIRECTORIES = ("${hydra.job.num}", "${hydra:job.num}", "${hydra.job.id}")


class StudyRequest:
    """A study that is asked for, found right in all that can be known before a trial begins.

    Args:
        context: of Hydra's.
        config: of the study as a whole.
        settings: of the sweeper.
        words: overrides, those of the command line last.

    Raises:
        RequestError: something is wrong; nothing was written.
    """

    def __init__(
        self,
        context: HydraContext,
        config: DictConfig,
        settings: Mapping[str, Any],
        words: Sequence[str],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.simplefilter("ignore", ExperimentalWarning)
        check_names("hydra.sweeper.", settings, SETTINGS)
        settings = {**dict.fromkeys(SETTINGS), **settings}
        for name, annotation in SETTINGS.items():
            check_value(f"hydra.sweeper.{name}", settings[name], annotation)
        self.context, self.config, self.settings = context, config, settings
        self.space = Space(words)
        self.composer = Composer(context.config_loader, config, self.space)
        pattern = OmegaConf.to_container(config.hydra.sweep, resolve=False)["subdir"]
        if pattern not in SUBDIRECTORIES:
            raise RequestError(
                f"hydra.sweep.subdir={pattern} can't be had in a study, whose directories carry "
                "their trials' numbers: leave it out"
            )
        self.directions = check_directions(self.composer.objectives, settings["direction"])
        self.sampling = Sampling(settings["sampler"], self.space)
        self.sampling.check(self.directions)
        corners = self.corners = self.composer.corners()
        self.first = corners[0]
        epochs = max(epochs_of(each.planned.config) for each in corners)
        epochs *= self.composer.replicates
        self.pruner = build_pruner(settings["pruner"], len(self.directions), epochs)
        self.enqueued = self._enqueued()
        if self.enqueued and self.sampling.size is not None:
            raise RequestError(
                "hydra.sweeper.enqueue says what is tried first, and a grid is tried whole in any "
                "case: leave it out, or choose another hydra/sweeper/sampler"
            )
        self.definition = define(self.composer, self.first)

    def show(self) -> None:
        """Print what would be searched."""
        size = self.sampling.size
        count = self.settings["n_trials"] if size is None else min(size, self.settings["n_trials"])
        lines = [
            f"{count} trials, drawn by {_name(self.settings['sampler'])}, pruned by "
            f"{type(self.pruner).__name__.removesuffix('Pruner')}",
            *(f"  {each.name}: {direction}" for each, direction
              in zip(self.composer.objectives, self.directions, strict=True)),
            *(f"  {line}" for line in self.space.lines()),
            f"  {len(self.corners)} corners of this space are right",
        ]  # fmt: skip
        lines += [
            f"  first: {' '.join(f'{key}={value}' for key, value in each.items())}"
            for each in self.enqueued
        ]
        console.print("\n".join(lines), markup=False)

    def begin(self) -> Sitting:
        """Make the study, or go on with it.

        Raises:
            RequestError: its directory or its storage can't be used, or has another study.
        """
        place, sweep = self.settings["storage"], self.config.hydra.sweep
        directory = Path(os.path.abspath(sweep.dir))
        named = "${now:" not in OmegaConf.to_container(sweep, resolve=False)["dir"]
        if named:
            # Refuses what isn't a sweep's directory.
            Ledger.read(directory)
        name = self.settings["study_name"] or NAME
        history = History([directory, STARTED_IN / "outputs", STARTED_IN / "multirun"])
        history = history if self.composer.whole["reuse"] else None
        storage = None
        if is_shared(place):
            # Before a directory is made for a study that can't be had, or has one already.
            storage = open_storage(place, directory)
            known = {each.study_name: each.user_attrs for each in storage.get_all_studies()}
            home = _home(name, known.get(name, {}), directory if named else None)
            if home is not None:
                directory, named = home, True
        if not named:
            claim_new(sweep)
            directory = Path(os.path.abspath(sweep.dir))
        make_directory(directory)
        with exclusive(directory):
            study = open_study(
                storage or open_storage(place, directory),
                name,
                self.directions,
                self.pruner,
                self.definition,
                directory,
                lambda study: self._fill(study, history),
            )
        if is_shared(place):
            # Another worker may have begun it, elsewhere, since we looked.
            home = _home(name, study.user_attrs, directory if named else None)
            if home not in (None, directory):
                vacate(directory)
                directory = home
        total = (
            self.settings["n_trials"]
            if self.sampling.size is None
            else min(self.sampling.size, self.settings["n_trials"])
        )
        total += study.user_attrs.get(SEEDED, 0)
        trials = Trials(study, directory, total, self.sampling)
        definition = {"study": name, **self.definition}
        return Sitting(
            trials,
            self.composer,
            self.context,
            history,
            self._max_failures(),
            self.settings["max_losses"],
            definition,
        )

    def _max_failures(self) -> int | None:
        rate, most = self.settings["max_failure_rate"], self.settings["max_failures"]
        if rate is None:
            return most
        by_rate = int(rate * self.settings["n_trials"]) + 1
        return by_rate if most is None else min(most, by_rate)

    def _enqueued(self) -> list[dict[str, Any]]:
        """The parameters that are tried first."""
        asked = self.settings["enqueue"]
        if asked is None:
            return []
        found = []
        listed = [asked] if isinstance(asked, str) else asked
        for values in [self.composer.recipe()] if asked == "recipe" else listed:
            if not isinstance(values, Mapping) or values.keys() != self.space.distributions.keys():
                raise RequestError(
                    f"hydra.sweeper.enqueue has {shown(values)}: give each key that is searched "
                    f"({', '.join(self.space.distributions)}) a value, or say recipe"
                )
            parameters = self.space.parameters(values)
            if parameters is None:
                told = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
                raise RequestError(
                    f"hydra.sweeper.enqueue: {told} is outside of the search space: widen that, or "
                    "leave it out"
                )
            found.append(parameters)
        return found

    def _fill(self, study: optuna.Study, history: History | None) -> int:
        """Put the first trials into a new study; returns how many have an outcome already."""
        seeds = []
        if self.settings["warm_start"]:
            history = history or History([STARTED_IN / "outputs", STARTED_IN / "multirun"])
            seeds = finished_runs(history, self.composer, self.definition["settings"])
        for number, seed in enumerate(seeds):
            planned = self.composer.compose(seed.parameters, number)[0].planned
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    values=seed.values,
                    params=dict(seed.parameters),
                    distributions=self.space.distributions,
                    user_attrs={
                        SIGNATURE: planned.signature, STATE: "finished", PLACE: seed.places[0],
                    } | ({FOUND: seed.places[1:]} if len(seed.places) > 1 else {}),
                )
            )  # fmt: skip
        for parameters in self.enqueued:
            study.enqueue_trial(parameters)
        return len(seeds)


def _home(name: str, attributes: Mapping[str, Any], asked: Path | None) -> Path | None:
    """The directory in which a study was begun.

    Args:
        name: of the study.
        attributes: of the study.
        asked: the directory that the command names, if it does.

    Returns:
        None if there is none here: nobody has begun it, or its directory was moved.

    Raises:
        RequestError: it isn't the one that is asked for. Workers of two directories wouldn't see
            each other's checkpoints.
    """
    found = attributes.get(DIRECTORY)
    if not found or not os.path.isdir(found):
        return None
    if asked is not None and not (asked.is_dir() and os.path.samefile(asked, found)):
        raise RequestError(
            f"the study {shown(name)} has its trials in {found}, and not in {asked}: leave "
            "hydra.sweep.dir out, or choose another hydra.sweeper.study_name"
        )
    return Path(found)


def _name(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]
