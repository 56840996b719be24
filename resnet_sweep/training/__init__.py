"""Training: the loop that every run uses, and its settings."""

from resnet_sweep.training.config import EarlyStopping, TrainerConfig

__all__ = ["EarlyStopping", "TrainerConfig"]
