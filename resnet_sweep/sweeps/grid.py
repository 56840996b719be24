"""The default sweeper: every combination of values, in a sweep that can be gone on with."""

import os
from pathlib import Path

from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.sweeps.launcher import build_launcher


class GridSweeper(Sweeper):
    """Hydra's basic sweeper and more: see the jobs first, go on after anything, fail softly.

    All jobs are composed and checked before the first begins. Those that are finished, here or
    elsewhere, aren't trained again; those that were interrupted go on.

    Args:
        params: what is swept, by key, in the grammar of the command line, which comes later.
    """

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = params

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `sweep`."""
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def sweep(self, arguments: list[str]) -> None:
        """Carry the sweep out.

        Args:
            arguments: overrides of the command line, which `config.hydra` has as well.

        Raises:
            RequestError: the sweep can't begin; nothing was written.
            SystemExit: with the status, if not all jobs came to what was asked for.
        """
        # Imported here because torch takes seconds that --help needn't wait.
        from resnet_sweep.composition.gate import claim_new
        from resnet_sweep.console import console
        from resnet_sweep.sweeps import preview
        from resnet_sweep.sweeps.composing import compose_plan
        from resnet_sweep.sweeps.sitting import Sitting, terminable

        with terminable():
            plan = compose_plan(self.context.config_loader, self.config)
        if self.config.sweep_mode == "preview":
            preview.show(plan)
            return
        skip_failed = self.config.sweep_mode == "skip_failed"
        console.print(preview.summarize(plan, skip_failed), markup=False)
        # Once before anything is written, and again when its directory is known.
        self._launcher()
        claim_new(self.config.hydra.sweep)
        plan.move(Path(os.path.abspath(self.config.hydra.sweep.dir)))
        status = Sitting(plan, self.config, self._launcher()).carry_out()
        if status:
            raise SystemExit(status)

    def _launcher(self) -> Launcher:
        return build_launcher(self.context, self.task_function, self.config)
