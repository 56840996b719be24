"""The gate that a run must pass before anything is written for it."""

import contextlib
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.composition import followers
from resnet_sweep.composition.check import COLLECTIONS
from resnet_sweep.composition.complaint import sentence
from resnet_sweep.composition.execute import open_run, tell_ended
from resnet_sweep.composition.hydra_settings import check_hydra
from resnet_sweep.composition.prepare import Prepared, prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.run import Run, claim_directory
from resnet_sweep.training.interruption import StopRequest
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.torchrun import Torchrun


@dataclass(frozen=True)
class Admitted:
    """A run that may begin.

    Attributes:
        prepared: what it trains.
        run: its directory, opened.
        stop: listening for signals since before that.
    """

    prepared: Prepared
    run: Run
    stop: StopRequest


class Gate(Callback):
    """Hydra's callback: admits a run, or ends the process.

    Hydra writes into a run directory before it calls the task function, which is too late to
    refuse. From a callback, only SystemExit stops it.
    """

    # Single runs that were admitted, by their directory, for the task function to pick up.
    admitted: ClassVar[dict[Path, Admitted]] = {}
    # Whether a command has been composed, so that errors from then on may be ours.
    reached: ClassVar[bool] = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a single run."""
        Gate.reached = True
        with Refusing():
            check_hydra(config.hydra)
            check_single(config)
            HydraConfig.instance().set_config(config)
            ranks = Ranks.here()
            prepared = prepare(settings_of(config), ranks)
            if ranks.size > 1:
                followers.call(prepared.config)
            claim_new(config.hydra.run, Torchrun.here())
            directory = Path(os.path.abspath(config.hydra.run.dir))
            admitted = admit(prepared, directory, config.hydra)
        if admitted.run.record.ended_for_good:
            tell_ended(admitted.run)
            raise SystemExit(int(admitted.run.record.state == "diverged"))
        self.admitted[directory] = admitted

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a sweep, whose jobs are its sweeper's."""
        Gate.reached = True
        with Refusing():
            check_hydra(config.hydra)
            if (size := Ranks.here().size) > 1:
                raise RequestError(
                    f"torchrun started {size} processes for a sweep, which they can't share: start "
                    "it without torchrun (hydra/launcher=pool gives each GPU a run), or one of "
                    "its runs with it"
                )
            given = [word for word in words_of(config.hydra, "hydra") if "hydra.run.dir=" in word]
            if given:
                raise RequestError(
                    f"{given[0]} is the directory of a single run, but this is a sweep: name its "
                    "directory with hydra.sweep.dir"
                )


def check_single(config: DictConfig) -> None:
    """See that a single run isn't asked for what only a sweep can do.

    Raises:
        RequestError: it is.
    """
    for name, nothing in (("sweep_mode", "run"), ("sweep_filter", None), ("zip", [])):
        value = setting_of(config, name)
        if value != nothing:
            raise RequestError(
                f"{name}={value} is of a sweep, but this is a single run: add --multirun, or leave "
                "it out"
            )


def is_ours(config: DictConfig) -> bool:
    """Whether a sweep is carried out by a sweeper of this package."""
    return config.hydra.sweeper._target_.startswith("resnet_sweep.")


class Refusing:
    """A context from which an error ends the process, told as what it is: the user's or ours."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (RequestError, HydraException, OmegaConfBaseException)):
            # Whoever was to read it may be gone; any other error here would have the run begin.
            with contextlib.suppress(OSError):
                print(f"error: {sentence(error)}", file=sys.stderr)
            raise SystemExit(2) from error
        if isinstance(error, Exception):
            with contextlib.suppress(OSError):
                traceback.print_exception(error)
            raise SystemExit(1) from error


def compose_job(loader: ConfigLoader, master: DictConfig, words: list[str]) -> DictConfig:
    """The config of a job of a sweep.

    Args:
        loader: composes.
        master: the config of the sweep as a whole.
        words: overrides of the job.

    Raises:
        RequestError, HydraException, OmegaConfBaseException: it can't be composed.
    """
    try:
        return loader.load_sweep_config(master, words)
    except ValueError as error:
        # Hydra's own, of a group that was given something else than a name.
        raise RequestError(sentence(error)) from error


def settings_of(config: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's own part, resolved.

    Raises:
        RequestError: a value is missing, or an interpolation leads nowhere.
    """
    return {str(key): setting_of(config, key) for key in config if key != "hydra"}


def setting_of(config: DictConfig, key: str) -> Any:
    """A setting or a group of a composed config, resolved.

    Raises:
        RequestError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        node = config[key]
        if OmegaConf.is_config(node):
            return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        return node
    except OmegaConfBaseException as error:
        name = getattr(error, "full_key", None) or key
        raise RequestError(
            f"{name} has no value ({str(error).splitlines()[0]}): give it one with {name}=..."
        ) from error


def claim_new(destination: DictConfig, torchrun: Torchrun | None = None) -> None:
    """Make a directory that is named by the time, under a name that no other run has.

    Args:
        destination: `hydra.run` or `hydra.sweep`, whose `dir` is set to that name.
        torchrun: that started this process, and may have a name for its run, or know the directory
            from its processes of before.

    Raises:
        RequestError: it can't be made.
    """
    pattern = OmegaConf.to_container(destination, resolve=False)["dir"]
    # A directory without a time in its name is one that the user gave, to go on there.
    if "${now:" in pattern:
        named = Path(destination.dir)
        directory = (
            torchrun.directory(lambda: claim_directory(named))
            if torchrun
            else claim_directory(named)
        )
        with read_write(destination):
            destination.dir = str(directory)


def admit(prepared: Prepared, directory: Path, hydra: DictConfig) -> Admitted:
    """Open the run directory of a prepared run, and listen for signals from then on.

    Raises:
        RequestError: it can't be used for this run; nothing in it was touched.
    """
    stop = StopRequest(patient=prepared.ranks.size > 1).listen()
    try:
        choices = choices_of(hydra, prepared.config)
        words = words_of(hydra)
        run = open_run(prepared, directory, words, flags_of(hydra), choices)
    except BaseException:
        stop.release()
        raise
    return Admitted(prepared, run, stop)


def words_of(hydra: DictConfig, of: str = "task") -> list[str]:
    """The overrides as they were typed; those of Hydra's own settings if `of` is "hydra".

    To go through the list itself would resolve what a word like `seed=${trainer.epochs}` refers to.
    """
    return OmegaConf.to_container(hydra.overrides[of], resolve=False)


def flags_of(hydra: DictConfig) -> list[str]:
    """Hydra's flags that a command repeats, to have the same configs to compose from."""
    flags = []
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", source.path]
    if hydra.job.config_name != "config":
        flags += ["--config-name", hydra.job.config_name]
    return flags


def choices_of(hydra: DictConfig, config: Mapping[str, Any]) -> dict[str, str]:
    """The choice made in each group; of several at once, all of them, with + between."""
    choices = {
        group: choice
        for group, choice in hydra.runtime.choices.items()
        if not group.startswith("hydra/") and choice is not None
    }
    # Hydra itself doesn't tell of several; a preset may have chosen them, and then only what they
    # describe is known.
    several = {
        group: "+".join(config.get(group) or ()) for group in COLLECTIONS if group not in choices
    }
    for override in words_of(hydra):
        group, _, value = override.partition("=")
        if group in several and value.startswith("[") and value.endswith("]"):
            several[group] = "+".join(choice.strip() for choice in value[1:-1].split(","))
    return choices | several


def write_hydra(directory: Path, config: DictConfig, hydra: DictConfig) -> None:
    """Write `.hydra/` of a job as Hydra does of a single run."""
    folder = directory / ".hydra"
    folder.mkdir(exist_ok=True)
    OmegaConf.save(config, folder / "config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), folder / "hydra.yaml")
    OmegaConf.save(hydra.overrides.task, folder / "overrides.yaml")
