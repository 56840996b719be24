"""A config, found right, with all that can be known before training."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_sweep.compare.objective import Objective
from resnet_sweep.composition.build import (
    build_augmentation,
    build_loggers,
    build_model,
    build_optimizer,
    build_schedule,
    build_shape,
)
from resnet_sweep.composition.check import check_config
from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.targets import instantiate
from resnet_sweep.composition.trial import (
    check_memory,
    check_sizes,
    try_augmentation,
    try_loss,
    try_model,
    try_optimizer,
)
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import RequestError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.signature import sign
from resnet_sweep.training.device import (
    check_compile,
    place_rank,
    resolve_device,
    resolve_precision,
)
from resnet_sweep.training.learning_rate import check_recordable
from resnet_sweep.training.loop import Training, steps_per_epoch
from resnet_sweep.training.ranks import Ranks
from resnet_sweep.training.resizing import ProgressiveResizing
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
        notes: what a reader of the run's results should know.
        ranks: the processes that train it.
    """

    config: Mapping[str, Any]
    settings: TrainerSettings
    dataset: Dataset
    device: torch.device
    precision: str
    parameters: int
    signature: str
    notes: list[str]
    ranks: Ranks

    def training(self) -> Training:
        """The model with its first weights, and all that trains it."""
        seed = self.config["seed"]
        # On the CPU, so that a seed means the same weights on every device.
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(self.config, self.dataset).to(self.device)
        if self.ranks.size > 1 and self.settings.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
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
            ranks=self.ranks,
        )


def prepare(config: Mapping[str, Any], ranks: Ranks | None = None) -> Prepared:
    """Check a resolved config, the data and the device.

    All that the config names is built once, the model on torch's meta device, which costs little;
    what another config of this process had in common with this one isn't built again. Nothing is
    written but the data's array files, where they weren't made yet.

    Args:
        config: resolved.
        ranks: the processes that are to train it; None for this one alone.

    Raises:
        RequestError: the run can't begin.
    """
    check_config(config)
    settings = instantiate("trainer", config["trainer"])
    ranks = ranks or Ranks()
    if ranks.size > 1 and not settings.distributed:
        raise RequestError(
            f"torchrun started {ranks.size} processes, but trainer.distributed=false has no run "
            "shared: choose trainer=ddp, or start it without torchrun"
        )
    device = place_rank(resolve_device(settings.device), ranks)
    precision = resolve_precision(settings.precision, device)
    check_compile(settings.compile, device, ranks)
    source = instantiate("data", config["data"])
    dataset = source.load(config["seed"])
    if settings.batch_size > len(dataset.train):
        raise RequestError(
            f"trainer.batch_size={settings.batch_size} is more than the {len(dataset.train)} "
            "training images: choose a smaller one"
        )
    shape = [dataset.train.images.shape[1:], dataset.classes, dataset.mean]
    batches = [len(dataset.train), settings.batch_size, settings.drop_last]
    sizes = [settings.progressive_resizing, settings.epochs]
    share = [ranks.size, settings.sync_batch_norm]
    model = _once(
        _try_model, (config["model"], shape, batches, sizes, share),
        config, settings, dataset, ranks.size,
    )  # fmt: skip
    normed = any(isinstance(module, _BatchNorm) for module in model.modules())
    if ranks.size > 1 and settings.sync_batch_norm and normed and device.type != "cuda":
        raise RequestError(
            f"trainer.sync_batch_norm=true works on GPUs alone, but this is a {device.type}: "
            "choose trainer.sync_batch_norm=false, by which BatchNorm's statistics are those of "
            "each process's share of a batch"
        )
    with torch.device("meta"):
        check_recordable(build_optimizer(config, model), settings.compile)
    _once(try_optimizer, (config["optim"],), config)
    build_schedule(config, settings, dataset)
    mixed = _once(
        _try_batch, (config["augmentation"], config["loss"], shape, len(dataset.train) > 1),
        config, dataset,
    )  # fmt: skip
    build_loggers(config)
    Objective.all_of(config, STARTED_IN)
    return Prepared(
        config=config,
        settings=settings,
        dataset=dataset,
        device=device,
        precision=precision,
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        signature=sign(config, precision, dataset.fingerprint),
        notes=[*_notes(settings, dataset, mixed), *_notes_of_ranks(settings, ranks, normed)],
        ranks=ranks,
    )


# What was tried last in this process, by all that it depends on: what it gave, or what is wrong.
_tried: dict[str, Any] = {}
# A model on the meta device takes about a megabyte.
_MOST_TRIED = 64


def _once(attempt: Callable[..., Any], parts: Sequence[Any], *arguments: Any) -> Any:
    """What an attempt gives, or raises, that depends on some parts of a config alone."""
    key = json.dumps([attempt.__name__, *parts])
    if key not in _tried:
        try:
            _tried[key] = attempt(*arguments)
        except RequestError as error:
            _tried[key] = error
        if len(_tried) > _MOST_TRIED:
            del _tried[next(iter(_tried))]
    found = _tried[key]
    if isinstance(found, RequestError):
        raise RequestError(str(found))
    return found


def _try_model(
    config: Mapping[str, Any], settings: TrainerSettings, dataset: Dataset, ranks: int
) -> nn.Module:
    """Send the shapes of batches through the model on the meta device, and return it."""
    model = build_shape(config, dataset)
    check_memory(model)
    with torch.device("meta"):
        try_model(model, dataset)
        check_sizes(settings, model, dataset, ranks)
    return model


def _try_batch(config: Mapping[str, Any], dataset: Dataset) -> bool:
    """Send a batch through the augmentation and the loss; returns whether its labels are mixed."""
    labels = try_augmentation(build_augmentation(config, dataset), dataset)
    try_loss(config, labels, dataset)
    return labels.ndim == 2


def _notes(settings: TrainerSettings, dataset: Dataset, mixed: bool) -> Iterator[str]:
    epochs, stopping = settings.epochs, settings.early_stopping
    if settings.max_steps is not None:
        each = steps_per_epoch(len(dataset.train), settings)
        epochs = min(epochs, math.ceil(settings.max_steps / each))
    for name, last in (("epoch", stopping.epoch), ("patience", stopping.patience)):
        if last is not None and last >= epochs:
            yield (
                f"trainer.early_stopping.{name}={last} has no effect, since the run ends after "
                f"epoch {epochs}"
            )
    if settings.progressive_resizing is not None:
        sizes = ProgressiveResizing(settings.progressive_resizing, settings.epochs)
        yield f"trained at {sizes}; evaluated at full size"
    if settings.ema_decay is not None:
        yield "val_acc and val_loss are those of the averaged weights (trainer.ema_decay)"
    if mixed:
        yield "in train_acc, an image with a mixed label counts by the predicted class's share"


def _notes_of_ranks(settings: TrainerSettings, ranks: Ranks, normed: bool) -> Iterator[str]:
    if ranks.size > 1 and normed and not settings.sync_batch_norm:
        yield (
            f"BatchNorm's statistics in training were those of each of {ranks.size} processes' "
            "share of a batch (trainer.sync_batch_norm=false)"
        )
