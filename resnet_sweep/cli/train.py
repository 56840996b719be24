"""Train what a command line of overrides describes: `python -m resnet_sweep OVERRIDE...`."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import hydra

# Hydra has no public function for its parser of flags.
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
from resnet_sweep.sweeps.judge import JudgeSweeper
from resnet_sweep.torchrun import TorchrunEnvironment

FAILED, REFUSED = 1, 2
# The subcommand judge chooses the third sweeper.
SWEEPERS = ("grid", "optuna", "judge")
# An empty value, such as that of an unset shell variable, would stand for the current folder.
DIRECTORY_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
# Hydra's flags that select configs; any other flag replaces a single run by another action.
CONFIG_FLAGS = {"config_dir", "config_name", "config_path"}


@hydra.main(
    config_path="pkg://resnet_sweep.conf",
    config_name="config",
    execution_whitelist=execution_whitelist(),
)
def hydra_main(config: DictConfig) -> None:
    """Train a single run."""
    # Hydra prints additional text for any exception but SystemExit.
    if status := _exit_status(lambda: _train(config)):
        raise SystemExit(status)


def main(arguments: Sequence[str], failed: int = FAILED) -> None:
    """Run a command line of overrides and Hydra's flags, and exit with its status.

    Args:
        arguments: the command line.
        failed: the exit status after an unexpected error.
    """
    for plugin in (GridSweeper, OptunaSweeper, JudgeSweeper):
        Plugins.instance().register(plugin)
    sys.exit(_exit_status(lambda: _call_hydra(arguments), arguments, failed))


def _train(config: DictConfig) -> int:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        raise _unknown_sweeper(str(hydra_config.runtime.choices.get("hydra/sweeper")))
    # Imported here because torch takes seconds, and --cfg and --help don't need it.
    from resnet_sweep.config.errors import wrap_internal_errors
    from resnet_sweep.single_run import train_config

    with wrap_internal_errors():
        return train_config(config)


def _unknown_sweeper(name: str) -> ConfigError:
    return ConfigError(f"hydra/sweeper={name} isn't supported: choose grid or optuna")


def _call_hydra(arguments: Sequence[str]) -> int:
    arguments = hydra_arguments(arguments)
    torchrun = TorchrunEnvironment.current()
    if torchrun and torchrun.rank:
        # Only rank 0 creates the run directory.
        arguments.append("hydra.run.dir=.")
    # With this variable, Hydra raises its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        _run_hydra(arguments)
    except ConfigCompositionException:
        deferred = defer_group_settings(arguments)
        if deferred == arguments:
            raise
        _run_hydra(deferred)
    return 0


def _run_hydra(arguments: Sequence[str]) -> None:
    # Hydra reads its arguments only from sys.argv.
    sys.argv = [sys.argv[0], *arguments]
    hydra_main()


def _exit_status(
    action: Callable[[], int], arguments: Sequence[str] = (), failed: int = FAILED
) -> int:
    """Run an action, print its error if it raises one, and return the exit status."""
    try:
        return action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RunFailed, BrokenPipeError):
        # The reader of the output may have closed the pipe, as `| head` does.
        return failed
    except InternalError as error:
        _print("".join(traceback.format_exception(error.__cause__)), every_rank=True)
        return failed
    # For a wrong command line, Hydra raises errors of many types.
    except Exception as error:
        from resnet_sweep.config.errors import format_error

        _print(f"error: {format_error(error, arguments)}\n")
        # An InstantiationException means that the installation is incomplete.
        return failed if isinstance(error, InstantiationException) else REFUSED


def _print(text: str, every_rank: bool = False) -> None:
    torchrun = TorchrunEnvironment.current()
    if every_rank or torchrun is None or torchrun.rank == 0:
        # The reader of the output may have closed the pipe.
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Check a command line, and return it in Hydra's grammar.

    Raises:
        ConfigError: an argument is wrong, or would make Hydra write files before a run is planned.
    """
    arguments = [*map(quote_override, arguments)]
    parser = get_args_parser()
    # Raise errors instead of printing Hydra's usage.
    parser.exit_on_error = False
    flags, unknown = parser.parse_known_intermixed_args(arguments)
    for argument in unknown:
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = get_close_matches(argument.partition("=")[0], known, n=1, cutoff=0.8)
        advice = (
            f"did you mean {near[0]}? Hydra's flags are listed by --hydra-help"
            if near
            else f"write an override without dashes ({argument.lstrip('-')}), or see --hydra-help "
            "for the flags"
        )
        raise ConfigError(f"{argument} isn't a flag: {advice}")
    if flags.package and not flags.cfg:
        raise ConfigError(
            f"-p {flags.package} selects a package for --cfg, which isn't given: leave it out, or "
            "add --cfg job"
        )
    for folder in filter(None, (flags.config_path, flags.config_dir)):
        if Path(folder).name == ".hydra":
            raise ConfigError(
                f"{folder} has the composed config of a run, which can't be composed again: repeat "
                f"the run with the overrides in {Path(folder) / 'overrides.yaml'}"
            )
    if flags.experimental_rerun:
        raise ConfigError(
            f"--experimental-rerun={flags.experimental_rerun} isn't supported: repeat the command "
            "of the run with hydra.run.dir=DIRECTORY to resume it, or without it for a new run"
        )
    for override in flags.overrides:
        name, equals, value = override.lstrip("+").partition("=")
        if not name.lstrip("~").partition("@")[0] and equals:
            raise ConfigError(f"{override} has no key: write GROUP=CHOICE or KEY=VALUE")
        # Hydra's own sweepers write files before they train anything.
        if name == "hydra/sweeper" and value not in SWEEPERS:
            raise _unknown_sweeper(value)
        if name == "sweep" and value.strip("'\"") == "???":
            raise ConfigError(f"{override} names no sweep: choose one of those in --help")
        if name in DIRECTORY_KEYS and not value.strip("'\""):
            raise ConfigError(f"{override} names no directory: give one, or leave it out")
        if name == "hydra.output_subdir" and value != "null":
            raise ConfigError(
                f"{override} isn't supported, because every run directory has the folder .hydra: "
                "leave it out"
            )
        if "\0" in override:
            raise ConfigError(f"{override} has a null byte: remove it")
    # A preset can't set Hydra's mode, so these overrides imply --multirun.
    implies_multirun = re.compile(
        r"sweep=(?!'?null'?$|default$)|replicates=(0*([2-9]|[1-9]\d+)|'?auto'?)$"
    )
    others = {name for name, value in vars(flags).items() if value} - CONFIG_FLAGS - {"overrides"}
    if not others and any(map(implies_multirun.match, flags.overrides)):
        return ["--multirun", *arguments]
    return arguments


def defer_group_settings(arguments: Sequence[str]) -> list[str]:
    """Rewrite the settings of a group with several choices, so that only the jobs apply them.

    For the sweep as a whole, Hydra composes the default choice, which may lack such a setting. A
    setting that is written as a choice is left to the jobs, even if it has only one value.
    """
    flags = get_args_parser().parse_intermixed_args(arguments)
    overrides = OverridesParser.create().parse_overrides(flags.overrides)
    varied = {override.key_or_group for override in overrides if override.is_sweep_override()}
    deferred = {
        override.input_line: f"{key}=choice({override.get_value_element_as_str()})"
        for override in overrides
        if override.type is OverrideType.CHANGE and not override.is_sweep_override()
        if (key := override.key_or_group).partition(".")[0] in varied
    }
    if not flags.multirun:
        return [*arguments]
    return [deferred.get(argument, argument) for argument in arguments]
