"""A trained network, restored from its run directory."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from resnet_sweep.config.build import build_model
from resnet_sweep.config.check import check_config
from resnet_sweep.config.plan import load_planned_run
from resnet_sweep.data.dataset import Dataset
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.record import Record
from resnet_sweep.training.checkpoint import BEST, read_checkpoint
from resnet_sweep.training.device import set_exactness
from resnet_sweep.training.evaluation import Normalize


@dataclass(frozen=True)
class RestoredRun:
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


def restore(directory: Path) -> RestoredRun:
    """Load the best checkpoint of a run.

    Raises:
        ConfigError: the run, a valid checkpoint of it or its data are missing.
    """
    record = Record.read(directory)
    if record.best is None:
        raise ConfigError(
            f"{directory} has no checkpoint to evaluate: its run ({record.state}) hasn't ended an "
            "epoch"
        )
    path = directory / "checkpoints" / BEST
    advice = "put the run's own back, or train the run anew with trainer.resume=false"
    try:
        checkpoint = read_checkpoint(path)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: {advice}") from error
    expected = {**record.best, "signature": record.signature}
    for name in ("signature", "epoch", "val_acc"):
        if checkpoint.get(name) != expected.get(name):
            raise ConfigError(
                f"{path} isn't the run's best checkpoint (its {name} is {checkpoint.get(name)}, "
                f"and the run's {expected.get(name)}): {advice}"
            )
    # The device may be another than the run's; its precision is kept where it can be.
    precision = "float32" if record.precision == "float32" else "auto"
    trainer = {**record.config.get("trainer", {}), "device": "auto"}
    config = {**record.config, "trainer": trainer}
    check_config(config)
    run = load_planned_run(replace(record, config=config, precision=precision))
    model = build_model(config, run.dataset)
    try:
        model.load_state_dict(checkpoint["model"])
    except RuntimeError as error:
        raise ConfigError(
            f"{path} doesn't fit the model in {directory / 'run.json'}: one of them was altered, "
            "so put it back"
        ) from error
    set_exactness(run.device, run.precision)
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
