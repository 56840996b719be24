"""Smoke tests: run the objects of a config on a small batch before training starts.

A failed test raises a `ConfigError`.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.compare.format import pluralize
from resnet_sweep.config.build import (
    build_augmentation,
    build_loss,
    build_metrics,
    build_model,
    build_optimizer,
)
from resnet_sweep.data.dataset import Batches, Dataset
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs.metrics import FURTHER
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.device import memory_bytes
from resnet_sweep.training.metrics import evaluate_metric
from resnet_sweep.training.progressive_resizing import ProgressiveResizing, scaled_height

# A cached model on the meta device takes about a megabyte.
MAX_RESULTS = 64


class SmokeTests:
    """Smoke tests of models, optimizers, augmentations, losses and metrics, with a cache.

    The jobs of a sweep share most parts of their configs. The result of a test, or its error, is
    cached under the parts that it depends on.
    """

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def run(
        self, config: Mapping[str, Any], settings: TrainerConfig, dataset: Dataset, world_size: int
    ) -> tuple[nn.Module, bool]:
        """Return the model on the meta device, and whether the augmentation mixes labels."""
        data = [list(dataset.train.images.shape[1:]), dataset.classes, dataset.mean]
        batches = [len(dataset.train), settings.batch_size, settings.drop_last]
        model = self._once(
            lambda: smoke_test_model(config, settings, dataset, world_size),
            [config["model"], data, batches, settings.progressive_resizing],
            [world_size, settings.sync_batch_norm],
        )
        self._once(
            lambda: smoke_test_optimizer(config), config["optim"], settings.backbone_lr_factor
        )
        mixed = self._once(
            lambda: smoke_test_batch(config, dataset),
            [config["augmentation"], config["loss"], data, len(dataset.train) > 1],
        )
        self._once(
            lambda: smoke_test_metrics(config, dataset.num_classes),
            [config.get("metric", {}), dataset.num_classes],
        )
        return model, mixed

    def _once(self, attempt: Callable[[], Any], *parts: Any) -> Any:
        key = json.dumps(parts)
        if key not in self._results:
            try:
                self._results[key] = attempt()
            except ConfigError as error:
                self._results[key] = error
            if len(self._results) > MAX_RESULTS:
                del self._results[next(iter(self._results))]
        result = self._results[key]
        if isinstance(result, ConfigError):
            raise ConfigError(str(result))
        return result


@contextmanager
def _explain_errors(failure: str, advice: str) -> Iterator[None]:
    """Raise any error in the `with` block as a ConfigError; custom classes may raise any type."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{failure} ({one_line(error)}): {advice}") from error


def smoke_test_model(
    config: Mapping[str, Any], settings: TrainerConfig, dataset: Dataset, world_size: int
) -> nn.Module:
    """Return the model on the meta device, tested with the smallest batch at every image size."""
    try:
        with torch.device("meta"):
            model = build_model(config, dataset)
    # Some constructors read the values of tensors, which don't exist on the meta device.
    except ConfigError:
        model = build_model(config, dataset).to("meta")
    check_memory(model)
    shape = tuple(dataset.train.images.shape[1:])
    failure = f"the model can't classify images of shape {shape}"
    advice = "choose another model"
    if dataset.channels != 3:
        advice += ", or give your own class a parameter in_channels"
    with _explain_errors(failure, advice), torch.device("meta"):
        logits = model.eval()(torch.empty(2, *shape))
        if logits.shape != (2, dataset.num_classes):
            raise ValueError(f"its output has shape {tuple(logits.shape)}")
    count, sizes = smallest_batch(settings, dataset, world_size), settings.progressive_resizing
    check_sizes(settings, dataset.train.images.shape[-1], getattr(model, "stride", 1))
    advice = "choose another trainer.batch_size, or trainer.drop_last=true"
    if sizes is not None:
        advice += f", or other sizes than trainer.progressive_resizing={sizes}"
    channels, height, width = shape
    resized = ((channels, scaled_height(height, width, size), size) for size in sizes or ())
    for part in (shape, *resized):
        failure = f"the model can't train on a batch of {pluralize(count, 'image')} of shape {part}"
        with _explain_errors(failure, advice), torch.device("meta"):
            model.train()(torch.empty(count, *part))
    return model


def check_sizes(settings: TrainerConfig, width: int, stride: Any) -> None:
    """Check trainer.progressive_resizing against the width of images and the model's stride."""
    sizes = settings.progressive_resizing
    for size in sizes or ():
        if size > width:
            raise ConfigError(
                f"trainer.progressive_resizing={sizes} has {size}, but the images are {width} "
                f"pixels wide: choose sizes <= {width}"
            )
        if isinstance(stride, int) and size % stride:
            raise ConfigError(
                f"trainer.progressive_resizing={sizes} has {size}, which isn't divisible by "
                f"{stride}, the product of model.strides: choose multiples of {stride}"
            )
    if sizes is not None:
        try:
            ProgressiveResizing(sizes, settings.epochs)
        except ValueError as error:
            raise ConfigError(str(error)) from error


def check_memory(model: nn.Module) -> None:
    """Check that the weights of a model, and their gradients, fit in memory."""
    advice = "use layers with a fixed input size"
    with _explain_errors("the model has weights without a shape", advice):
        count = sum(weight.numel() for weight in model.parameters())
    needed, available = 2 * 4 * count, memory_bytes()
    if needed > available:
        raise ConfigError(
            f"the model's {count:,} weights and their gradients need {needed / 2**30:,.1f} GB, but "
            f"the machine has {available / 2**30:,.1f} GB of memory: choose smaller model.widths "
            "or fewer model.blocks"
        )


def smallest_batch(settings: TrainerConfig, dataset: Dataset, world_size: int) -> int:
    """Return the size of the smallest batch of an epoch, or of a process's part of it."""
    count = len(dataset.train) % settings.batch_size
    if settings.drop_last or not count:
        count = settings.batch_size
    if count < world_size:
        raise ConfigError(
            f"trainer.batch_size={settings.batch_size} leaves {count} of the {len(dataset.train)} "
            f"training images for the last batch, too few for {world_size} processes: choose "
            "another trainer.batch_size, or trainer.drop_last=true"
        )
    return count if settings.sync_batch_norm else count // world_size


def smoke_test_optimizer(config: Mapping[str, Any]) -> None:
    """Make a step with the optimizer on a few weights."""
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer = build_optimizer(config, model, num_classes=2)
    listed = (f"{name}={value}" for name, value in config["optim"].items() if name != "_target_")
    with _explain_errors(
        f"optim: {type(optimizer).__name__} can't make a step with {', '.join(listed)}",
        "choose another optimizer or other settings",
    ):
        optimizer.step()


def smoke_test_metrics(config: Mapping[str, Any], num_classes: int) -> None:
    """Compute the further metrics of two images for each class."""
    labels = torch.arange(num_classes).repeat(2)
    logits = torch.randn(len(labels), num_classes, generator=torch.Generator().manual_seed(0))
    for column, metric in build_metrics(config, num_classes).items():
        name = column.removeprefix(FURTHER)
        failure = f"metric.{name} can't be computed from logits and labels"
        with _explain_errors(failure, "change it, or choose another metric"):
            evaluate_metric(metric, logits, labels)


def smoke_test_batch(config: Mapping[str, Any], dataset: Dataset) -> bool:
    """Run augmentation and loss on one or two images; return whether the labels are mixed."""
    count, generator = min(2, len(dataset.train)), torch.Generator().manual_seed(0)
    images, plain = Batches(dataset.train, torch.device("cpu")).take(torch.arange(count))
    labels = plain
    shape = images.shape
    operations = build_augmentation(config, dataset)
    with _explain_errors("the augmentation can't be applied", "change it, or choose another"):
        for operation in operations:
            images, labels = operation(images, labels, generator)
        if images.shape != shape or labels.shape not in ((count,), (count, dataset.num_classes)):
            raise ValueError(
                f"for images of shape {tuple(shape)} it returns images of shape "
                f"{tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
            )
    mixed = labels.ndim == 2
    kinds = [labels]
    if mixed and any(node.get("until", 1) < 1 for node in config["augmentation"].values()):
        # The loss also gets the labels of the epochs without this operation.
        kinds.append(plain)
    for labels in kinds:
        smoke_test_loss(config, labels, dataset.num_classes)
    return mixed


def smoke_test_loss(config: Mapping[str, Any], labels: Tensor, num_classes: int) -> None:
    """Compute the loss of images with these labels."""
    mixed = labels.ndim == 2
    with (
        _explain_errors(
            f"the loss can't be computed from logits and {'mixed ' if mixed else ''}labels",
            "choose another loss" + (", or an augmentation without mixing" if mixed else ""),
        ),
        warnings.catch_warnings(action="ignore"),
    ):
        loss = build_loss(config)(torch.zeros(len(labels), num_classes), labels)
        if loss.ndim or not loss.isfinite():
            raise ValueError(f"its value is {loss.tolist()}")
