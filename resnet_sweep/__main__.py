"""The command line: `python -m resnet_sweep`, composed by Hydra."""

import math
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

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
    from resnet_sweep.composition.execute import RunFailed, execute, tell_ended
    from resnet_sweep.composition.gate import Gate, admit, settings_of
    from resnet_sweep.composition.prepare import prepare
    from resnet_sweep.training.interruption import Interrupted

    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    if directory in Gate.passed:
        prepared, run = Gate.passed.pop(directory)
    else:
        prepared = prepare(settings_of(config))
        run = admit(prepared, directory, hydra_config)
    if run.record.ended_for_good:
        tell_ended(run)
    else:
        try:
            execute(prepared, run)
        except Interrupted as interruption:
            terminated = interruption.signal.name == "SIGTERM"
            raise SystemExit(STATUS_TERMINATED if terminated else STATUS_INTERRUPTED) from None
        except RunFailed:
            states.append("failed")
            raise
    states.append(run.record.state)
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
    except RequestError as error:
        # Of a job of a sweep; a single run is refused by the gate.
        print(f"error: {error}", file=sys.stderr)
        sys.exit(STATUS_FAILED)
    except Exception as error:
        # A failed run has told what happened.
        if "failed" in states:
            sys.exit(STATUS_FAILED)
        # After the gate, an error is one of this program; before it, one of the command line.
        if "resnet_sweep.composition.gate" in sys.modules:
            raise
        from resnet_sweep.composition.complaint import sentence

        print(f"error: {sentence(error)}", file=sys.stderr)
        sys.exit(STATUS_REFUSED)
    sys.exit(STATUS_FAILED if {"failed", "diverged"} & set(states) else 0)


if __name__ == "__main__":
    main()
