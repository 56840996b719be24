"""A config, found right, with all that can be known before training."""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_sweep.composition.check import COLLECTIONS, check_config, parameters
from resnet_sweep.composition.targets import instantiate, locate
from resnet_sweep.data.batches import Batches
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import RequestError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.signature import sign
from resnet_sweep.training.device import resolve_device, resolve_precision
from resnet_sweep.training.loop import Training, steps_per_epoch
from resnet_sweep.training.monitor import Monitor
from resnet_sweep.training.parameters import parameter_groups
from resnet_sweep.training.resizing import ProgressiveResizing
from resnet_sweep.training.settings import TrainerSettings

# A job may have Hydra change the working directory; users stay where they are.
STARTED_IN = Path.cwd()


@dataclass(frozen=True)
class Prepared:
    """A run that can begin.

    Attributes:
        config: resolved.
        settings: of the trainer.
        dataset: loaded and checked.
        device, precision: what `trainer.device` and `trainer.precision` come to.
        parameters: number of trained weights of the model.
        signature: of the run.
        notes: what a reader of the run's results should know.
    """

    config: Mapping[str, Any]
    settings: TrainerSettings
    dataset: Dataset
    device: torch.device
    precision: str
    parameters: int
    signature: str
    notes: list[str]

    def training(self) -> Training:
        """The model with its first weights, and all that trains it."""
        seed = self.config["seed"]
        # On the CPU, so that a seed means the same weights on every device.
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(self.config, self.dataset).to(self.device)
        return Training(
            model=model,
            optimizer=build_optimizer(self.config, model),
            schedule=build_schedule(self.config, self.settings, self.dataset),
            augmentation=build_augmentation(self.config, self.dataset),
            loss=instantiate("loss", self.config["loss"]).to(self.device),
            dataset=self.dataset,
            settings=self.settings,
            seed=seed,
            device=self.device,
            precision=self.precision,
        )


def prepare(config: Mapping[str, Any]) -> Prepared:
    """Check a resolved config, the data and the device.

    All that the config names is built once, the model on torch's meta device, which costs little.
    Nothing is written but the data's array files, where they weren't made yet.

    Raises:
        RequestError: the run can't begin.
    """
    check_config(config)
    settings = instantiate("trainer", config["trainer"])
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    source = instantiate("data", config["data"])
    dataset = source.load(config["seed"])
    if settings.batch_size > len(dataset.train):
        raise RequestError(
            f"trainer.batch_size={settings.batch_size} is more than the {len(dataset.train)} "
            "training images: choose a smaller one"
        )
    model = build_shape(config, dataset)
    with torch.device("meta"):
        try_model(model, dataset)
        check_optimizer(build_optimizer(config, model))
        instantiate("loss", config["loss"])
    build_schedule(config, settings, dataset)
    check_sizes(settings, model, dataset)
    mixed = try_augmentation(build_augmentation(config, dataset), dataset)
    build_loggers(config)
    return Prepared(
        config=config,
        settings=settings,
        dataset=dataset,
        device=device,
        precision=precision,
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        signature=sign(config, precision, dataset.fingerprint),
        notes=list(_notes(settings, mixed)),
    )


def _notes(settings: TrainerSettings, mixed: bool) -> Iterator[str]:
    last = settings.early_stopping.epoch
    if last is not None and last >= settings.epochs:
        yield (
            f"trainer.early_stopping.epoch={last} has no effect, since the run ends after epoch "
            f"{settings.epochs}"
        )
    if settings.ema_decay is not None:
        yield "val_acc and val_loss are those of the averaged weights (trainer.ema_decay)"
    if mixed:
        yield "in train_acc, an image with a mixed label counts by the predicted class's share"


def build_model(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model, with an output for each class of the data."""
    return instantiate("model", config["model"], num_classes=dataset.num_classes)


def build_shape(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model on the meta device."""
    with torch.device("meta"), suppress(RequestError):
        return build_model(config, dataset)
    # Some constructors read numbers from tensors, which the meta device hasn't.
    return build_model(config, dataset).to("meta")


def try_model(model: nn.Module, dataset: Dataset, size: int | None = None) -> None:
    """Send the shape of a batch through a model on the meta device.

    Args:
        model: with weights on the meta device.
        dataset: which it is to classify.
        size: pixels, of both sides of the images; None for those of the data.

    Raises:
        RequestError: it doesn't come out as logits.
    """
    channels, *full = dataset.train.images.shape[1:]
    shape = (channels, *(full if size is None else (size, size)))
    try:
        logits = model.eval()(torch.empty(2, *shape, device="meta"))
        if logits.shape != (2, dataset.num_classes):
            raise ValueError(f"its output has shape {tuple(logits.shape)}")
    # Models of all sorts fail in all sorts of ways.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"model: it can't classify images of shape {shape}: {reason}") from error


def check_sizes(settings: TrainerSettings, model: nn.Module, dataset: Dataset) -> None:
    """See that a model can be trained on images of each size of `trainer.progressive_resizing`.

    Raises:
        RequestError: it can't.
    """
    if settings.progressive_resizing is None:
        return
    sizes = settings.progressive_resizing
    try:
        ProgressiveResizing(sizes, settings.epochs, len(dataset.train))
    except ValueError as error:
        raise RequestError(str(error)) from error
    full = dataset.train.images.shape[-1]
    stride = getattr(model, "stride", 1)
    for size in sizes:
        if size > full:
            raise RequestError(
                f"trainer.progressive_resizing={sizes}: {size} is more than the {full} pixels of "
                "the images: choose sizes up to that"
            )
        if isinstance(stride, int) and size % stride:
            raise RequestError(
                f"trainer.progressive_resizing={sizes}: {size} isn't divisible by {stride}, the "
                "product of model.strides: choose a multiple of that"
            )
        try_model(model, dataset, size)


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """See that an optimizer can make a step from gradients alone.

    Raises:
        RequestError: it asks for more.
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise RequestError(
            f"optim: {type(optimizer).__name__} needs the loss several times a step, which this "
            "program doesn't offer: choose another optimizer"
        )


def try_augmentation(operations: list[Any], dataset: Dataset) -> bool:
    """Send an image or two through the operations on training batches.

    Returns:
        Whether the labels come out mixed.

    Raises:
        RequestError: what comes out isn't a batch.
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
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(f"augmentation: it can't be applied: {reason}") from error
    return labels.ndim == 2


def build_optimizer(config: Mapping[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all weights of a model."""
    settings = dict(config["optim"])
    groups = parameter_groups(model, settings.pop("decay_norm_and_bias", True))
    return instantiate("optim", settings, params=groups)


def build_schedule(config: Mapping[str, Any], settings: TrainerSettings, dataset: Dataset) -> Any:
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


def build_loggers(config: Mapping[str, Any]) -> list[Monitor]:
    """The monitors that the logger group names."""
    return build_collection("logger", config, {"folder": STARTED_IN})


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
