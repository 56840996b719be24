"""Small runs on digits, trained in the process of the test."""

import functools
from copy import deepcopy
from pathlib import Path

import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from resnet_sweep.config.plan import PlannedRun
from resnet_sweep.runs.metrics import LayerNorms, Row
from resnet_sweep.runs.record import Record
from resnet_sweep.runs.run import Run
from resnet_sweep.training.callbacks import Callback, Step
from resnet_sweep.training.signals import StopSignal
from resnet_sweep.training.trainer import Trainer

CONF = Path(__file__).parents[1] / "conf"
STANDARD = {
    "random_crop": {"_target_": "resnet_sweep.augmentation.RandomCrop", "padding": 4},
    "random_flip": {"_target_": "resnet_sweep.augmentation.RandomHorizontalFlip"},
}
RESNET = {
    "_target_": "resnet_sweep.models.ResNet",
    "widths": [4, 8],
    "blocks": [1, 1],
    "strides": [2, 2],
    "dropout": 0.3,
}


def config(**changes: object) -> dict:
    """Return the config of a small run on digits.

    Args:
        changes: `trainer__epochs=2` changes a setting, `model={...}` replaces a group.
    """
    settings: dict = {
        "seed": 3,
        "model": dict(RESNET),
        "data": {"_target_": "resnet_sweep.data.Digits", "limit_train": 100, "limit_test": 50},
        "optim": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        "schedule": {"_target_": "resnet_sweep.training.schedules.Cosine", "warmup_epochs": 1},
        "augmentation": STANDARD,
        "loss": {"_target_": "torch.nn.CrossEntropyLoss"},
        "trainer": {
            "_target_": "resnet_sweep.training.TrainerConfig",
            "epochs": 3,
            "batch_size": 16,
            "device": "cpu",
            "precision": "float32",
        },
        "logger": {},
    }
    for name, value in changes.items():
        group, _, key = name.partition("__")
        if key:
            settings[group] = settings[group] | {key: value}
        else:
            settings[group] = value
    return settings


def open_run(planned: PlannedRun, directory: Path, **fields: object) -> Run:
    """Open the run in a directory, with additional fields of its record."""
    record = Record(
        signature=planned.signature,
        config=dict(planned.config),
        precision=planned.precision,
        inputs=dict(planned.inputs),
        **fields,
    )
    return Run.open(directory, record)


def train(planned: PlannedRun, directory: Path, *callbacks: Callback, **fields: object) -> Trainer:
    run = open_run(planned, directory, **fields)
    trainer = planned.build_trainer()
    trainer.fit(run, callbacks, StopSignal())
    run.close("finished")
    return trainer


class StopAt(Callback):
    """Request a stop when the run has made `step` steps."""

    def __init__(self, stop: StopSignal, step: int) -> None:
        self.stop, self.step = stop, step

    def on_steps(self, steps: list[Step]) -> None:
        if steps[-1].global_step + 1 >= self.step:
            self.stop.received = 15


class Recorder(Callback):
    """Keep the steps, the metrics rows, and the number of steps at the end of each epoch."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.rows: list[Row] = []
        self.steps_at_epoch_end: list[int] = []

    def on_steps(self, steps: list[Step]) -> None:
        self.steps += steps

    def on_epoch_end(self, row: Row, layers: list[LayerNorms], step: int) -> None:
        self.rows.append(row)
        self.steps_at_epoch_end.append(step)


def without_times(rows: list[dict]) -> list[dict]:
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "images_per_second")}
        for row in rows
    ]


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return trainer.model.state_dict()


def assert_same_bits(first: Trainer, second: Trainer) -> None:
    first_weights, second_weights = weights(first), weights(second)
    assert first_weights.keys() == second_weights.keys()
    for name in first_weights:
        assert torch.equal(first_weights[name], second_weights[name]), name
    assert without_times(first.rows) == without_times(second.rows)


def composed(*overrides: str) -> dict:
    """Return the config that the overrides compose."""
    return deepcopy(_compose(overrides))


@functools.cache
def _compose(overrides: tuple[str, ...]) -> dict:
    with initialize_config_module("resnet_sweep.conf"):
        config = compose("config", overrides=list(overrides))
        return OmegaConf.to_container(config, resolve=True)


def choices(group: str = "*") -> list[str]:
    """Return an override for each choice of a config group, or of all groups."""
    return sorted(
        f"{path.parent.name}={path.stem}"
        for path in CONF.glob(f"{group}/*.yaml")
        if path.parent.name != "hydra"
    )
