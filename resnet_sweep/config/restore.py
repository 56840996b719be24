"""Restore a trained network from its run directory, with or without the data of the run."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from resnet_sweep.config import OBJECT_GROUPS
from resnet_sweep.config.build import build_model
from resnet_sweep.config.check import check_config, check_object
from resnet_sweep.config.own_code import own_code
from resnet_sweep.config.plan import load_recorded_run
from resnet_sweep.data.dataset import DataDescription, Dataset
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import changed_files, format_files
from resnet_sweep.training.checkpoint import best_path, read_best
from resnet_sweep.training.device import configure_tf32
from resnet_sweep.training.evaluation import BATCH_SIZE, Normalize

log = logging.getLogger(__name__)


class TrainedNetwork(nn.Module):
    """The network of a run with its best weights, in evaluation mode, on the CPU.

    It maps images, (N, C, H, W), of 0..255 in uint8 or float32, to logits, (N, classes). It
    normalizes the images itself, so it needs neither the data nor the config of the run.

    Attributes:
        normalize: normalizes the images.
        network: the network that was trained; maps normalized images to logits.
        data: classes, mean, standard deviation and image shape of the data.
        record: the content of `run.json`.
        epoch: epoch of the checkpoint.
        val_acc: validation accuracy after that epoch, in percent.
    """

    def __init__(self, network: nn.Module, data: DataDescription, record: Record) -> None:
        super().__init__()
        self.normalize = Normalize(data.mean, data.std, torch.device("cpu"))
        self.network, self.data, self.record = network, data, record
        assert record.best is not None
        self.epoch, self.val_acc = record.best["epoch"], record.best["val_acc"]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images, (N, C, H, W), of 0..255."""
        logits: Tensor = self.network(self.normalize(images))
        return logits

    def probabilities(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Return the probability of each class, (N, classes), for N images.

        Args:
            images: (N, C, H, W) as in the data, or (N, H, W, C) as in decoded files; uint8.

        Raises:
            ConfigError: the images have another type or shape.
        """
        checked = self._channels_first(np.asarray(images))
        device = self.normalize.mean.device
        parts = [torch.empty(0, self.data.num_classes)]
        with torch.inference_mode():
            for start in range(0, len(checked), BATCH_SIZE):
                batch = torch.tensor(
                    np.ascontiguousarray(checked[start : start + BATCH_SIZE]), device=device
                )
                try:
                    logits = self(batch).float()
                except RuntimeError as error:
                    raise ConfigError(
                        f"the network can't classify images of shape {tuple(batch.shape[1:])} "
                        f"({one_line(error)}): give images of shape {tuple(self.data.image_shape)}"
                    ) from error
                parts.append(logits.softmax(1).cpu())
        found: npt.NDArray[np.float32] = torch.cat(parts).numpy()
        return found

    def _channels_first(self, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        channels, *_ = shape = self.data.image_shape
        if images.dtype != np.uint8:
            raise ConfigError(
                f"the images have the type {images.dtype}: give uint8, with values from 0 to 255"
            )
        if images.ndim == 4 and images.shape[1] != channels and images.shape[3] == channels:
            images = images.transpose(0, 3, 1, 2)
        if images.ndim != 4 or images.shape[1] != channels:
            raise ConfigError(
                f"the images have the shape {images.shape}: give (N, {channels}, height, width) or "
                f"(N, height, width, {channels}); the network was trained on images of shape "
                f"{tuple(shape)}"
            )
        return images


@dataclass(frozen=True)
class RestoredRun:
    """The model of a run with its best weights, on its device and in evaluation mode.

    Attributes:
        epoch: of the checkpoint.
        val_acc: validation accuracy after that epoch, in percent.
    """

    model: nn.Module
    dataset: Dataset
    normalize: Normalize
    device: torch.device
    precision: str
    record: Record
    epoch: int
    val_acc: float


def load_network(directory: Path) -> TrainedNetwork:
    """Load the network of a run from `run.json` and the best checkpoint; no data are needed.

    Raises:
        ConfigError: the run has no valid checkpoint.
    """
    record = Record.read(directory)
    checkpoint = read_best(directory, record)
    try:
        data = DataDescription(**checkpoint["data"])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"{best_path(directory, record)} doesn't describe the data of the run: restore the "
            "file, or train the run again with trainer.resume=false"
        ) from error
    check_object("model", record.config.get("model"), OBJECT_GROUPS["model"])
    return TrainedNetwork(_build(directory, record, record.config, checkpoint, data), data, record)


def restore(directory: Path) -> RestoredRun:
    """Load the best checkpoint of a run, and its data.

    Raises:
        ConfigError: the run has no valid checkpoint, or its data are missing or changed.
    """
    record = Record.read(directory)
    checkpoint = read_best(directory, record)
    # This machine may lack the device of the run, and so its precision.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = {**record.config.get("trainer", {}), "device": "auto"}
    config = {**record.config, "trainer": trainer}
    check_config(config)
    run = load_recorded_run(replace(record, config=config, precision=precision))
    model = _build(directory, record, config, checkpoint, run.dataset)
    configure_tf32(run.device, run.precision)
    return RestoredRun(
        model=model.to(run.device).eval(),
        dataset=run.dataset,
        normalize=Normalize(run.dataset.mean, run.dataset.std, run.device),
        device=run.device,
        precision=run.precision,
        record=record,
        epoch=checkpoint["epoch"],
        val_acc=checkpoint["val_acc"],
    )


def _build(
    directory: Path,
    record: Record,
    config: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    data: Dataset | DataDescription,
) -> nn.Module:
    """Return the model with the weights of a checkpoint, on the CPU."""
    used = own_code({group: config[group] for group in ("model", "data")}).digests
    if changed := changed_files({name: record.inputs.get(name) for name in used}, used):
        log.warning(
            "warning: %s changed after the run was planned; the network is built with the new code",
            format_files(changed),
        )
    model = build_model(config, data)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"{best_path(directory, record)} doesn't fit the model in {directory / 'run.json'}: "
            "restore the file that was changed"
        ) from error
    return model
