"""The command line: `python -m resnet_sweep`, composed by Hydra."""

import os
import re
import sys
from collections.abc import Sequence

import hydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.composition.targets import execution_whitelist
from resnet_sweep.errors import RequestError, RunFailed
from resnet_sweep.sweeps.grid import GridSweeper
from resnet_sweep.sweeps.pool import PoolLauncher
from resnet_sweep.sweeps.study.sweeper import StudySweeper

FAILED, REFUSED, INTERRUPTED = 1, 2, 130


@hydra.main(
    config_path="pkg://resnet_sweep.conf",
    config_name="config",
    execution_whitelist=execution_whitelist(),
)
def entry(config: DictConfig) -> float:
    """Carry out one run, or one job of a sweep; see `task`."""
    # Imported here because torch takes seconds that --cfg and --help needn't wait.
    from resnet_sweep.composition.task import task

    return task(config)


def main() -> None:
    """Run the command line, and exit with its status."""
    # With this, Hydra hands over its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for plugin in (GridSweeper, StudySweeper, PoolLauncher):
        Plugins.instance().register(plugin)
    sys.argv[1:] = as_multirun(sys.argv[1:])
    try:
        entry()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RunFailed:
        # It has told what happened.
        sys.exit(FAILED)
    except Exception as error:
        sys.exit(_tell(error))


def as_multirun(words: Sequence[str]) -> list[str]:
    """The words of a command with --multirun, if they ask for several runs.

    A preset can't choose the sweeper, so those for a search have names that say it.
    """
    several = re.compile(r"sweep=(?!null$)|replicates=0*([2-9]|[1-9]\d+)$")
    asked = any(map(several.match, words))
    # Hydra's flags ask for something else, unless they say where configs are.
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    others = flags - {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"}
    if others or not asked:
        return list(words)
    search = any(word.startswith("sweep=optuna_") for word in words)
    chosen = any(word.startswith("hydra/sweeper=") for word in words)
    return ["--multirun", *words, *["hydra/sweeper=study"] * (search and not chosen)]


def _tell(error: Exception) -> int:
    """Print an error of the command line, and return the status; one of ours goes on its way."""
    theirs = isinstance(error, (HydraException, OmegaConfBaseException, RequestError))
    # Composing hasn't got far enough for an error of ours until the gate is imported.
    if not theirs and "resnet_sweep.composition.gate" in sys.modules:
        raise error
    from resnet_sweep.composition.complaint import sentence

    print(f"error: {sentence(error)}", file=sys.stderr)
    # Something that isn't installed as it should be isn't the request's fault.
    return FAILED if isinstance(error, InstantiationException) else REFUSED


if __name__ == "__main__":
    main()
