"""The command line: `python -m resnet_sweep`, composed by Hydra."""

import logging
import math
import os
import signal
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.composition.targets import execution_whitelist
from resnet_sweep.errors import RequestError

STATUS_FAILED, STATUS_REFUSED, STATUS_TERMINATED, STATUS_INTERRUPTED = 1, 2, 75, 130

# States of the runs that this process carried out.
states: list[str] = []


@hydra.main(
    config_path="pkg://resnet_sweep.conf",
    config_name="config",
    execution_whitelist=execution_whitelist(),
)
def task(config: DictConfig) -> float:
    """Carry out one run, or one job of a sweep.

    Returns:
        The best validation accuracy in percent; NaN if the run diverged.
    """
    # Imported here because torch takes seconds that --cfg and --help needn't wait.
    from resnet_sweep.composition import gate
    from resnet_sweep.composition.execute import RunFailed, execute, tell_ended
    from resnet_sweep.composition.prepare import prepare
    from resnet_sweep.training.interruption import Interrupted

    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    admitted = gate.Gate.admitted.pop(directory, None)
    if admitted is None:
        try:
            admitted = gate.admit(prepare(gate.settings_of(config)), directory, hydra_config)
        except RequestError:
            states.append("refused")
            _detach_log()
            raise
        gate.write_hydra(directory, config, hydra_config)
    run = admitted.run
    try:
        if run.record.ended_for_good:
            tell_ended(run)
        else:
            execute(admitted.prepared, run, admitted.stop)
    except Interrupted as interruption:
        raise SystemExit(_status(interruption.signal)) from None
    except RunFailed:
        states.append("failed")
        raise
    finally:
        admitted.stop.release()
    states.append(run.record.state)
    if admitted.stop.received and hydra_config.mode == RunMode.MULTIRUN:
        # It came when this job was done, and is meant for the sweep.
        raise SystemExit(_status(admitted.stop.received))
    if run.record.state == "diverged" or run.record.best is None:
        return math.nan
    return run.record.best["val_acc"]


def main() -> None:
    """Run the command line, and exit with its status."""
    # With this, Hydra hands over its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        task()
    except KeyboardInterrupt:
        sys.exit(STATUS_INTERRUPTED)
    except Exception as error:
        # A failed run has told what happened.
        if "failed" not in states:
            begun = _give_up(error)
            _tell(error, begun)
            sys.exit(STATUS_FAILED if states or begun else STATUS_REFUSED)
    sys.exit(STATUS_FAILED if {"failed", "refused", "diverged"} & set(states) else 0)


def _give_up(error: Exception) -> bool:
    """Close the run that was admitted, but that Hydra didn't get to; whether there was one."""
    gate = sys.modules.get("resnet_sweep.composition.gate")
    waiting = dict(gate.Gate.admitted) if gate else {}
    for admitted in waiting.values():
        admitted.run.close("failed", f"{type(error).__name__}: {error}")
    return bool(waiting)


def _tell(error: Exception, begun: bool) -> None:
    """Print an error of the command line; one of this program goes on its way."""
    # Between the admission of a run and its task, Hydra is at work alone.
    theirs = begun or isinstance(error, (HydraException, OmegaConfBaseException, RequestError))
    # Composing hasn't got far enough for an error of ours until the gate is imported.
    if not theirs and "resnet_sweep.composition.gate" in sys.modules:
        raise error
    from resnet_sweep.composition.complaint import sentence

    print(f"error: {sentence(error)}", file=sys.stderr)
    if isinstance(error, InstantiationException):
        # Something isn't installed as it should be.
        sys.exit(STATUS_FAILED)


def _status(number: int) -> int:
    """The exit status of a process that a signal stopped."""
    return STATUS_INTERRUPTED if number == signal.SIGINT else STATUS_TERMINATED


def _detach_log() -> None:
    """Keep Hydra from logging the refusal of a directory into that directory."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler, logging.FileHandler):
            root.removeHandler(handler)


if __name__ == "__main__":
    main()
