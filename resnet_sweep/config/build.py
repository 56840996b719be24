"""What a config describes, built."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_sweep.config.check import COLLECTIONS, parameters
from resnet_sweep.config.instantiate import instantiate, locate
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.training.callbacks import Callback
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.optimizers import param_groups
from resnet_sweep.training.trainer import steps_per_epoch


def build_model(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model, with an output for each class of the data."""
    model: nn.Module = instantiate("model", config["model"], num_classes=dataset.num_classes)
    return model


def build_shape(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model on the meta device."""
    with torch.device("meta"), suppress(ConfigError):
        return build_model(config, dataset)
    # Some constructors read numbers from tensors, which the meta device hasn't.
    return build_model(config, dataset).to("meta")


def build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all weights of a model."""
    settings = dict(config["optim"])
    groups = param_groups(model, settings.pop("decay_norm_and_bias", True))
    optimizer: torch.optim.Optimizer = instantiate("optim", settings, params=groups)
    return optimizer


def build_schedule(config: Mapping[str, Any], settings: TrainerConfig, dataset: Dataset) -> Any:
    """The function from a step to its learning rate."""
    return instantiate(
        "schedule",
        config["schedule"],
        lr=config["optim"]["lr"],
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch(len(dataset.train), settings),
    )


def build_augmentation(config: Mapping[str, Any], dataset: Dataset) -> list[Any]:
    """The operations on training batches, in order."""
    supplied = {name: getattr(dataset, name) for name in COLLECTIONS["augmentation"]}
    return build_collection("augmentation", config, supplied)


def build_loggers(config: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that the logger group names."""
    return build_collection("logger", config, {"folder": Path.cwd()})


def build_collection(
    group: str, config: Mapping[str, Any], supplied: Mapping[str, Any]
) -> list[Any]:
    """The objects of a group that describes any number of them, in order.

    Args:
        group: its name.
        config: the whole one.
        supplied: arguments for those that take them.
    """
    built = []
    for name, node in config[group].items():
        path = f"{group}.{name}"
        taken = supplied.keys() & parameters(locate(path, node["_target_"])).keys()
        built.append(instantiate(path, node, **{each: supplied[each] for each in taken}))
    return built
