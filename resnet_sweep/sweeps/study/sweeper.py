"""The sweeper for studies: Hydra's Optuna sweeper, and what that can't do."""

import sys
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class StudySweeper(Sweeper):
    """Searches with Optuna: prunes, shares the work, goes on after anything.

    Its settings are those of Hydra's Optuna sweeper, and some more.

    Args:
        settings: `sampler`, `pruner`, `direction`, `storage`, `study_name`, `n_trials`,
            `max_failures`, `enqueue`, `warm_start`, `params`; see conf/hydra/sweeper/study.yaml.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what Hydra hands over; called before `sweep`."""
        self.context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> None:
        """Work on the study until it is over.

        Args:
            arguments: overrides of the command line, some with ranges.

        Raises:
            RequestError: the study can't begin; nothing was written.
            SystemExit: with the status, if not all trials came to what was asked for.
        """
        # Imported here because Optuna and torch take seconds that --help needn't wait.
        from resnet_sweep.sweeps.expansion import preset_words
        from resnet_sweep.sweeps.study.crew import Crew
        from resnet_sweep.sweeps.study.launched_crew import LaunchedCrew
        from resnet_sweep.sweeps.study.request import StudyRequest
        from resnet_sweep.sweeps.study.worker import follow, is_launched

        words = [*preset_words(self.settings.get("params")), *arguments]
        request = StudyRequest(self.context, self.config, self.settings, words)
        if self.config.sweep_mode == "preview":
            request.show()
            return
        typed, count = sys.argv[1:], self.settings.get("n_jobs", 1)
        launched = is_launched()
        if launched or self.config.hydra.runtime.choices["hydra/launcher"] == "basic":
            sitting = request.begin()
            if launched:
                follow()
            # This process is a worker itself.
            with Crew(typed, sitting.directory, count - 1):
                status = sitting.carry_out()
        else:
            crew = LaunchedCrew(typed, self.context, self.config, count)
            sitting = request.begin()
            status = sitting.attend(crew.launch)
        if status:
            raise SystemExit(status)
