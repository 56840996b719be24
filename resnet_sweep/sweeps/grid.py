"""The default sweeper: every combination of values, in a sweep that can be gone on with."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

# What needs torch is imported when there is a sweep: it takes seconds that --help needn't wait.
if TYPE_CHECKING:
    from resnet_sweep.sweeps.plan import Plan


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
            arguments: overrides of the command line, some with several values.

        Raises:
            RequestError: the sweep can't begin; nothing was written.
            SystemExit: with the status, if not all jobs came to what was asked for.
        """
        from resnet_sweep.composition.gate import claim_new
        from resnet_sweep.console import console
        from resnet_sweep.sweeps import preview
        from resnet_sweep.sweeps.expansion import preset_words
        from resnet_sweep.sweeps.sitting import Sitting

        plan = self._plan([*preset_words(self.params), *arguments])
        mode = self.config.sweep_mode
        if mode == "preview":
            width = console.width if console.is_terminal else None
            console.print(preview.tabulate(plan, width), markup=False)
        console.print(preview.summarize(plan, mode == "skip_failed"), markup=False)
        if mode == "preview":
            return
        # Once before anything is written, and again when its directory is known.
        self._launcher()
        claim_new(self.config.hydra.sweep)
        plan.move(Path(os.path.abspath(self.config.hydra.sweep.dir)))
        status = Sitting(plan, self.config, self._launcher()).carry_out()
        if status:
            raise SystemExit(status)

    def _launcher(self):
        from resnet_sweep.sweeps.frozen import FrozenConfigs

        frozen = HydraContext(
            config_loader=FrozenConfigs(self.config.hydra.sweep),
            callbacks=self.context.callbacks,
            execution_whitelist=self.context.execution_whitelist,
        )
        return Plugins.instance().instantiate_launcher(
            hydra_context=frozen, task_function=self.task_function, config=self.config
        )

    def _plan(self, words: list[str]) -> "Plan":
        from resnet_sweep.composition.command import STARTED_IN
        from resnet_sweep.sweeps.history import History
        from resnet_sweep.sweeps.ledger import Ledger
        from resnet_sweep.sweeps.plan import Planner
        from resnet_sweep.sweeps.preview import ComposingBar

        directory = Path(os.path.abspath(self.config.hydra.sweep.dir))
        # A directory named by the time is always a new one.
        pattern = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)["dir"]
        ledger = Ledger() if "${now:" in pattern else Ledger.read(directory)
        history = History([STARTED_IN / "outputs", STARTED_IN / "multirun"])
        loader = self.context.config_loader
        with ComposingBar() as bar:
            return Planner(loader, self.config, directory, ledger, history).make(words, bar.advance)
