"""Epoch keys: hashes of all that the epochs of a run depend on.

Two runs have trained the same first epochs, with the same weights and metrics, if the keys of the
last of these epochs are equal. So one run can continue the other one.

A key has two parts. The first part is a hash of the settings that are in effect in every epoch. The
second part is a chain of hashes: each contains the hash of the epoch before, and what is in effect
in its own epoch. These settings act in some epochs only:

- A schedule acts by the learning rates of an epoch's steps, unless it depends on metrics.
- Progressive resizing acts by the size of the images.
- The setting `until` of an augmentation operation switches the operation off.
- Early stopping changes no epoch before it ends the run.
- `trainer.epochs` acts through the settings above.

All other settings are in effect in every epoch, and so are all settings of a schedule that depends
on metrics.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from resnet_sweep.runs.signature import signed_settings
from resnet_sweep.training.progressive_resizing import ProgressiveResizing
from resnet_sweep.training.schedules import Schedule

# Settings that act by `EpochKeys.in_effect`, or not at all before the end of the run.
_CHANGING = ("trainer.epochs", "trainer.progressive_resizing")
_STOPPING = "trainer.early_stopping"
_UNTIL = ".until"


@dataclass(frozen=True)
class EpochKeys:
    """The keys of a run's epochs, computed at the first access.

    Attributes:
        settings: hash of the settings that are in effect in every epoch.
        epochs: number of epochs to train if nothing ends the run early.
        schedule: the schedule; None if its settings are in effect in every epoch.
        resizing: the sizes of the images; None if all epochs have the same size.
        augmentation_epochs: see `Trainer`.
        weights: see `PlannedRun`.
    """

    settings: str
    epochs: int
    schedule: Schedule | None
    resizing: ProgressiveResizing | None
    augmentation_epochs: Sequence[int]
    weights: int

    @cached_property
    def keys(self) -> list[str]:
        """The key of each epoch."""
        keys, chain = [], b""
        for epoch in range(self.epochs):
            hasher = blake2b(chain, digest_size=8)
            for part in self.in_effect(epoch):
                hasher.update(part)
            chain = hasher.digest()
            keys.append(f"{self.settings}-{chain.hex()}")
        return keys

    def in_effect(self, epoch: int) -> list[bytes]:
        """Return what is in effect in an epoch, counted from 0, but not in every epoch."""
        size = None if self.resizing is None else self.resizing.size(epoch)
        applied = [epoch < epochs for epochs in self.augmentation_epochs]
        parts = [json.dumps([size, applied]).encode()]
        if self.schedule is not None:
            parts.append(np.array(self.schedule.rates(epoch), dtype="<f8").tobytes())
        return parts


def hash_settings(
    config: Mapping[str, Any],
    precision: str,
    inputs: Mapping[str, str],
    schedule: Schedule,
    environment: Mapping[str, Any],
) -> str:
    """Return a hash of the settings that are in effect in every epoch of a run.

    Args:
        config, precision, inputs: as in `signed_settings`.
        schedule: the schedule that the config describes.
        environment: what else decides the bits of the result.
    """
    signed = signed_settings(config, precision, inputs)
    settings = {name: value for name, value in signed.items() if _is_constant(name)}
    if schedule.depends_on_metrics:
        settings["trainer.epochs"] = signed.get("trainer.epochs")
    else:
        settings = {
            name: value for name, value in settings.items() if not name.startswith("schedule.")
        }
    content = json.dumps([settings, environment], sort_keys=True)
    return blake2b(content.encode(), digest_size=8).hexdigest()


def _is_constant(name: str) -> bool:
    """Return whether a setting is in effect in every epoch; a schedule's settings count as such."""
    # An operation of a user may have a nested setting of this name.
    group, _, rest = name.partition(".")
    until = group == "augmentation" and rest.endswith(_UNTIL) and rest.count(".") == 1
    return not (name in _CHANGING or name.startswith(_STOPPING) or until)
