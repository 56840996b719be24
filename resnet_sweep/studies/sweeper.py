"""The sweeper `hydra/sweeper=optuna`."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches with Optuna: prunes trials, shares them among workers, resumes after anything."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings in conf/hydra/sweeper/optuna.yaml, which the config has as well."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `sweep`."""
        self.context, self.composed = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Work on the study until it has ended; see `run_study`."""
        # Imported here because Optuna and torch take seconds that --help needn't wait.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.studies.session import run_study

        with wrap_internal_errors():
            status = run_study(self.context, self.composed)
        if status:
            raise SystemExit(status)
