"""The sweeper `hydra/sweeper=optuna`."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.sweeps.grid import report_end


class OptunaSweeper(Sweeper):
    """Searches with Optuna. It supports pruning, any number of workers, and resuming."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings of conf/hydra/sweeper/optuna.yaml; they are read from the config."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Store the arguments; Hydra calls this method before `sweep`."""
        self.context, self.composed, self.caller = hydra_context, config, task_function

    def sweep(self, arguments: list[str]) -> None:
        """Work on the study until it ends; see `run_study`."""
        # The imports of Optuna and torch take seconds, and --help doesn't need them.
        from resnet_sweep.config.errors import wrap_internal_errors
        from resnet_sweep.studies.session import run_study

        with wrap_internal_errors():
            status = run_study(self.context, self.composed)
        report_end(self.caller, self.composed)
        if status:
            raise SystemExit(status)
