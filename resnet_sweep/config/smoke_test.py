"""What a config describes, tried on a little data before a run starts."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from resnet_sweep.config.build import build_augmentation, build_optimizer, build_shape
from resnet_sweep.config.instantiate import instantiate
from resnet_sweep.data.dataset import Batches, Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.device import memory_bytes
from resnet_sweep.training.progressive_resizing import ProgressiveResizing

Result = TypeVar("Result")
# A model on the meta device takes about a megabyte.
MOST_RESULTS = 64


class SmokeTests:
    """Tries models, optimizers, augmentations and losses; each combination is tried once.

    The jobs of a sweep have most of their parts in common. A result, or the error, is kept by the
    parts of the config that it depends on.
    """

    def __init__(self) -> None:
        self._results: dict[str, Any] = {}

    def model(
        self,
        config: Mapping[str, Any],
        settings: TrainerConfig,
        dataset: Dataset,
        world_size: int,
    ) -> nn.Module:
        """Send the shapes of batches through the model, and return it, on the meta device.

        Raises:
            ConfigError: it can't be trained on them.
        """

        def attempt() -> nn.Module:
            model = build_shape(config, dataset)
            check_memory(model)
            with torch.device("meta"):
                try_model(model, dataset)
                check_sizes(settings, model, dataset, world_size)
            return model

        batches = [len(dataset.train), settings.batch_size, settings.drop_last]
        sizes = [settings.progressive_resizing, settings.epochs]
        share = [world_size, settings.sync_batch_norm]
        return self._once(attempt, "model", config["model"], _shape(dataset), batches, sizes, share)

    def optimizer(self, config: Mapping[str, Any]) -> None:
        """Make a step with the optimizer.

        Raises:
            ConfigError: it can't make one.
        """
        self._once(lambda: try_optimizer(config), "optim", config["optim"])

    def batch(self, config: Mapping[str, Any], dataset: Dataset) -> bool:
        """Send a batch through augmentation and loss; return whether its labels are mixed.

        Raises:
            ConfigError: one of them can't be applied.
        """

        def attempt() -> bool:
            labels = try_augmentation(build_augmentation(config, dataset), dataset)
            try_loss(config, labels, dataset)
            return labels.ndim == 2

        parts = [config["augmentation"], config["loss"], _shape(dataset), len(dataset.train) > 1]
        return self._once(attempt, "batch", *parts)

    def _once(self, attempt: Callable[[], Result], *parts: Any) -> Result:
        key = json.dumps(parts)
        if key not in self._results:
            try:
                self._results[key] = attempt()
            except ConfigError as error:
                self._results[key] = error
            if len(self._results) > MOST_RESULTS:
                del self._results[next(iter(self._results))]
        kept = self._results[key]
        if isinstance(kept, ConfigError):
            raise ConfigError(str(kept))
        result: Result = kept
        return result


def _shape(dataset: Dataset) -> Sequence[Any]:
    return [list(dataset.train.images.shape[1:]), list(dataset.classes), dataset.mean]


def check_memory(model: nn.Module) -> None:
    """See that the weights of a model on the meta device, and their gradients, fit in memory.

    Raises:
        ConfigError: they don't.
    """
    count = sum(weight.numel() for weight in model.parameters())
    needed, there = 2 * 4 * count, memory_bytes()
    if needed > there:
        raise ConfigError(
            f"model: its {count:,} weights and their gradients take {needed / 2**30:,.1f} GB, but "
            f"there are {there / 2**30:,.1f} GB of memory: choose smaller model.widths, or fewer "
            "model.blocks"
        )


def try_model(model: nn.Module, dataset: Dataset) -> None:
    """Send the shape of a batch through a model on the meta device.

    Raises:
        ConfigError: it doesn't come out as logits.
    """
    shape = tuple(dataset.train.images.shape[1:])
    try:
        logits = model.eval()(torch.empty(2, *shape, device="meta"))
        if logits.shape != (2, dataset.num_classes):
            raise ValueError(f"its output has shape {tuple(logits.shape)}")
    # Models of all sorts fail in all sorts of ways.
    except Exception as error:
        raise ConfigError(
            f"model: it can't classify images of shape {shape}: {_reason(error)}"
        ) from error


def check_sizes(settings: TrainerConfig, model: nn.Module, dataset: Dataset, ranks: int) -> None:
    """See that a model on the meta device can be trained on images of each size, and on the
    smallest batch of an epoch, or on the share of it that the last of so many processes has.

    Raises:
        ConfigError: it can't.
    """
    count = len(dataset.train) % settings.batch_size
    if settings.drop_last or not count:
        count = settings.batch_size
    if count < ranks:
        raise ConfigError(
            f"trainer.batch_size={settings.batch_size} leaves {count} of the {len(dataset.train)} "
            f"training images for the last batch, too few for {ranks} processes: choose another "
            "trainer.batch_size, or trainer.drop_last=true"
        )
    if not settings.sync_batch_norm:
        count //= ranks
    channels, height, width = dataset.train.images.shape[1:]
    advice = "choose another trainer.batch_size, or trainer.drop_last=true"
    try_batch(model, count, (channels, height, width), advice)
    if settings.progressive_resizing is None:
        return
    sizes = settings.progressive_resizing
    setting = f"trainer.progressive_resizing={sizes}"
    try:
        ProgressiveResizing(sizes, settings.epochs)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    stride = getattr(model, "stride", 1)
    for size in sizes:
        if size > width:
            raise ConfigError(
                f"{setting}: {size} is more than the {width} pixels of the images: choose sizes "
                "up to that"
            )
        if isinstance(stride, int) and size % stride:
            raise ConfigError(
                f"{setting}: {size} isn't divisible by {stride}, the product of model.strides: "
                "choose a multiple of that"
            )
        advice = f"choose another size than {size} in {setting}, or another trainer.batch_size"
        try_batch(model, count, (channels, size, size), advice)


def try_batch(model: nn.Module, count: int, shape: tuple[int, int, int], advice: str) -> None:
    """Send the shape of a batch through a model on the meta device, in training mode.

    Args:
        model: with weights on the meta device.
        count: images in the batch.
        shape: of an image.
        advice: what a user can change.

    Raises:
        ConfigError: the model can't be trained on such a batch.
    """
    try:
        model.train()(torch.empty(count, *shape, device="meta"))
    except Exception as error:
        raise ConfigError(
            f"model: it can't be trained on a batch of {count} of shape {shape} "
            f"({_reason(error)}): {advice}"
        ) from error


def try_optimizer(config: Mapping[str, Any]) -> None:
    """Make a step with an optimizer, of a few weights.

    Raises:
        ConfigError: it needs something else than gradients.
    """
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer = build_optimizer(config, model)
    try:
        optimizer.step()
    # Optimizers of all sorts fail in all sorts of ways.
    except Exception as error:
        raise ConfigError(
            f"optim: {type(optimizer).__name__} can't make a step here ({_reason(error)}): choose "
            f"another optimizer, or other settings than {_listed(config['optim'])}"
        ) from error


def try_augmentation(operations: list[Any], dataset: Dataset) -> Tensor:
    """Send an image or two through the operations on training batches.

    Returns:
        Their labels, (B,), or (B, classes) if the operations mix them.

    Raises:
        ConfigError: what comes out isn't a batch.
    """
    count = min(2, len(dataset.train))
    images, labels = Batches(dataset.train, torch.device("cpu")).take(torch.arange(count))
    shape, generator = images.shape, torch.Generator().manual_seed(0)
    try:
        for operation in operations:
            images, labels = operation(images, labels, generator)
        if images.shape != shape or labels.shape not in ((count,), (count, dataset.num_classes)):
            raise ValueError(
                f"images of shape {tuple(shape)} came out as {tuple(images.shape)}, with labels of "
                f"shape {tuple(labels.shape)}"
            )
    # Operations of all sorts fail in all sorts of ways.
    except Exception as error:
        raise ConfigError(f"augmentation: it can't be applied: {_reason(error)}") from error
    return labels


def try_loss(config: Mapping[str, Any], labels: Tensor, dataset: Dataset) -> None:
    """Apply a loss to labels as the augmentation gives them.

    Args:
        config: resolved.
        labels: (B,), or (B, classes) if they are mixed.
        dataset: that they are from.

    Raises:
        ConfigError: it isn't a finite number.
    """
    logits = torch.zeros(len(labels), dataset.num_classes)
    try:
        with warnings.catch_warnings(action="ignore"):
            loss = instantiate("loss", config["loss"])(logits, labels)
        if loss.ndim or not loss.isfinite():
            raise ValueError(f"it is {loss.tolist()}")
    except ConfigError:
        raise
    # Losses of all sorts fail in all sorts of ways.
    except Exception as error:
        mixed = "mixed labels" if labels.ndim == 2 else "labels"
        raise ConfigError(
            f"loss: it can't be computed of logits and {mixed} ({_reason(error)}): choose another "
            "loss" + (", or augmentation that mixes nothing" if labels.ndim == 2 else "")
        ) from error


def _listed(node: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in node.items() if name != "_target_")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
