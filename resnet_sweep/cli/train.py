"""Training: `python -m resnet_sweep OVERRIDE...`, composed by Hydra."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import hydra

# Hydra offers its parser of flags under no public name.
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.core.plugins import Plugins
from hydra.errors import ConfigCompositionException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_sweep.cli import INTERRUPTED
from resnet_sweep.config.command import quote_override
from resnet_sweep.config.instantiate import execution_whitelist
from resnet_sweep.errors import ConfigError, InternalError, RunFailed
from resnet_sweep.studies.sweeper import OptunaSweeper
from resnet_sweep.sweeps.grid import GridSweeper
from resnet_sweep.torchrun import TorchrunEnvironment

FAILED, REFUSED = 1, 2
SWEEPERS = ("grid", "optuna")
# Where to write. Empty, as a variable of the shell that isn't set, would mean the current folder.
DIRECTORIES = ("hydra.run.dir", "hydra.sweep.dir")
# Flags of Hydra's that say where configs are; the others ask for something else than a run.
PLACES = {"config_dir", "config_name", "config_path"}


@hydra.main(
    config_path="pkg://resnet_sweep.conf",
    config_name="config",
    execution_whitelist=execution_whitelist(),
)
def hydra_main(config: DictConfig) -> None:
    """Train a single run."""
    # Hydra would print a line of its own for other exceptions.
    if status := _exit_status(lambda: _train(config)):
        raise SystemExit(status)


def main(words: Sequence[str]) -> None:
    """Run a command line of overrides and Hydra's flags, and exit with its status."""
    for plugin in (GridSweeper, OptunaSweeper):
        Plugins.instance().register(plugin)
    sys.exit(_exit_status(lambda: _call_hydra(words), words))


def _train(config: DictConfig) -> int:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        raise _unknown_sweeper(str(hydra_config.runtime.choices.get("hydra/sweeper")))
    # Imported here because torch takes seconds that --cfg and --help needn't wait.
    from resnet_sweep.config.errors import wrap_internal_errors
    from resnet_sweep.single_run import train_config

    with wrap_internal_errors():
        return train_config(config)


def _unknown_sweeper(name: str) -> ConfigError:
    return ConfigError(
        f"hydra/sweeper={name} isn't a sweeper of this program: choose {' or '.join(SWEEPERS)}"
    )


def _call_hydra(words: Sequence[str]) -> int:
    words = hydra_arguments(words)
    torchrun = TorchrunEnvironment.current()
    if torchrun and torchrun.rank:
        # The directory of the run is made by rank 0.
        words.append("hydra.run.dir=.")
    # With this, Hydra hands over its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _run_hydra(words)
    except ConfigCompositionException:
        left = defer_group_settings(words)
        if left == words:
            raise
        _run_hydra(left)
    return 0


def _run_hydra(words: Sequence[str]) -> None:
    # Hydra takes its arguments from nowhere else.
    sys.argv = [sys.argv[0], *words]
    hydra_main()


def _exit_status(action: Callable[[], int], words: Sequence[str] = ()) -> int:
    """Carry an action out, print what is wrong, and return the exit status."""
    try:
        return action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RunFailed, BrokenPipeError):
        # The reader of the output may have left, as `| head` does.
        return FAILED
    except InternalError as error:
        _print("".join(traceback.format_exception(error.__cause__)), every_rank=True)
        return FAILED
    # Hydra has errors of many kinds for what a user types.
    except Exception as error:
        from resnet_sweep.config.errors import format_error

        _print(f"error: {format_error(error, words)}\n")
        # An installation that isn't complete isn't the request's fault.
        return FAILED if isinstance(error, InstantiationException) else REFUSED


def _print(text: str, every_rank: bool = False) -> None:
    torchrun = TorchrunEnvironment.current()
    if every_rank or torchrun is None or torchrun.rank == 0:
        # The reader may have closed the pipe.
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)


def hydra_arguments(words: Sequence[str]) -> list[str]:
    """Return a command line as Hydra has to get it, or raise ConfigError.

    Refused is also what would make Hydra write files before a run is planned.
    """
    words = [*map(quote_override, words)]
    parser = get_args_parser()
    # Raise errors instead of printing Hydra's usage.
    parser.exit_on_error = False
    flags, unknown = parser.parse_known_intermixed_args(words)
    for word in unknown:
        raise ConfigError(
            f"{word} isn't a flag: leave out the dashes of an override ({word.lstrip('-')}), or "
            "see --hydra-help for the flags"
        )
    if flags.package and not flags.cfg:
        raise ConfigError(
            f"-p {flags.package} is a flag of --cfg, which takes the next word for itself: leave "
            "it out, or put --cfg job before it"
        )
    for folder in filter(None, (flags.config_path, flags.config_dir)):
        if Path(folder).name == ".hydra":
            raise ConfigError(
                f"{folder} has the config of a run without Hydra's own part: to repeat the run, "
                f"give the words in {Path(folder) / 'overrides.yaml'} again"
            )
    for word in flags.overrides:
        name, _, value = word.partition("=")
        # Hydra's own sweepers write files before they train anything.
        if name == "hydra/sweeper" and value not in SWEEPERS:
            raise _unknown_sweeper(value)
        if name == "sweep" and value.strip("'\"") == "???":
            raise ConfigError(f"{word} names no sweep: choose one of those in --help")
        if name in DIRECTORIES and not value.strip("'\""):
            raise ConfigError(f"{word} names no directory: give one, or leave it out")
        if "\0" in word:
            raise ConfigError(f"{word} has a null byte: remove it")
    # A preset can't set Hydra's mode, so these imply the flag.
    several = re.compile(r"sweep=(?!'?null'?$|default$)|replicates=0*([2-9]|[1-9]\d+)$")
    asked = {name for name, value in vars(flags).items() if value} - PLACES - {"overrides"}
    if not asked and any(map(several.match, flags.overrides)):
        return ["--multirun", *words]
    return words


def defer_group_settings(words: Sequence[str]) -> list[str]:
    """Have the jobs of a sweep apply the settings of a group whose choice varies.

    Hydra looks for them in the default choice, unless they have several values, or a choice of one.
    """
    flags = get_args_parser().parse_intermixed_args(words)
    overrides = OverridesParser.create().parse_overrides(flags.overrides)
    varied = {override.key_or_group for override in overrides if override.is_sweep_override()}
    left = {
        override.input_line: f"{key}=choice({override.get_value_element_as_str()})"
        for override in overrides
        if override.type is OverrideType.CHANGE and not override.is_sweep_override()
        if (key := override.key_or_group).partition(".")[0] in varied
    }
    return [left.get(word, word) for word in words] if flags.multirun else list(words)
