"""The training loop, a single one for every run."""

from resnet_sweep.training.config import EarlyStopping, TrainerConfig

__all__ = ["EarlyStopping", "TrainerConfig"]
