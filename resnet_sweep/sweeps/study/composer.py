"""From the parameters of a trial to the runs that it consists of."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.compare.objective import Objective
from resnet_sweep.composition.check import SETTINGS, check_value
from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.complaint import sentence
from resnet_sweep.composition.gate import (
    choices_of,
    compose_job,
    flags_of,
    setting_of,
    settings_of,
    words_of,
)
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.record import Record
from resnet_sweep.sweeps.job import WAITING
from resnet_sweep.sweeps.plan import MOST_TOLD, WHOLE
from resnet_sweep.sweeps.study.space import Parameters, Space

# Words that a run's own command leaves out.
_OF_STUDY = {"sweep", *WHOLE} - {"objective", "reference"}


@dataclass(frozen=True)
class Replicate:
    """A run of a trial, which differs from the trial's others in the seed only.

    Attributes:
        config: with `hydra`, to be carried out.
        planned: the record of the run as it is asked for.
        place: of its directory, in the sweep's.
    """

    config: DictConfig
    planned: Record
    place: Path


class Composer:
    """Composes the runs of trials, and finds them right.

    Args:
        loader: composes.
        master: the config of the study as a whole.
        space: what is searched.

    Attributes:
        whole: the settings of the study as a whole.
        objectives: what trials are judged by.

    Raises:
        RequestError: a setting of the study is wrong.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig, space: Space) -> None:
        self.loader, self.master, self.space = loader, master, space
        self.whole = {name: setting_of(master, name) for name in WHOLE}
        for name, value in self.whole.items():
            check_value(name, value, SETTINGS[name])
        for name in ("sweep_filter", "zip", "baseline"):
            if self.whole[name]:
                raise RequestError(
                    f"{name}={self.whole[name]} is of a grid's combinations, which a study hasn't: "
                    "leave it out, or use hydra/sweeper=grid"
                )
        self.objectives = Objective.all_of(self.whole, STARTED_IN)

    @property
    def replicates(self) -> int:
        """How many runs a trial consists of."""
        return self.whole["replicates"]

    def compose(self, parameters: Parameters, number: int = 0) -> list[Replicate]:
        """The runs of a trial.

        Args:
            parameters: of the trial.
            number: of the trial.

        Raises:
            RequestError: they can't be carried out; with the words that are wrong, if they are
                those of the trial.
        """
        words = self.space.words(parameters)
        outer = HydraConfig.instance().cfg
        try:
            config = compose_job(self.loader, self.master, words)
            seed = setting_of(config, "seed")
            check_value("seed", seed, SETTINGS["seed"])
            return [
                self._replicate(deepcopy(config), number, seed + each)
                for each in range(self.replicates)
            ]
        except (RequestError, HydraException, OmegaConfBaseException) as error:
            raise RequestError(sentence(error)) from error
        finally:
            HydraConfig.instance().cfg = outer

    def corners(self) -> list[Replicate]:
        """A run at each corner of the space.

        Raises:
            RequestError: some can't be carried out, all of which are named.
        """
        found: list[Replicate] = []
        wrong: dict[str, list[str]] = {}
        for parameters in self.space.corners():
            try:
                found.append(self.compose(parameters)[0])
            except RequestError as error:
                words = " ".join(f"{key}={value}" for key, value in parameters.items())
                wrong.setdefault(str(error), []).append(words)
        if not wrong:
            return found
        if not found and len(wrong) == 1:
            # What is wrong with all needn't be told of each.
            raise RequestError(next(iter(wrong)))
        count = sum(map(len, wrong.values()))
        lines = [
            f"{count} of {count + len(found)} corners of the search space are wrong, so nothing "
            "was started:"
        ]
        for reason, words in wrong.items():
            lines += [f"  {word}" for word in words[:MOST_TOLD]]
            if len(words) > MOST_TOLD:
                lines.append(f"  and {len(words) - MOST_TOLD} more")
            lines.append(f"    {reason}")
        raise RequestError("\n".join(lines))

    def recipe(self) -> Mapping[str, Any]:
        """The values of the keys that are searched, as they are without the search.

        Raises:
            RequestError: one has none.
        """
        config = compose_job(self.loader, self.master, list(self.space.fixed.values()))
        settings, found = settings_of(config), {}
        choices = choices_of(config.hydra, settings)
        for key in self.space.distributions:
            value: Any = settings
            for part in key.lstrip("+").split("."):
                value = value.get(part) if isinstance(value, Mapping) else None
            found[key] = choices.get(key, value)
        return found

    def _replicate(self, config: DictConfig, number: int, seed: int) -> Replicate:
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, False)
        OmegaConf.set_struct(config, False)
        hydra = config.hydra
        words = [word for word in words_of(hydra) if word.partition("=")[0] not in _OF_STUDY]
        place = Path(str(number))
        if self.replicates > 1:
            words = [*(word for word in words if word.partition("=")[0] != "seed"), f"seed={seed}"]
            place /= str(seed)
        config.seed = seed
        settings = settings_of(config)
        prepared = prepare(settings)
        if not prepared.settings.resume:
            raise RequestError(
                "trainer.resume=false would have a trial begin anew whenever a worker goes on with "
                "it: leave it out, or begin another study with another hydra.sweep.dir"
            )
        planned = Record(
            signature=prepared.signature,
            state=WAITING,
            config=settings,
            choices=choices_of(hydra, settings),
            overrides=words,
            flags=flags_of(hydra),
            parameters=prepared.parameters,
            precision=prepared.precision,
            device=str(prepared.device),
            seed=seed,
            fingerprint=prepared.dataset.fingerprint,
        )
        for name, value in settings.items():
            config[name] = value
        hydra.overrides.task = words
        hydra.job.num, hydra.job.id = number, str(number)
        hydra.sweep.subdir = str(place)
        # Written by the run itself, once its directory is found right.
        hydra.output_subdir = None
        # On screen is the study.
        hydra.job_logging.root.handlers = ["file"]
        return Replicate(config, planned, place)


def epochs_of(config: Mapping[str, Any]) -> int:
    """How many epochs a run has at the most."""
    trainer = config["trainer"]
    last = (trainer.get("early_stopping") or {}).get("epoch")
    return trainer["epochs"] if last is None else min(trainer["epochs"], last)
