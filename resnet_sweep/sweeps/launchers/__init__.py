"""Launchers: each calls a function with each of some directories, here or on other machines.

`hydra/launcher=NAME` chooses one. What is launched is a job of a sweep (`train_job`) or a worker of
a study. All that it needs is in its directory; all that it reports is written there.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext
from hydra.utils import instantiate
from omegaconf import DictConfig

from resnet_sweep.config.instantiate import execution_whitelist
from resnet_sweep.errors import ConfigError, one_line

# Called with a directory, in whatever process.
Work = Callable[[Path], Any]
# Called in the launching process when the work in a directory has ended, with the reason if its
# process was lost.
OnEnd = Callable[[Path, str | None], None]
# Returns the overrides of the job in a directory, for a plugin of Hydra's to show and compose.
GetOverrides = Callable[[Path], Sequence[str]]


class Launcher(Protocol):
    """Calls a function with each of some directories."""

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        """Do all the work, and return when it has ended.

        Args:
            work: a function that can be pickled.
            directories: what it is called with, one after the other or side by side.
            log: name of the file in each directory for what a process of its own prints.
            on_end: called for each directory.

        Raises:
            SystemExit: this process was asked to stop; the work has saved its state.
        """


class InProcessLauncher:
    """Does the work in this process, one directory after the other."""

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        for directory in directories:
            work(directory)
            on_end(directory, None)


class HydraLauncher:
    """Does the work through a launcher plugin of Hydra's, such as submitit's or joblib's.

    The plugin composes a config for each directory. Only Hydra's part of it has an effect, since
    what is trained was planned before.
    """

    def __init__(
        self, context: HydraContext, config: DictConfig, get_overrides: GetOverrides
    ) -> None:
        self.context, self.config, self.get_overrides = context, config, get_overrides
        # Its settings are checked before anything is written.
        self._plugin(Path.exists)

    def launch(self, work: Work, directories: Sequence[Path], log: str, on_end: OnEnd) -> None:
        overrides = [
            [
                *self.get_overrides(directory),
                _override("hydra.sweep.dir", directory.parent),
                _override("hydra.sweep.subdir", directory.name),
            ]
            for directory in directories
        ]
        returned = self._plugin(work).launch(overrides, initial_job_idx=0)
        for directory, job in zip(directories, returned, strict=False):
            reason = None
            if getattr(job, "status", None) is JobStatus.FAILED:
                # The public attribute prints a line, and raises the error.
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
    """Do the work in Hydra's output directory, which a plugin of Hydra's calls with a config."""
    # In which the command was given. Relative paths mean it, and hydra.job.chdir leaves it.
    os.chdir(folder)
    work(Path(HydraConfig.get().runtime.output_dir))


def build_launcher(
    context: HydraContext, config: DictConfig, get_overrides: GetOverrides
) -> Launcher:
    """Build the launcher that `hydra/launcher` chooses in the config of a sweep or a study.

    Raises:
        ConfigError: there can't be such a launcher here, or not with these settings.
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
            "hydra/launcher=slurm needs SLURM's sbatch and srun, which aren't here: give the "
            "command on a machine that submits jobs to the cluster"
        )
    return HydraLauncher(context, config, get_overrides)


def _override(setting: str, value: object) -> str:
    return f"{setting}={QuotedString(str(value), Quote.single).with_quotes()}"
