"""A config, found right, with all that can be known before training."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from resnet_sweep.composition.check import check_config
from resnet_sweep.composition.targets import instantiate
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import RequestError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.signature import sign
from resnet_sweep.training.device import resolve_device, resolve_precision
from resnet_sweep.training.loop import Training, steps_per_epoch
from resnet_sweep.training.monitor import Monitor
from resnet_sweep.training.parameters import parameter_groups
from resnet_sweep.training.settings import TrainerSettings


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
    """

    config: Mapping[str, Any]
    settings: TrainerSettings
    dataset: Dataset
    device: torch.device
    precision: str
    parameters: int
    signature: str

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
            augmentation=build_augmentation(self.config),
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
        build_optimizer(config, model)
        instantiate("loss", config["loss"])
    build_schedule(config, settings, dataset)
    build_augmentation(config)
    build_loggers(config)
    return Prepared(
        config=config,
        settings=settings,
        dataset=dataset,
        device=device,
        precision=precision,
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        signature=sign(config, precision, dataset.fingerprint),
    )


def build_model(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model, with an output for each class of the data."""
    return instantiate("model", config["model"], num_classes=len(dataset.classes))


def build_shape(config: Mapping[str, Any], dataset: Dataset) -> nn.Module:
    """The model on the meta device."""
    with torch.device("meta"), suppress(RequestError):
        return build_model(config, dataset)
    # Some constructors read numbers from tensors, which the meta device hasn't.
    return build_model(config, dataset).to("meta")


def try_model(model: nn.Module, dataset: Dataset) -> None:
    """Send the shape of a batch through a model on the meta device.

    Raises:
        RequestError: it doesn't come out as logits.
    """
    shape = dataset.train.images.shape[1:]
    try:
        logits = model.eval()(torch.empty(2, *shape, device="meta"))
        if logits.shape != (2, len(dataset.classes)):
            raise ValueError(f"its output has shape {tuple(logits.shape)}")
    # Models of all sorts fail in all sorts of ways.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"model: it can't classify images of shape {tuple(shape)}: {reason}"
        ) from error


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


def build_augmentation(config: Mapping[str, Any]) -> list[Any]:
    """The operations on training batches, in order."""
    return [
        instantiate(f"augmentation.{name}", node) for name, node in config["augmentation"].items()
    ]


def build_loggers(config: Mapping[str, Any]) -> list[Monitor]:
    """The monitors that the logger group names."""
    return [instantiate(f"logger.{name}", node) for name, node in config["logger"].items()]
