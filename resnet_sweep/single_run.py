"""The single run of a command, in the directory that Hydra made, also in processes of torchrun."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from resnet_sweep.config.compose import ComposedConfig, is_named_by_time, resolve, unresolved
from resnet_sweep.config.plan import PlannedRun, plan_run
from resnet_sweep.console import console
from resnet_sweep.errors import ConfigError
from resnet_sweep.jobs import LOG, add_environment, describe_run, logging_to, summarize_run, train
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.provenance import HYDRA_FOLDER, write_hydra_folder
from resnet_sweep.runs.run import Run, find_record, make_unique_directory, reset_run
from resnet_sweep.torchrun import TorchrunEnvironment
from resnet_sweep.training.device import configure
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.signals import Interrupted, StopSignal, exit_status
from resnet_sweep.training.trainer import Diverged

# Settings that have no effect on a single run, with the only values that it accepts.
NEUTRAL_VALUES: dict[str, object] = {"retry_failed": True, "sweep_filter": None, "zip": []}

Result = TypeVar("Result")


class RemoveEmptyDirectory(Callback):
    """Removes the folders that Hydra made for a single run, if nothing was written to them."""

    def __init__(self) -> None:
        self.made: list[Path] = []

    def on_run_start(self, config: DictConfig, **details: Any) -> None:
        """Called by Hydra before it makes the run directory and its parents."""
        # Hydra itself does this next. The directory's name may have values of its settings.
        HydraConfig.instance().set_config(config)
        # A name that can't be resolved is an error that Hydra raises.
        with contextlib.suppress(OmegaConfBaseException):
            self.made = missing_folders(Path(str(config.hydra.run.dir)))

    def on_run_end(self, config: DictConfig, **details: Any) -> None:
        """Called by Hydra after the run, and after an error of its own."""
        remove_empty(self.made)


def train_config(config: DictConfig) -> int:
    """Train the run that a config describes, or print what would be trained (`dry_run`).

    Args:
        config: as Hydra composed it, without Hydra's own part.

    Returns:
        The exit status.

    Raises:
        ConfigError: the run can't be trained; nothing was written.
        RunFailed: an error ended the run.
    """
    run = SingleRun(config)
    # With hydra.job.chdir, Hydra has changed it. Paths in a config mean the folder of the command.
    os.chdir(run.hydra.runtime.cwd)
    run.process_group.initialize()
    try:
        return run.train()
    finally:
        run.process_group.destroy()


class SingleRun:
    """A single run, or this process's share of it under torchrun; see `train_config`.

    Attributes:
        claimed: the folders that this process made for a new run.
    """

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        # HydraConfig.get() is annotated with the schema of Hydra's settings, but returns a config.
        self.hydra: Any = HydraConfig.get()
        self.process_group = ProcessGroup.current()
        self.torchrun = TorchrunEnvironment.current()
        self.claimed: list[Path] = []

    def train(self) -> int:
        """Train the run, or print what would be trained; return the exit status."""
        planned, composed = self._on_all_ranks(self._plan)
        if composed.settings.get("dry_run"):
            self._on_all_ranks(lambda: self._preview(planned, composed))
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
                console.print("This run has ended already; there is nothing to train.")
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
        """Return what an action returns; raise its ConfigError on all ranks if one raises it."""
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
                raise ConfigError(f"process {rank} of {len(messages)} can't take part: {message}")
        return result

    def _plan(self) -> tuple[PlannedRun, ComposedConfig]:
        for name, neutral in NEUTRAL_VALUES.items():
            value = resolve(self.config, name)
            if value != neutral:
                raise ConfigError(
                    f"{name}={value} is a setting of a sweep, but this is a single run: add "
                    "--multirun, or leave it out"
                )
        composed = ComposedConfig.of(self.config, self.hydra)
        return plan_run(composed.settings, self.process_group), composed

    def _directory(self, new: Callable[[Path], Path]) -> Path:
        """Return the directory that the command names, or else what `new` makes of Hydra's."""
        made = Path(self.hydra.runtime.output_dir)
        if not is_named_by_time(self.hydra.run):
            return made
        return self.torchrun.directory(lambda: new(made)) if self.torchrun else new(made)

    def _claim(self, made: Path) -> Path:
        """Make the directory of a new run, beside the one that Hydra made if another run has it."""
        directory = make_unique_directory(made, HYDRA_FOLDER)
        self.claimed = [directory / HYDRA_FOLDER]
        # If it's the one that Hydra made, `RemoveEmptyDirectory` removes it.
        if directory != made:
            self.claimed.append(directory)
        return directory

    def _preview(self, planned: PlannedRun, composed: ComposedConfig) -> None:
        """Print what would be trained."""
        if not self.process_group.is_main:
            return
        record = add_environment(planned.record(composed), planned)
        directory = self._directory(lambda made: made)
        earlier = find_record(directory, record)
        state = "new" if earlier is None else earlier.state
        console.print(describe_run(planned, record, directory), markup=False)
        console.print(f"dry run: nothing is trained or written. The run is {state}.", markup=False)

    def _open(self, planned: PlannedRun, composed: ComposedConfig) -> Run | None:
        """Open the directory of the run; None on the ranks that write nothing."""
        if not self.process_group.is_main:
            return None
        record = add_environment(planned.record(composed), planned)
        directory = self._directory(self._claim)
        missing = missing_folders(directory)
        try:
            # Starting over was asked for once, and not for each restart by torchrun.
            if not planned.settings.resume and not (self.torchrun and self.torchrun.restarts):
                reset_run(directory, record)
            run = Run.open(directory, record)
        except BaseException:
            remove_empty([*self.claimed, *missing])
            raise
        if run.record.has_ended:
            return run
        hydra = unresolved(self.hydra)
        hydra["runtime"]["output_dir"] = str(run.directory)
        try:
            write_hydra_folder(run.directory, unresolved(self.config), hydra, composed.overrides)
        except BaseException as error:
            # The disk that is full may keep this from being written, too.
            with contextlib.suppress(Exception):
                run.close("failed", f"{type(error).__name__}: {error}")
            raise
        return run
