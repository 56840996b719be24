"""Training callbacks: what is printed, logged and drawn while a run trains."""

from resnet_sweep.training.callbacks.callback import Callback, Pruned, Step
from resnet_sweep.training.callbacks.mlflow import MLflow
from resnet_sweep.training.callbacks.plots import Plots
from resnet_sweep.training.callbacks.tensorboard import TensorBoard

__all__ = ["Callback", "MLflow", "Plots", "Pruned", "Step", "TensorBoard"]
