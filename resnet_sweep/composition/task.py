"""What Hydra calls for each run: carry it out, and return what it is judged by."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_sweep.compare.objective import objective_value
from resnet_sweep.composition import gate
from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.execute import execute, tell_ended
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.training.interruption import Interrupted, exit_status


def task(config: DictConfig) -> float:
    """Carry out one run, or one job of a sweep.

    Returns:
        The value of the run's objective; NaN if the run diverged.

    Raises:
        RequestError: a job of a sweep can't begin.
        RunFailed: an error ended the run.
        SystemExit: the run was stopped from outside, and is saved; or a single run diverged.
    """
    hydra_config = HydraConfig.get()
    sweeping = hydra_config.mode == RunMode.MULTIRUN
    directory = Path(hydra_config.runtime.output_dir)
    admitted = gate.Gate.admitted.pop(directory, None)
    if admitted is None:
        try:
            admitted = gate.admit(prepare(gate.settings_of(config)), directory, hydra_config)
        except RequestError:
            _detach_log()
            raise
        gate.write_hydra(directory, config, hydra_config)
    run = admitted.run
    try:
        if not run.record.ended_for_good:
            execute(admitted.prepared, run, admitted.stop, bar=not sweeping)
        elif not sweeping:
            tell_ended(run)
    except Interrupted as interruption:
        raise SystemExit(exit_status(interruption.signal)) from None
    finally:
        admitted.stop.release()
    if admitted.stop.received and sweeping:
        # It came when this job was done, and is meant for the sweep.
        raise SystemExit(admitted.stop.status)
    if run.record.state == "diverged" and not sweeping:
        raise SystemExit(1)
    return objective_value(run.directory, admitted.prepared.config, STARTED_IN)


def _detach_log() -> None:
    """Keep Hydra from logging the refusal of a directory into that directory."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)
