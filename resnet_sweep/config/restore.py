"""Restore a trained model from its run directory."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from resnet_sweep.config.build import build_model
from resnet_sweep.config.check import check_config
from resnet_sweep.config.own_code import own_code
from resnet_sweep.config.plan import load_recorded_run
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.signature import changed_files, format_files
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.device import configure_tf32
from resnet_sweep.training.evaluation import Normalize

log = logging.getLogger(__name__)


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


def restore(directory: Path) -> RestoredRun:
    """Load the best checkpoint of a run.

    Raises:
        ConfigError: the run has no valid checkpoint, or its data are missing.
    """
    record = Record.read(directory)
    if record.best is None:
        raise ConfigError(
            f"{directory} has no checkpoint, because its run ({record.state}) hasn't completed an "
            "epoch: resume the run, or name another one"
        )
    path = directory / "checkpoints" / BEST
    advice = "restore the run's own file, or retrain the run with trainer.resume=false"
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: {advice}") from error
    expected = {**record.best, "signature": record.signature}
    for name in ("signature", "epoch", "val_acc"):
        if checkpoint.get(name) != expected.get(name):
            raise ConfigError(
                f"{path} isn't the run's best checkpoint (its {name} is {checkpoint.get(name)} "
                f"instead of {expected.get(name)}): {advice}"
            )
    # This machine may lack the device of the run, and so its precision.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = {**record.config.get("trainer", {}), "device": "auto"}
    config = {**record.config, "trainer": trainer}
    check_config(config)
    run = load_recorded_run(replace(record, config=config, precision=precision))
    used = own_code({group: config[group] for group in ("model", "data")}).digests
    if changed := changed_files({name: record.inputs.get(name) for name in used}, used):
        log.warning(
            "warning: %s changed after the run was planned; the network is built with the new code",
            format_files(changed),
        )
    model = build_model(config, run.dataset)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"{path} doesn't fit the model in {directory / 'run.json'}: restore the file that was "
            "changed"
        ) from error
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
