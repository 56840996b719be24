"""Launchers, which call a function for every directory in a list, on this or other machines.

`hydra/launcher=NAME` selects one. The function trains a job of a sweep (`train_job`) or works on a
study (`work_on_study`). It reads its input from the directory, and writes its results there.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig

from resnet_sweep.config.command import path_override
from resnet_sweep.config.instantiate import execution_whitelist
from resnet_sweep.errors import ConfigError, one_line

# Hydra's launchers, and those of this package, whose jobs run on this machine.
_ON_THIS_MACHINE = ("basic", "joblib", "pool")

# The function that is called with a directory, possibly in another process.
Work = Callable[[Path], Any]
# Called in the launching process when the work in a directory has ended. The text is the reason if
# the work ended without a result, or else None.
OnEnd = Callable[[Path, str | None], None]
# Returns whether the work in a directory can start. It may need what other work has to write first.
IsReady = Callable[[Path], bool]
# Returns the overrides of the job in a directory, from which a plugin of Hydra composes a config.
GetOverrides = Callable[[Path], Sequence[str]]


def always_ready(directory: Path) -> bool:
    """Return True, because the work doesn't need other work."""
    return True


class Launcher(Protocol):
    """Calls a function for every directory in a list."""

    def launch(
        self,
        work: Work,
        directories: Sequence[Path],
        log: str,
        on_end: OnEnd,
        is_ready: IsReady = always_ready,
    ) -> None:
        """Call a function for all directories, and return when all calls have ended.

        Args:
            work: the function, which can be pickled.
            directories: the arguments of the calls, which run in sequence or in parallel.
            log: name of a file in the directory, for the output of a separate process.
            on_end: called when the call for a directory has ended.
            is_ready: whether the call for a directory can start. If no call is running, at least
                one starts in any case.

        Raises:
            SystemExit: a signal stopped this process; the work has saved its state.
        """


class InProcessLauncher:
    """Does the work in this process, one directory after the other."""

    def launch(
        self,
        work: Work,
        directories: Sequence[Path],
        log: str,
        on_end: OnEnd,
        is_ready: IsReady = always_ready,
    ) -> None:
        waiting = [*directories]
        while waiting:
            directory = next(filter(is_ready, waiting), waiting[0])
            waiting.remove(directory)
            work(directory)
            on_end(directory, None)


class HydraLauncher:
    """Does the work through a launcher plugin of Hydra, such as submitit or joblib.

    The plugin composes a config for every directory. Only the `hydra` node of it has an effect,
    because the run is already planned.
    """

    def __init__(
        self, context: HydraContext, config: DictConfig, get_overrides: GetOverrides
    ) -> None:
        self.context, self.config, self.get_overrides = context, config, get_overrides
        # This checks the settings of the plugin before anything is written.
        self._plugin(Path.exists)

    def launch(
        self,
        work: Work,
        directories: Sequence[Path],
        log: str,
        on_end: OnEnd,
        is_ready: IsReady = always_ready,
    ) -> None:
        # A plugin returns only when all its jobs have ended.
        waiting = [*directories]
        while waiting:
            ready = [*filter(is_ready, waiting)] or waiting
            self._launch(work, ready, on_end)
            waiting = [directory for directory in waiting if directory not in {*ready}]

    def _launch(self, work: Work, directories: Sequence[Path], on_end: OnEnd) -> None:
        overrides = [
            [
                *self.get_overrides(directory),
                path_override("hydra.sweep.dir", directory.parent),
                path_override("hydra.sweep.subdir", directory.name),
            ]
            for directory in directories
        ]
        returned = self._plugin(work).launch(overrides, initial_job_idx=0)
        for directory, job in zip(directories, returned, strict=False):
            reason = None
            if getattr(job, "status", None) is JobStatus.FAILED:
                # The public attribute would print a line and raise the error.
                error = job._return_value
                reason = one_line(f"{type(error).__name__}: {error}")
            on_end(directory, reason)

    def _plugin(self, work: Work) -> Any:
        return Plugins.instance().instantiate_launcher(
            hydra_context=self.context,
            task_function=partial(work_in_output_dir, work, os.getcwd()),
            config=self.config,
        )


def work_in_output_dir(work: Work, folder: str, config: DictConfig) -> None:
    """Do the work in Hydra's output directory; a plugin of Hydra calls this with a config."""
    # Back to the folder of the command, which hydra.job.chdir has left.
    os.chdir(folder)
    work(Path(HydraConfig.get().runtime.output_dir))


def trains_elsewhere(config: DictConfig) -> bool:
    """Return whether the jobs of a sweep or a study may run on other machines."""
    return config.hydra.runtime.choices["hydra/launcher"] not in _ON_THIS_MACHINE


def build_launcher(
    context: HydraContext, config: DictConfig, get_overrides: GetOverrides
) -> Launcher:
    """Build the launcher that `hydra/launcher` chooses in the config of a sweep or a study.

    Raises:
        ConfigError: the launcher can't be used on this machine, or its settings are invalid.
    """
    target = str(config.hydra.launcher._target_)
    if target.endswith(".BasicLauncher"):
        return InProcessLauncher()
    if target.startswith("resnet_sweep."):
        launcher: Launcher = instantiate(
            config.hydra.launcher,
            device=config.trainer.device,
            _execution_whitelist_=execution_whitelist(),
        )
        return launcher
    if target.endswith(".SlurmLauncher") and not (shutil.which("sbatch") and shutil.which("srun")):
        raise ConfigError(
            "hydra/launcher=slurm needs SLURM's sbatch and srun, which aren't installed: run the "
            "command on a machine that submits jobs to the cluster"
        )
    return HydraLauncher(context, config, get_overrides)
