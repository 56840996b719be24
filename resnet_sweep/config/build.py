"""Build the objects that a config describes."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_sweep.config import COLLECTION_GROUPS
from resnet_sweep.config.check import EXTRA_SETTINGS, parameters
from resnet_sweep.config.instantiate import instantiate, locate
from resnet_sweep.data.array_cache import CachedDataset
from resnet_sweep.data.dataset import DataDescription, Dataset
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.protocols import Augmentation, DataSource, ValidationMetric
from resnet_sweep.runs.metrics import FURTHER
from resnet_sweep.training.callbacks import Callback
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.fine_tuning import classifier_names
from resnet_sweep.training.optimizers import param_groups
from resnet_sweep.training.schedules import Schedule
from resnet_sweep.training.trainer import steps_per_epoch

# Datasets by their configs in JSON.
Sources = dict[str, CachedDataset]

IS_NO_MODULE = "isn't a torch.nn.Module"


def build_dataset(config: Mapping[str, Any], sources: Sources | None = None) -> Dataset:
    """Return the images that a run uses.

    Args:
        config: the config of the run.
        sources: the cached datasets of earlier calls, which aren't read again. A cached dataset
            that is missing is added.
    """
    key = json.dumps(config["data"])
    source: DataSource | None = None if sources is None else sources.get(key)
    if source is None:
        source = _instantiate("data", config["data"], DataSource, "has no method load(seed)")
        if sources is not None and isinstance(source, CachedDataset):
            sources[key] = source
    try:
        dataset = source.load(config["seed"])
    except (ConfigError, OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"raised {type(error).__name__} in load ({one_line(error)})"
        raise _unusable("data", config["data"], reason) from error
    if not isinstance(dataset, Dataset):
        reason = f"returned {type(dataset).__name__} in load instead of resnet_sweep.data.Dataset"
        raise _unusable("data", config["data"], reason)
    return dataset


def build_model(config: Mapping[str, Any], data: Dataset | DataDescription) -> nn.Module:
    """Return the model, with one output for each class of the data."""
    supplied = model_arguments(config, data)
    model: nn.Module = _instantiate("model", config["model"], nn.Module, IS_NO_MODULE, **supplied)
    return model


def model_arguments(config: Mapping[str, Any], data: Dataset | DataDescription) -> dict[str, int]:
    """Return the arguments that the program passes to the model.

    They are the number of classes, and the number of channels of the images if the model has a
    parameter `in_channels`.
    """
    supplied = {"num_classes": data.num_classes}
    if "in_channels" in parameters(locate("model", config["model"]["_target_"])):
        supplied["in_channels"] = data.channels
    return supplied


def build_loss(config: Mapping[str, Any]) -> nn.Module:
    """Return the loss; see `protocols.Loss`."""
    loss: nn.Module = _instantiate("loss", config["loss"], nn.Module, IS_NO_MODULE)
    return loss


def build_optimizer(
    config: Mapping[str, Any], model: nn.Module, num_classes: int
) -> torch.optim.Optimizer:
    """Return the optimizer for all trained weights of a model with this number of classes."""
    settings, factor = dict(config["optim"]), config["trainer"].get("backbone_lr_factor", 1.0)
    classifier = None if factor == 1 else classifier_names(model, num_classes)
    groups = param_groups(model, settings.pop("decay_norm_and_bias", True), factor, classifier)
    reason = "isn't a torch.optim.Optimizer"
    optimizer: torch.optim.Optimizer = _instantiate(
        "optim", settings, torch.optim.Optimizer, reason, params=groups
    )
    return optimizer


def build_schedule(
    config: Mapping[str, Any], settings: TrainerConfig, dataset: Dataset
) -> Schedule:
    """Return the function from a step to its learning rate."""
    schedule: Schedule = _instantiate(
        "schedule",
        config["schedule"],
        Schedule,
        "isn't a resnet_sweep.training.schedules.Schedule",
        lr=config["optim"]["lr"],
        epochs=settings.epochs,
        steps_per_epoch=steps_per_epoch(len(dataset.train), settings),
    )
    return schedule


def build_augmentation(config: Mapping[str, Any], dataset: Dataset) -> list[Augmentation]:
    """Return the augmentation operations, in their order."""
    reason = "can't be called with images, labels and a generator"
    return _collection(
        config, "augmentation", lambda name: getattr(dataset, name), Augmentation, reason
    )


def augmentation_epochs(config: Mapping[str, Any], epochs: int) -> list[int]:
    """Return the number of epochs, from the first on, in which each augmentation is applied.

    Args:
        epochs: number of epochs of the run, of which the setting `until` is a fraction.
    """
    # Without this small number, 0.07 * 100 would become 8, because the product is above 7.
    return [
        math.ceil(node.get("until", 1.0) * epochs - 1e-6)
        for node in config["augmentation"].values()
    ]


def build_metrics(config: Mapping[str, Any], num_classes: int) -> dict[str, ValidationMetric]:
    """Return the further metrics by their columns in `metrics.csv`."""
    group = config.get("metric", {})
    built = _collection(
        {"metric": group},
        "metric",
        {"num_classes": num_classes}.get,
        ValidationMetric,
        "can't be called with logits and labels",
    )
    return {FURTHER + name: metric for name, metric in zip(group, built, strict=True)}


def build_loggers(config: Mapping[str, Any]) -> list[Callback]:
    """Return the callbacks of the logger group; their argument `folder` is the current folder."""
    reason = "isn't a resnet_sweep.training.callbacks.Callback"
    return _collection(config, "logger", {"folder": Path.cwd()}.get, Callback, reason)


def _collection(
    config: Mapping[str, Any],
    group: str,
    argument: Callable[[str], Any],
    kind: type,
    reason: str,
) -> list[Any]:
    built, extra = [], EXTRA_SETTINGS.get(group, {})
    for name, described in config[group].items():
        path = f"{group}.{name}"
        node = {key: value for key, value in described.items() if key not in extra}
        taken = COLLECTION_GROUPS[group] & parameters(locate(path, node["_target_"])).keys()
        built.append(
            _instantiate(
                path, node, kind, reason, **{parameter: argument(parameter) for parameter in taken}
            )
        )
    return built


def _instantiate(
    path: str, node: Mapping[str, Any], kind: type, reason: str, **supplied: Any
) -> Any:
    """Instantiate an object; raise ConfigError with the reason if it isn't of the right kind."""
    built = instantiate(path, node, **supplied)
    if not isinstance(built, kind):
        raise _unusable(path, node, reason)
    return built


def _unusable(path: str, node: Mapping[str, Any], reason: str) -> ConfigError:
    return ConfigError(
        f"{path}._target_={node['_target_']} can't be used, because the object {reason}: correct "
        "the class, or name another one"
    )
