"""The default sweeper: every combination of values, in a sweep that can be gone on with."""

import os
import shutil
from pathlib import Path

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from resnet_sweep.errors import RequestError


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
        from resnet_sweep.sweeps.frozen import FrozenConfigs

        slurm = str(self.config.hydra.launcher._target_).endswith(".SlurmLauncher")
        if slurm and not (shutil.which("sbatch") and shutil.which("srun")):
            raise RequestError(
                "hydra/launcher=slurm needs SLURM's sbatch and srun, which aren't here: give the "
                "command on a machine that submits jobs to the cluster"
            )
        frozen = HydraContext(
            config_loader=FrozenConfigs(self.config.hydra.sweep),
            callbacks=self.context.callbacks,
            execution_whitelist=self.context.execution_whitelist,
        )
        return Plugins.instance().instantiate_launcher(
            hydra_context=frozen, task_function=self.task_function, config=self.config
        )
