"""The training loop, a single one for every run."""

from resnet_sweep.training.settings import TrainerSettings

__all__ = ["TrainerSettings"]
