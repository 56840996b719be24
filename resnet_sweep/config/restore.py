"""A trained network, restored from its run directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from resnet_sweep.config.build import build_model
from resnet_sweep.config.plan import plan_run
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.device import set_exactness
from resnet_sweep.training.evaluation import Normalize


@dataclass(frozen=True)
class Restored:
    """A run's model with its best weights, on its device and in evaluation mode.

    `epoch` is the checkpoint's, and `val_acc` the validation accuracy there, in percent.
    """

    model: nn.Module
    dataset: Dataset
    normalize: Normalize
    device: torch.device
    precision: str
    record: Record
    epoch: int
    val_acc: float


def restore(directory: Path) -> Restored:
    """Load the best checkpoint of a run.

    Raises:
        ConfigError: the run, a valid checkpoint of it or its data are missing.
    """
    record = Record.read(directory)
    path = directory / "checkpoints" / BEST
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        if record.best is None:
            raise ConfigError(
                f"{directory} has no checkpoint to evaluate: its run ({record.state}) hasn't "
                "ended an epoch"
            ) from error
        raise ConfigError(
            f"{path} is missing: put it back, or train the run anew with trainer.resume=false"
        ) from error
    if checkpoint.get("signature") != record.signature:
        raise ConfigError(f"{path} belongs to another run: put the run's own checkpoint back")
    if "val_acc" not in checkpoint:
        raise ConfigError(f"{path} isn't a checkpoint of a best epoch: put the run's own back")
    if record.best is None or checkpoint["epoch"] != record.best.get("epoch"):
        raise ConfigError(
            f"{path} is of epoch {checkpoint['epoch']}, which isn't the run's best: put the right "
            "one back, or train the run anew with trainer.resume=false"
        )
    # The device may be another than the run's; its precision is kept where it can be.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = {"device": "auto", "precision": precision, "compile": None}
    changes: dict[str, Any] = {
        "trainer": record.config.get("trainer", {}) | trainer,
        # What the run was logged to, or compared with, needn't be in reach.
        "logger": {},
        "objective": "val_acc",
        "reference": None,
    }
    planned = plan_run(record.config | changes)
    dataset, device = planned.dataset, planned.device
    if dataset.fingerprint != record.fingerprint:
        raise ConfigError(
            f"{directory} was trained on other data than are there now: put those back"
        )
    model = build_model(record.config, dataset)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"{path} doesn't fit the model in {directory / 'run.json'}: one of them was altered, "
            "so put it back"
        ) from error
    set_exactness(device, planned.precision)
    return Restored(
        model=model.to(device).eval(),
        dataset=dataset,
        normalize=Normalize(dataset.mean, dataset.std, device),
        device=device,
        precision=planned.precision,
        record=record,
        epoch=checkpoint["epoch"],
        val_acc=checkpoint["val_acc"],
    )
