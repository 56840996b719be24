"""The gate that a run must pass before Hydra writes anything."""

import sys
import traceback
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.composition.execute import Prepared, open_run, tell_ended
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.runs.run import Run, claim_directory


class Gate(Callback):
    """Hydra's callback: checks a run and opens its directory, or ends the process.

    Hydra writes into a run directory before it calls the task function, which is too late to
    refuse. From a callback, only SystemExit stops it.
    """

    # The runs that passed, by their directory, for the task function to pick up.
    passed: ClassVar[dict[Path, tuple[Prepared, Run]]] = {}

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a single run."""
        try:
            prepared = prepare(settings_of(config))
            claim_new(config.hydra.run)
            directory = Path(config.hydra.run.dir).absolute()
            run = admit(prepared, directory, config.hydra)
        except RequestError as error:
            refuse(error)
        except Exception:
            traceback.print_exc()
            raise SystemExit(1) from None
        if run.record.ended_for_good:
            tell_ended(run)
            raise SystemExit(int(run.record.state == "diverged"))
        self.passed[directory] = (prepared, run)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Of a sweep, whose jobs are checked when they begin."""
        try:
            claim_new(config.hydra.sweep)
        except RequestError as error:
            refuse(error)


def refuse(error: RequestError) -> None:
    """End the process, since what was asked for can't be done."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2) from error


def settings_of(config: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's own part, resolved.

    Raises:
        RequestError: a value is missing, or an interpolation leads nowhere.
    """
    try:
        plain = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        # An interpolation may lead to Hydra's own part.
        plain._set_parent(config._get_parent())
        settings = OmegaConf.to_container(plain, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise RequestError(f"{str(error).splitlines()[0]}: give it a value") from error
    return settings


def claim_new(destination: DictConfig) -> None:
    """Make a directory that is named by the time, under a name that no other run has.

    Args:
        destination: `hydra.run` or `hydra.sweep`, whose `dir` is set to that name.

    Raises:
        RequestError: it can't be made.
    """
    pattern = OmegaConf.to_container(destination, resolve=False)["dir"]
    # A directory without a time in its name is one that the user gave, to go on there.
    if "${now:" in pattern:
        with read_write(destination):
            destination.dir = str(claim_directory(Path(destination.dir)))


def admit(prepared: Prepared, directory: Path, hydra: DictConfig) -> Run:
    """Open the run directory of a prepared run.

    Raises:
        RequestError: it can't be used for this run; nothing in it was touched.
    """
    choices = {
        group: choice
        for group, choice in hydra.runtime.choices.items()
        if not group.startswith("hydra/") and choice is not None
    }
    return open_run(prepared, directory, list(hydra.overrides.task), choices)
