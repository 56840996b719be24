"""What Hydra's own Optuna sweeper would search, found right before it begins."""

import optuna
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf

from resnet_sweep.compare.objective import check_directions
from resnet_sweep.composition.gate import words_of
from resnet_sweep.sweeps.expansion import preset_words
from resnet_sweep.sweeps.study.composer import Composer
from resnet_sweep.sweeps.study.space import Space


def check(loader: ConfigLoader, config: DictConfig) -> list[str]:
    """See that a search can begin.

    Args:
        loader: composes.
        config: of the search as a whole.

    Returns:
        What it is, for people.

    Raises:
        RequestError: its directions are contrary to the objective, or a corner of its search space
            is wrong.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    words = [*preset_words(settings.get("params")), *words_of(config.hydra)]
    space = Space(words)
    composer = Composer(loader, config, space)
    directions = check_directions(composer.objectives, settings["direction"])
    lines = [f"{settings['n_trials']} trials"]
    lines += [
        f"  {objective.name}: {direction}"
        for objective, direction in zip(composer.objectives, directions, strict=True)
    ]
    lines += [f"  {line}" for line in space.lines()]
    return [*lines, f"  {len(composer.corners())} corners of this space are right"]
