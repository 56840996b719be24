"""Plan a run: validate its config, data and device, and sign it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_sweep.compare.objective import Objective
from resnet_sweep.config.build import (
    Sources,
    augmentation_epochs,
    build_augmentation,
    build_dataset,
    build_loggers,
    build_loss,
    build_metrics,
    build_model,
    build_optimizer,
    build_schedule,
)
from resnet_sweep.config.check import check_config
from resnet_sweep.config.compose import ComposedConfig
from resnet_sweep.config.epoch_keys import EpochKeys, hash_settings
from resnet_sweep.config.instantiate import instantiate
from resnet_sweep.config.own_code import OwnCode, own_code
from resnet_sweep.config.smoke_test import SmokeTests
from resnet_sweep.config.starting_weights import (
    MissingWeightsError,
    absolute,
    find_earlier,
    read_starting_weights,
)
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.runs.record import PENDING, Record
from resnet_sweep.runs.signature import (
    INIT_FROM,
    changed_files,
    format_files,
    format_setting,
    sign,
)
from resnet_sweep.training.config import TrainerConfig
from resnet_sweep.training.device import (
    check_compile,
    place_rank,
    resolve_device,
    resolve_precision,
)
from resnet_sweep.training.distributed import ProcessGroup
from resnet_sweep.training.fine_tuning import classifier_names, freeze, frozen_names
from resnet_sweep.training.progressive_resizing import ProgressiveResizing
from resnet_sweep.training.trainer import Trainer, number_of_epochs


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
        weights: number of all weights of the model, with those that `trainer.freeze` freezes.
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
    weights: int = 0
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

    def epoch_keys(self) -> EpochKeys:
        """Return the keys of the epochs."""
        config, settings = self.config, self.settings
        schedule = build_schedule(config, settings, self.dataset)
        environment = {
            "compile": settings.compile,
            "device": self.device.type,
            "threads": settings.threads,
            "world_size": self.process_group.world_size,
        }
        sizes, last = settings.progressive_resizing, settings.early_stopping.epoch
        epochs = number_of_epochs(len(self.dataset.train), settings)
        return EpochKeys(
            settings=hash_settings(config, self.precision, self.inputs, schedule, environment),
            epochs=epochs if last is None else min(epochs, last),
            schedule=None if schedule.depends_on_metrics else schedule,
            resizing=None if sizes is None else ProgressiveResizing(sizes, settings.epochs),
            augmentation_epochs=augmentation_epochs(config, settings.epochs),
            weights=self.weights,
        )

    def build_trainer(self) -> Trainer:
        """Build the trainer, with the model at its initial weights."""
        seed = self.config["seed"]
        # The model is built on the CPU, so that a seed gives the same weights on every device.
        torch.manual_seed(derive_seed(seed, "weights"))
        model = build_model(self.config, self.dataset).to(self.device)
        if self.process_group.world_size > 1 and self.settings.sync_batch_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        freeze(model, self.settings.freeze)
        return Trainer(
            model=model,
            optimizer=build_optimizer(self.config, model, self.dataset.num_classes),
            schedule=build_schedule(self.config, self.settings, self.dataset),
            augmentation=build_augmentation(self.config, self.dataset),
            loss=build_loss(self.config).to(self.device),
            dataset=self.dataset,
            config=self.settings,
            seed=seed,
            device=self.device,
            precision=self.precision,
            process_group=self.process_group,
            starting_weights=self._starting_weights(model),
            metrics=build_metrics(self.config, self.dataset.num_classes),
            augmentation_epochs=augmentation_epochs(self.config, self.settings.epochs),
            epoch_keys=self.epoch_keys().keys,
        )

    def _starting_weights(self, model: nn.Module) -> Callable[[], Mapping[str, Tensor]] | None:
        """Return a function that reads the starting weights; None if there are none.

        A resumed run doesn't read them, so errors are raised only when the function is called.
        """
        if self.config.get(INIT_FROM) is None:
            return None
        # The path is relative to the folder of the command, but training may run in another one.
        config = {**self.config, INIT_FROM: absolute(self.config[INIT_FROM])}

        def read() -> Mapping[str, Tensor]:
            weights = read_starting_weights(config, self.dataset, model)
            if weights.digest != self.inputs[INIT_FROM]:
                raise ConfigError(
                    f"the weights of init_from={self.config['init_from']} changed after the run "
                    f"was planned (their digest is {weights.digest} instead of "
                    f"{self.inputs['init_from']}): restore them, or repeat the command"
                )
            return weights.tensors

        return read


def plan_run(
    config: Mapping[str, Any],
    process_group: ProcessGroup | None = None,
    smoke_tests: SmokeTests | None = None,
    directory: Path | None = None,
    sources: Sources | None = None,
    elsewhere: bool = False,
) -> PlannedRun:
    """Validate a resolved config, the data and the device, and sign the run.

    Single runs, grids and studies call this function. It builds every object of the config to test
    it. The model is built on torch's meta device if it can be. Nothing is written, except array
    files of the dataset that are missing.

    Args:
        config: the composed config, with its interpolations resolved.
        process_group: the processes that will train the run; None for this process alone.
        smoke_tests: the results of earlier smoke tests, shared by the configs of a sweep.
        directory: directory of the run or of its sweep. A run in it can be resumed after its
            starting weights were removed.
        sources: the datasets of the other runs of a sweep, see `build_dataset`.
        elsewhere: whether another machine trains the run. That machine checks its device again.

    Raises:
        ConfigError: the run can't be trained.
    """
    check_config(config)
    run = _load(config, process_group or ProcessGroup(), sources=sources, elsewhere=elsewhere)
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
    frozen = frozen_names(model, settings.freeze)
    if settings.backbone_lr_factor != 1:
        classifier_names(model, dataset.num_classes)
    build_schedule(config, settings, dataset)
    build_loggers(config)
    inputs, weight_notes = _plan_starting_weights(run, model, directory)
    Objective.all_from_config(config)
    weights = {name: weight.numel() for name, weight in model.named_parameters()}
    trained = sum(count for name, count in weights.items() if name not in frozen)
    if frozen:
        total, kind = sum(weights.values()), "starting" if INIT_FROM in inputs else "random"
        weight_notes.append(
            f"trainer.freeze={format_setting(settings.freeze)} keeps {total - trained:,} of "
            f"{total:,} weights at their {kind} values"
        )
    return replace(
        run,
        inputs=inputs,
        parameters=trained,
        weights=sum(weights.values()),
        signature=sign(config, run.precision, inputs),
        notes=[*weight_notes, *_notes(run, mixed, shares_norm), *run.own_code.notes],
    )


def _plan_starting_weights(
    run: PlannedRun, model: nn.Module, directory: Path | None
) -> tuple[Mapping[str, str], list[str]]:
    """Return the inputs of a run with the digest of its starting weights, and notes about them."""
    if run.config.get(INIT_FROM) is None:
        return run.inputs, []
    try:
        weights = read_starting_weights(run.config, run.dataset, model)
    except MissingWeightsError:
        earlier = None if directory is None else find_earlier(directory, run.config)
        if earlier is None:
            raise
        start = f"init_from={run.config['init_from']} "
        notes = [note for note in earlier.notes if note.startswith(start)]
        return {**run.inputs, INIT_FROM: earlier.inputs[INIT_FROM]}, notes
    return {**run.inputs, INIT_FROM: weights.digest}, weights.notes


def load_planned_run(record: Record) -> PlannedRun:
    """Return a run that another process planned, perhaps on another machine, to train it.

    Raises:
        ConfigError: the device or the data of the run isn't available on this machine, or the data
            or the user's own code was changed.
    """
    run = load_recorded_run(record)
    if changed := changed_files(record.inputs, run.own_code.digests):
        raise ConfigError(
            f"{format_files(changed)} changed after the run was planned: restore the code, or "
            "start the run in another directory"
        )
    return run


def load_recorded_run(record: Record) -> PlannedRun:
    """Return a run from its record, without checking that the user's own code is unchanged.

    Raises:
        ConfigError: the device or the data of the run isn't available on this machine, or the data
            was changed.
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
        run,
        inputs=record.inputs,
        parameters=record.parameters or 0,
        signature=record.signature,
        notes=record.notes,
    )


def _load(
    config: Mapping[str, Any],
    process_group: ProcessGroup,
    precision: str | None = None,
    sources: Sources | None = None,
    elsewhere: bool = False,
) -> PlannedRun:
    """Return an unsigned run with its data, on the device of this process."""
    settings: TrainerConfig = instantiate("trainer", config["trainer"])
    if process_group.world_size > 1 and not settings.distributed:
        raise ConfigError(
            f"torchrun started {process_group.world_size} processes, but "
            "trainer.distributed=false trains in one: set trainer=ddp, or start without torchrun"
        )
    device = place_rank(resolve_device(settings.device), process_group)
    precision = resolve_precision(precision or settings.precision, device, elsewhere)
    # The code is read first: converting the images may take minutes, in which it could be edited.
    code = own_code(config)
    dataset = build_dataset(config, sources)
    inputs = {"data": dataset.fingerprint, **code.digests}
    return PlannedRun(config, settings, dataset, device, precision, process_group, inputs, code)


def _notes(run: PlannedRun, mixed: bool, shares_norm: bool) -> Iterator[str]:
    settings = run.settings
    stopping = settings.early_stopping
    epochs = number_of_epochs(len(run.dataset.train), settings)
    # The first epoch has nothing to improve on.
    for name, limit in (("epoch", epochs), ("patience", epochs - 1)):
        last = getattr(stopping, name)
        if last is not None and last >= limit:
            yield (
                f"trainer.early_stopping.{name}={last} has no effect, since the run ends after "
                f"epoch {epochs}"
            )
    if settings.progressive_resizing is not None:
        sizes = ProgressiveResizing(settings.progressive_resizing, settings.epochs)
        yield f"trained at {sizes}; evaluated at full size"
    if settings.ema_decays:
        first, *others = settings.ema_decays
        averages = f"the first, {first}, of trainer.ema_decay" if others else "trainer.ema_decay"
        yield f"val_acc and val_loss are computed with the averaged weights ({averages})"
    if mixed:
        yield "train_acc counts an image with a mixed label by the share of the predicted class"
    if shares_norm and not settings.sync_batch_norm:
        yield (
            f"BatchNorm's statistics in training were computed by {run.process_group.world_size} "
            "processes, each from its own part of a batch (trainer.sync_batch_norm=false)"
        )
