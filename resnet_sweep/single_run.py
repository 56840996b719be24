"""Train the single run of a command, in one process or in those that torchrun started."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, read_write
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.config.check import AUTO_SETTINGS
from resnet_sweep.config.compose import (
    ComposedConfig,
    is_named_by_time,
    read_overrides,
    resolve,
    unresolved,
)
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.jobs import add_environment, describe_run, logging_to, summarize_run, train
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.provenance import HYDRA_FOLDER, write_hydra_folder
from resnet_sweep.runs.run import LOG, Run, find_record, make_unique_directory, reset_run
from resnet_sweep.runs.signature import format_setting
from resnet_sweep.torchrun import TorchrunEnvironment
from resnet_sweep.training.device import configure
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.signals import Interrupted, StopSignal, exit_status
from resnet_sweep.training.trainer import Diverged

# Settings that only a sweep has, with the only values that a single run accepts.
NEUTRAL_VALUES: dict[str, object] = {
    "baseline": None,
    **AUTO_SETTINGS,
    "retry_failed": True,
    "share_epochs": True,
    "sweep_filter": None,
    "zip": [],
}

# Overrides that choose or configure a sweeper or a launcher start with these.
SWEEP_ONLY = (
    "hydra/sweeper",
    "hydra.sweeper.",
    "hydra/launcher",
    "hydra.launcher.",
    "hydra.sweep.",
)

Result = TypeVar("Result")


class RemoveEmptyDirectory(Callback):
    """Removes the folders that Hydra created for a single run, if they are empty."""

    def __init__(self) -> None:
        self.made: list[Path] = []

    def on_run_start(self, config: DictConfig, **details: Any) -> None:
        """Remember which folders don't exist yet; Hydra creates them next."""
        # A config file may set hydra.output_subdir, and Hydra would write that folder before the
        # run is planned.
        with read_write(config.hydra):
            config.hydra.output_subdir = None
        # Hydra sets its config only after this call, but the directory may use `${hydra:...}`.
        HydraConfig.instance().set_config(config)
        # If the name of the directory can't be resolved, Hydra raises the error later.
        with contextlib.suppress(OmegaConfBaseException):
            self.made = missing_folders(Path(str(config.hydra.run.dir)))

    def on_run_end(self, config: DictConfig, **details: Any) -> None:
        """Remove the folders; Hydra calls this after the run, and after its own errors."""
        remove_empty(self.made)


def train_config(config: DictConfig) -> tuple[Path | None, int]:
    """Train the run that a config describes, or describe it in a dry run.

    Args:
        config: composed by Hydra, without the `hydra` node.

    Returns:
        The run directory, which is None in a dry run and on all ranks but rank 0, and the exit
        status.

    Raises:
        ConfigError: the run can't be trained; nothing was written.
        RunFailed: the run ended with an error.
    """
    run = SingleRun(config)
    # Paths in a config are relative to the command's folder, which hydra.job.chdir has changed.
    os.chdir(run.hydra.runtime.cwd)
    run.process_group.initialize()
    try:
        status = run.train()
        return run.directory, status
    finally:
        run.process_group.destroy()


class SingleRun:
    """A single run, or this process's part of it under torchrun; see `train_config`.

    Attributes:
        created: the folders that this process created for a new run.
        directory: the run directory; None if this process hasn't opened it.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        # The annotation of HydraConfig.get() is a dataclass, but it returns a config.
        self.hydra: Any = HydraConfig.get()
        self.process_group = ProcessGroup.current()
        self.torchrun = TorchrunEnvironment.current()
        self.created: list[Path] = []
        self.directory: Path | None = None

    def train(self) -> int:
        """Train the run, or describe it in a dry run; return the exit status."""
        planned, composed = self._on_all_ranks(self._plan)
        if composed.settings.get("dry_run"):
            self._on_all_ranks(lambda: self._print_dry_run(planned, composed))
            return 0
        stop = StopSignal(ignore_repeats=self.process_group.world_size > 1).listen()
        try:
            run = self._on_all_ranks(lambda: self._open(planned, composed))
            ended = self.process_group.broadcast(run is not None and run.record.has_ended)
            if run is None:
                if not ended:
                    configure(planned.device, planned.precision, planned.settings.threads)
                    planned.build_trainer().fit(None, (), stop)
                return 0
            if ended:
                console.print("This run has already ended; nothing is left to train.")
                console.print(summarize_run(run.record, run.directory), markup=False)
            else:
                with logging_to(run.directory / LOG):
                    train(planned, run, stop, chdir=bool(self.hydra.job.chdir))
            return int(run.record.state == "diverged")
        except Diverged:
            return 1
        except Interrupted as interruption:
            return exit_status(interruption.signal)
        finally:
            stop.release()

    def _on_all_ranks(self, action: Callable[[], Result]) -> Result:
        """Run an action on all ranks; raise ConfigError on all of them if one raises it."""
        error = None
        try:
            result = action()
        except ConfigError as refusal:
            error = refusal
        messages = self.process_group.all_gather(error and str(error))
        if error is not None:
            raise error
        for rank, message in enumerate(messages):
            if message is not None:
                raise ConfigError(f"rank {rank} of {len(messages)} can't train: {message}")
        return result

    def _plan(self) -> tuple[PlannedRun, ComposedConfig]:
        for name, neutral in NEUTRAL_VALUES.items():
            value = resolve(self.config, name)
            if value != neutral:
                raise _only_for_sweeps(f"{name}={format_setting(value)}")
        for override in read_overrides(self.hydra, "hydra"):
            if override.lstrip("+").startswith(SWEEP_ONLY):
                raise _only_for_sweeps(override)
        composed = ComposedConfig.of(self.config, self.hydra)
        directory = Path(self.hydra.runtime.output_dir)
        planned = plan_run(composed.settings, self.process_group, directory=directory)
        return planned, composed

    def _choose_directory(self, new: Callable[[Path], Path]) -> Path:
        """Return the directory that the command sets, or else what `new` returns for Hydra's."""
        default = Path(self.hydra.runtime.output_dir)
        if not is_named_by_time(self.hydra.run):
            return default
        return self.torchrun.directory(lambda: new(default)) if self.torchrun else new(default)

    def _create_directory(self, default: Path) -> Path:
        """Reserve the directory that Hydra created, or create another one if it is in use."""
        directory = make_unique_directory(default, HYDRA_FOLDER)
        self.created = [directory / HYDRA_FOLDER]
        # `RemoveEmptyDirectory` removes the one that Hydra created.
        if directory != default:
            self.created.append(directory)
        return directory

    def _print_dry_run(self, planned: PlannedRun, composed: ComposedConfig) -> None:
        """Print what the run would train."""
        if not self.process_group.is_main:
            return
        record = add_environment(planned.record(composed), planned)
        directory = self._choose_directory(lambda default: default)
        earlier = find_record(directory, record)
        state = "new" if earlier is None else earlier.state
        console.print(describe_run(planned, record, directory), markup=False)
        console.print(f"dry run: nothing was trained or written (state of the run: {state})")

    def _open(self, planned: PlannedRun, composed: ComposedConfig) -> Run | None:
        """Open the run in its directory on rank 0; return None on the other ranks."""
        if not self.process_group.is_main:
            return None
        record = add_environment(planned.record(composed), planned)
        directory = self._choose_directory(self._create_directory)
        missing = missing_folders(directory)
        try:
            # Processes that torchrun restarts have to resume what the first ones trained.
            if not planned.settings.resume and not (self.torchrun and self.torchrun.restarts):
                reset_run(directory, record)
            run = Run.open(directory, record)
        except BaseException:
            remove_empty([*self.created, *missing])
            raise
        self.directory = run.directory
        if run.record.has_ended:
            return run
        hydra = unresolved(self.hydra)
        hydra["runtime"]["output_dir"] = str(run.directory)
        try:
            write_hydra_folder(run.directory, unresolved(self.config), hydra, composed.overrides)
        except BaseException as error:
            # The cause of the error, such as a full disk, may also prevent this write.
            with contextlib.suppress(Exception):
                run.close("failed", f"{type(error).__name__}: {error}")
            raise
        return run


def _only_for_sweeps(override: str) -> ConfigError:
    return ConfigError(
        f"{override} is a setting of a sweep, but this is a single run: add --multirun, or leave "
        "it out"
    )
