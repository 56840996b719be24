"""Requests to train, in the grammar of the command line: Hydra composes them and calls back.

The command line and the Python API carry out their requests with this module.
"""

import contextlib
import io
import logging
import os
import re
import threading
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path

from hydra import initialize_config_search_path

# Hydra has no public function that takes its arguments as a list. `hydra.main` reads `sys.argv`,
# and then calls these functions.
from hydra._internal.execution_policy import execution_whitelist as whitelisted
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.core.plugins import Plugins
from hydra.core.utils import env_override
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import DictConfig

from resnet_sweep.config import PRESET_GROUPS
from resnet_sweep.config.command import quote_override
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.instantiate import execution_whitelist
from resnet_sweep.errors import ConfigError, check_encodable
from resnet_sweep.studies.sweeper import OptunaSweeper
from resnet_sweep.sweeps.grid import GridSweeper
from resnet_sweep.sweeps.judge import JudgeSweeper
from resnet_sweep.torchrun import TorchrunEnvironment

CONFIG_PATH, CONFIG_NAME = "pkg://resnet_sweep.conf", "config"
# The sweepers that users can choose.
SWEEPERS = ("grid", "optuna")
# An empty value, such as that of an unset shell variable, would stand for the current folder.
DIRECTORY_KEYS = ("hydra.run.dir", "hydra.sweep.dir")
QUOTES = "'\""
# Hydra's flags that select configs; any other flag replaces a single run by another action.
CONFIG_FLAGS = {"config_dir", "config_name", "config_path"}

# Held while Hydra is used, because its state belongs to the process.
_hydra_in_use = threading.Lock()


class Request:
    """A request to train a single run or a sweep.

    Hydra composes the config, and calls the request with the config of a single run. A sweeper
    calls `end` when its sweep has ended. With a flag such as `--help`, Hydra does neither.

    Args:
        arguments: overrides and Hydra's flags, as typed.
        own: further overrides of a subcommand, which may choose its own sweeper.

    Attributes:
        directory: the directory of the run or the sweep that has ended; None if there is none.
    """

    def __init__(self, arguments: Sequence[str], own: Sequence[str] = ()) -> None:
        self.arguments, self.own = arguments, own
        self.directory: Path | None = None
        self._error: BaseException | None = None

    def carry_out(self) -> None:
        """Train the run or the sweep, or do what a flag asks for.

        Raises:
            ConfigError, or an error of Hydra: the request is invalid; nothing was written.
            RunFailed: the run ended with an error.
            KeyboardInterrupt: the request was interrupted before a run started.
            SystemExit: the exit status, if it isn't 0. It is 1 if the run diverged or if a job of a
                sweep failed, and 75 or 130 if a signal stopped them; their state is saved.
        """
        arguments = [*hydra_arguments(self.arguments), *self.own]
        torchrun = TorchrunEnvironment.current()
        if torchrun and torchrun.rank:
            # Only rank 0 creates the run directory.
            arguments.append("hydra.run.dir=.")
        with own_hydra():
            try:
                self._call_hydra(arguments)
            except ConfigCompositionException:
                deferred = defer_group_settings(arguments)
                if deferred == arguments:
                    raise
                self._call_hydra(deferred)

    def _call_hydra(self, arguments: Sequence[str]) -> None:
        parser = get_args_parser()
        flags = parser.parse_intermixed_args(arguments)
        # Hydra prints a message of its own if `-p` selects nothing.
        silent = contextlib.redirect_stderr(io.StringIO()) if flags.package else None
        try:
            with whitelisted(execution_whitelist()), silent or contextlib.nullcontext():
                _run_hydra(
                    args=flags,
                    args_parser=parser,
                    task_function=self,
                    config_path=CONFIG_PATH,
                    config_name=CONFIG_NAME,
                )
        except SystemExit as leaving:
            if isinstance(leaving.code, ConfigError):
                raise leaving.code from None
            if self._error is None:
                if flags.package and leaving.code:
                    raise ConfigError(
                        f"-p {flags.package} selects nothing, because it is null or isn't in the "
                        "config: name a group or a setting, such as optim"
                    ) from None
                raise
        if self._error is not None:
            raise self._error

    def __call__(self, config: DictConfig) -> None:
        """Train a single run; Hydra calls this with its config, without the `hydra` node."""
        try:
            status = self._train(config)
        except BaseException as error:
            self._error = error
            # Hydra prints additional text for any exception but SystemExit.
            raise SystemExit(1) from error
        if status:
            raise SystemExit(status)

    def _train(self, config: DictConfig) -> int:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:
            raise _unknown_sweeper(str(hydra.runtime.choices.get("hydra/sweeper")))
        # Imported here because torch takes seconds, and --cfg and --help don't need it.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.single_run import train_config

        with wrap_internal_errors():
            self.directory, status = train_config(config)
        return status

    def end(self, directory: Path | None) -> None:
        """Take the directory of a sweep that has ended; a sweeper calls this."""
        self.directory = directory


def compose(arguments: Sequence[str]) -> ComposedConfig:
    """Compose the config of a run, without training it.

    Args:
        arguments: overrides and Hydra's flags.

    Raises:
        ConfigError, or an error of Hydra: the config can't be composed or resolved.
    """
    flags = get_args_parser().parse_intermixed_args(hydra_arguments(arguments))
    sources = [CONFIG_PATH]
    if flags.config_dir:
        sources.append(f"file://{Path(flags.config_dir).absolute()}")
    with own_hydra(), initialize_config_search_path(sources, job_name="train"):
        loader = GlobalHydra.instance().config_loader()
        config = loader.load_configuration(
            flags.config_name or CONFIG_NAME, flags.overrides, RunMode.RUN
        )
        # The config may refer to `${hydra:...}`.
        HydraConfig.instance().set_config(config)
        return ComposedConfig.of(config, config.hydra)


@contextlib.contextmanager
def own_hydra() -> Iterator[None]:
    """Use Hydra within a `with` block, and restore its state and that of `logging` after it.

    Raises:
        ConfigError: another thread, or a caller of this function, uses Hydra.
    """
    if not _hydra_in_use.acquire(blocking=False):
        raise ConfigError(
            "this process is already composing or training another run or sweep: wait until it has "
            "ended, or start another process"
        )
    hydra, config, log = GlobalHydra.instance(), HydraConfig.instance(), logging.getLogger()
    before = hydra.hydra, config.cfg, log.handlers[:], log.level
    hydra.clear()
    try:
        for plugin in (GridSweeper, OptunaSweeper, JudgeSweeper):
            Plugins.instance().register(plugin)
        # With this variable, Hydra raises its errors instead of printing them.
        with env_override({"HYDRA_FULL_ERROR": "1"}):
            yield
    finally:
        GlobalHydra.instance().hydra = before[0]
        HydraConfig.instance().cfg = before[1]
        log.handlers = before[2]
        log.setLevel(before[3])
        _hydra_in_use.release()


def _unknown_sweeper(name: str) -> ConfigError:
    return ConfigError(f"hydra/sweeper={name} isn't supported: choose grid or optuna")


def hydra_arguments(arguments: Sequence[str]) -> list[str]:
    """Check a command line, and return it in Hydra's grammar.

    Raises:
        ConfigError: an argument is wrong, or would make Hydra write files before a run is planned.
    """
    try:
        folder = os.getcwd()
    except FileNotFoundError as error:
        raise ConfigError(
            "the current folder doesn't exist any more: change to another one"
        ) from error
    for text in (folder, *arguments):
        check_encodable(text)
    arguments = [*map(quote_override, arguments)]
    parser = get_args_parser()
    # The parser raises errors instead of printing Hydra's usage.
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
    if flags.config_path and not flags.config_path.startswith(("/", "pkg://")):
        raise ConfigError(
            f"--config-path={flags.config_path} can't be used: add config files with "
            "--config-dir=DIRECTORY"
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
        if name in PRESET_GROUPS and value.strip(QUOTES) in ("???", "null"):
            raise ConfigError(
                f"{name}={value.strip(QUOTES)} chooses no preset: leave it out, or choose one of "
                "those in --help"
            )
        if name in DIRECTORY_KEYS and not value.strip(QUOTES):
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
