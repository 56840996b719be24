"""What Hydra calls for each run: carry it out, and return what it is judged by."""

import logging
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from statistics import fmean

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.compare.objective import objective_value
from resnet_sweep.composition import gate
from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.execute import execute, tell_ended
from resnet_sweep.composition.prepare import prepare
from resnet_sweep.errors import RequestError
from resnet_sweep.training.interruption import Interrupted, exit_status
from resnet_sweep.training.monitor import Monitor

# Words that the run of one replicate doesn't repeat.
_OF_JOB = ("seed", "replicates")


def task(config: DictConfig, others: Sequence[Monitor] = ()) -> float | list[float]:
    """Carry out one run, or one job of a sweep.

    Under a sweeper that isn't ours, a job trains all its replicates, each in a directory of its own
    inside of the job's: a search with Optuna then has their mean to go by.

    Args:
        config: without Hydra's own part.
        others: monitors beside the usual ones.

    Returns:
        The value of the run's objective, or a list of several; NaN if the run diverged. Of
        replicates, the mean.

    Raises:
        RequestError: a job of a sweep can't begin.
        RunFailed: an error ended the run.
        SystemExit: the run was stopped from outside, and is saved; or a single run diverged.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    sweeping = hydra.mode == RunMode.MULTIRUN
    theirs = sweeping and not gate.is_ours(HydraConfig.instance().cfg)
    if not theirs or gate.setting_of(config, "replicates") == 1:
        return _train(config, hydra, directory, others)
    values = []
    for seed in range(config.seed, config.seed + config.replicates):
        one, its = deepcopy(config), deepcopy(hydra)
        one.seed, one.replicates = seed, 1
        OmegaConf.set_readonly(its, False)
        words = [word for word in gate.words_of(its) if word.partition("=")[0] not in _OF_JOB]
        its.overrides.task = [*words, f"seed={seed}"]
        values.append(_train(one, its, directory / str(seed), others))
    if isinstance(values[0], list):
        return [fmean(each) for each in zip(*values, strict=True)]
    return fmean(values)


def _train(
    config: DictConfig, hydra: DictConfig, directory: Path, others: Sequence[Monitor]
) -> float | list[float]:
    """Carry out a run in its directory; as `task` does it."""
    sweeping = hydra.mode == RunMode.MULTIRUN
    admitted = gate.Gate.admitted.pop(directory, None)
    if admitted is None:
        try:
            admitted = gate.admit(prepare(gate.settings_of(config)), directory, hydra)
        except RequestError:
            _detach_log()
            raise
        gate.write_hydra(directory, config, hydra)
    run = admitted.run
    try:
        if not run.record.ended_for_good:
            execute(admitted.prepared, run, admitted.stop, bar=not sweeping, others=others)
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
