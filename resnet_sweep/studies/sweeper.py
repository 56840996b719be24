"""The sweeper `hydra/sweeper=optuna`."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches with Optuna: prunes trials, shares them among workers, resumes after anything.

    Args:
        settings: see conf/hydra/sweeper/optuna.yaml; they are read from the config.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `sweep`."""
        self.context, self.composed = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Work on the study until it has ended.

        Args:
            arguments: overrides of the command line, which the config has as well.

        Raises:
            ConfigError: the study can't be started; nothing was written.
            SystemExit: not all trials reached what was asked for.
        """
        # Imported here because Optuna and torch take seconds that --help needn't wait.
        from resnet_sweep.config.errors import internal_errors
        from resnet_sweep.studies.session import run_study

        with internal_errors():
            status = run_study(self.context, self.composed)
        if status:
            raise SystemExit(status)
