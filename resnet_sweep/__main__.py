"""The command line: `python -m resnet_sweep`, composed by Hydra."""

import contextlib
import os
import re
import sys
from collections.abc import Sequence

import hydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.composition.targets import execution_whitelist
from resnet_sweep.errors import RequestError, RunFailed
from resnet_sweep.sweeps.grid import GridSweeper
from resnet_sweep.sweeps.pool import PoolLauncher
from resnet_sweep.sweeps.ray import RayLauncher
from resnet_sweep.sweeps.study.sweeper import StudySweeper
from resnet_sweep.training.torchrun import Torchrun

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
    torchrun = Torchrun.here()
    if torchrun and torchrun.rank:
        from resnet_sweep.composition.followers import follow

        sys.exit(follow())
    for plugin in (GridSweeper, StudySweeper, PoolLauncher, RayLauncher):
        Plugins.instance().register(plugin)
    check_flags(sys.argv[1:])
    sys.argv[1:] = as_multirun([*map(quoted, sys.argv[1:])])
    try:
        entry()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except RunFailed:
        # It has told what happened.
        sys.exit(FAILED)
    except Exception as error:
        begun = _give_up(error)
        status = _tell(error, begun)
        sys.exit(FAILED if begun else status)
    finally:
        if torchrun and torchrun.size > 1:
            from resnet_sweep.composition.followers import part

            part()


def check_flags(words: Sequence[str]) -> None:
    """Exit with 2 if the flag is among them that takes the next word away from the run.

    Hydra knows -p PACKAGE for --cfg alone, and says nothing elsewhere.
    """
    package = next((word for word in words if word.startswith(("-p", "--p"))), None)
    # Those that begin like -c say where configs are.
    shows = re.compile(r"-c(?![dnp]$|[dnp]=)|--cfg")
    if package and not any(map(shows.match, words)):
        print(
            f"error: {package} is a flag of --cfg, and would take the next word for itself: leave "
            "it out, or put --cfg job before it",
            file=sys.stderr,
        )
        sys.exit(REFUSED)


def quoted(word: str) -> str:
    """A word with quotes around its value, if that is a condition.

    Hydra needs them around an operator, and the shell takes away those that people write.
    """
    name, _, value = word.partition("=")
    if name not in ("sweep_filter", "baseline") or value in ("", "null") or value[0] in "'\"$":
        return word
    return f"{name}={QuotedString(value, Quote.single).with_quotes()}"


def as_multirun(words: Sequence[str]) -> list[str]:
    """The words of a command with --multirun, if they ask for several runs, and their sweeper.

    A preset can't choose the sweeper, so those for a search have names that say it.
    """
    several = re.compile(r"sweep=(?!null$)|replicates=0*([2-9]|[1-9]\d+)$")
    asked = any(map(several.match, words))
    # Hydra's flags ask for something else, unless they say where configs are.
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    given = flags & {"--multirun", "-m"}
    others = flags - given - {"--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp"}
    if others or not (asked or given):
        return list(words)
    search = any(word.startswith("sweep=optuna_") for word in words)
    chosen = any(word.startswith("hydra/sweeper=") for word in words)
    return [
        *["--multirun"] * (not given), *words, *["hydra/sweeper=study"] * (search and not chosen)
    ]  # fmt: skip


def _give_up(error: Exception) -> bool:
    """Close the run that was admitted, but that Hydra didn't get to; whether there was one."""
    gate = sys.modules.get("resnet_sweep.composition.gate")
    waiting = list(gate.Gate.admitted.values()) if gate else []
    for admitted in waiting:
        # Whatever came between, a full disk for one, may break this as well.
        with contextlib.suppress(Exception):
            admitted.run.close("failed", f"{type(error).__name__}: {error}")
    return bool(waiting)


def _tell(error: Exception, begun: bool) -> int:
    """Print an error of the command line, and return the status; one of ours goes on its way."""
    # Between the admission of a run and its task, Hydra is at work alone.
    theirs = begun or isinstance(error, (HydraException, OmegaConfBaseException, RequestError))
    gate = sys.modules.get("resnet_sweep.composition.gate")
    # Composing hasn't got far enough for an error of ours before the gate.
    if not theirs and gate and gate.Gate.reached:
        raise error
    from resnet_sweep.composition.complaint import sentence

    print(f"error: {sentence(error)}", file=sys.stderr)
    # Something that isn't installed as it should be isn't the request's fault.
    return FAILED if isinstance(error, InstantiationException) else REFUSED


if __name__ == "__main__":
    main()
