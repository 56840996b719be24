"""Plan a run: validate its config, data and device, and sign it."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.build import (
    build_augmentation,
    build_dataset,
    build_loggers,
    build_loss,
    build_model,
    build_optimizer,
    build_schedule,
)
from resnet_sweep.config.check import check_config
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.instantiate import instantiate
from resnet_sweep.config.own_code import OwnCode, own_code
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.record import PENDING, Record
from resnet_sweep.runs.signature import changed_files, format_files, sign
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.device import (
    check_compile,
    place_rank,
    resolve_device,
    resolve_precision,
)
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.progressive_resizing import ProgressiveResizing
from resnet_sweep.training.trainer import Trainer, steps_per_epoch


@dataclass(frozen=True)
class PlannedRun:
    """A run with its data and its device, ready to train.

    Attributes:
        config: the composed config, with its interpolations resolved.
        device: the device of this process.
        precision: "float32" or "bfloat16".
        process_group: the processes that train the run.
        inputs: digests of what the run uses besides its config; see `Record.inputs`.
        own_code: the user's own code that the run uses.
        parameters: number of trainable weights of the model.
        signature: see `resnet_sweep.runs.signature`; empty until `plan_run` has validated the run.
        notes: remarks that a reader of the results needs, one sentence each.
    """

    config: Mapping[str, Any]
    settings: TrainerConfig
    dataset: Dataset
    device: torch.device
    precision: str
    process_group: ProcessGroup
    inputs: Mapping[str, str]
    own_code: OwnCode
    parameters: int = 0
    signature: str = ""
    notes: list[str] = field(default_factory=list)

    def record(self, composed: ComposedConfig) -> Record:
        """Return the record of the run in state `pending`, with its choices and overrides."""
        return Record(
            signature=self.signature,
            state=PENDING,
            config=dict(self.config),
            choices=composed.choices,
            overrides=composed.overrides,
            hydra_flags=composed.hydra_flags,
            parameters=self.parameters,
            precision=self.precision,
            device=str(self.device),
            seed=self.config["seed"],
            inputs=dict(self.inputs),
            notes=self.notes,
        )

    def build_trainer(self) -> Trainer:
        """Build the trainer, with the model at its initial weights."""
        seed = self.config["seed"]
        # The model is built on the CPU, so that a seed gives the same weights on every device.
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(self.config, self.dataset).to(self.device)
        if self.process_group.world_size > 1 and self.settings.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return Trainer(
            model=model,
            optimizer=build_optimizer(self.config, model),
            schedule=build_schedule(self.config, self.settings, self.dataset),
            augmentation=build_augmentation(self.config, self.dataset),
            loss=build_loss(self.config).to(self.device),
            dataset=self.dataset,
            config=self.settings,
            seed=seed,
            device=self.device,
            precision=self.precision,
            process_group=self.process_group,
        )


def plan_run(
    config: Mapping[str, Any],
    process_group: ProcessGroup | None = None,
    smoke_tests: SmokeTests | None = None,
) -> PlannedRun:
    """Validate a resolved config, the data and the device, and sign the run.

    Single runs, grids and studies call this function. It builds every object of the config to test
    it. The model is built on torch's meta device. Nothing is written, except array files of the
    dataset that are missing.

    Args:
        config: the composed config, with its interpolations resolved.
        process_group: the processes that will train the run; None for this process alone.
        smoke_tests: the results of earlier smoke tests, shared by the configs of a sweep.

    Raises:
        ConfigError: the run can't be trained.
    """
    check_config(config)
    run = _load(config, process_group or ProcessGroup())
    settings, dataset, device = run.settings, run.dataset, run.device
    check_compile(settings.compile, device, run.process_group)
    if settings.batch_size > len(dataset.train):
        raise ConfigError(
            f"trainer.batch_size={settings.batch_size} is more than the {len(dataset.train)} "
            "training images: choose a smaller one"
        )
    model, mixed = (smoke_tests or SmokeTests()).run(
        config, settings, dataset, run.process_group.world_size
    )
    shares_norm = run.process_group.world_size > 1 and any(
        isinstance(module, _BatchNorm) for module in model.modules()
    )
    if shares_norm and settings.sync_batch_norm and device.type != "cuda":
        raise ConfigError(
            f"trainer.sync_batch_norm=true needs GPUs, but the device is {device.type}: set "
            "trainer.sync_batch_norm=false, so that BatchNorm's statistics are computed by each "
            "process from its own part of a batch"
        )
    build_schedule(config, settings, dataset)
    build_loggers(config)
    Objective.all_from_config(config)
    return replace(
        run,
        parameters=sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        signature=sign(config, run.precision, run.inputs),
        notes=[*_notes(run, mixed, shares_norm), *run.own_code.notes],
    )


def load_planned_run(record: Record) -> PlannedRun:
    """Return a run that another process planned, perhaps on another machine, to train it.

    Raises:
        ConfigError: the device or the data of the run isn't available on this machine, or the
            user's own code was changed.
    """
    run = load_recorded_run(record)
    if changed := changed_files(record.inputs, run.inputs):
        raise ConfigError(
            f"{format_files(changed)} changed after the run was planned: restore the code, or "
            "start the run in another directory"
        )
    return run


def load_recorded_run(record: Record) -> PlannedRun:
    """Return a run from its record, with the present code; see `load_planned_run`.

    Raises:
        ConfigError: the device or the data of the run isn't available on this machine.
    """
    # The signature contains the precision, and `auto` may choose another one on this machine.
    run = _load(record.config, ProcessGroup(), record.precision)
    if run.dataset.fingerprint != record.fingerprint:
        raise ConfigError(
            "the data changed after the run was planned (the fingerprint is "
            f"{run.dataset.fingerprint} instead of {record.fingerprint}): restore the data, or "
            "repeat the command"
        )
    return replace(
        run, parameters=record.parameters or 0, signature=record.signature, notes=record.notes
    )


def _load(
    config: Mapping[str, Any], process_group: ProcessGroup, precision: str | None = None
) -> PlannedRun:
    """Return an unsigned run with its data, on the device of this process."""
    settings: TrainerConfig = instantiate("trainer", config["trainer"])
    if process_group.world_size > 1 and not settings.distributed:
        raise ConfigError(
            f"torchrun started {process_group.world_size} processes, but "
            "trainer.distributed=false trains in one: set trainer=ddp, or start without torchrun"
        )
    device = place_rank(resolve_device(settings.device), process_group)
    precision = resolve_precision(precision or settings.precision, device)
    dataset = build_dataset(config)
    code = own_code(config)
    inputs = {"data": dataset.fingerprint, **code.digests}
    return PlannedRun(config, settings, dataset, device, precision, process_group, inputs, code)


def _notes(run: PlannedRun, mixed: bool, shares_norm: bool) -> Iterator[str]:
    settings = run.settings
    epochs, stopping = settings.epochs, settings.early_stopping
    if settings.max_steps is not None:
        steps = steps_per_epoch(len(run.dataset.train), settings)
        epochs = min(epochs, math.ceil(settings.max_steps / steps))
    for name in ("epoch", "patience"):
        last = getattr(stopping, name)
        if last is not None and last >= epochs:
            yield (
                f"trainer.early_stopping.{name}={last} has no effect, since the run ends after "
                f"epoch {epochs}"
            )
    if settings.progressive_resizing is not None:
        sizes = ProgressiveResizing(settings.progressive_resizing, settings.epochs)
        yield f"trained at {sizes}; evaluated at full size"
    if settings.ema_decay is not None:
        yield "val_acc and val_loss are computed with the averaged weights (trainer.ema_decay)"
    if mixed:
        yield "train_acc counts an image with a mixed label by the share of the predicted class"
    if shares_norm and not settings.sync_batch_norm:
        yield (
            f"BatchNorm's statistics in training were computed by {run.process_group.world_size} "
            "processes, each from its own part of a batch (trainer.sync_batch_norm=false)"
        )
