"""The learning rate of an optimizer, where a recorded step can read it."""

from typing import Any

import torch
from torch import Tensor

from resnet_sweep.errors import RequestError
from resnet_sweep.training.muon import Muon

# What has an optimizer read its learning rate, and count its steps, in the device's memory: with
# fewer kernels, without a wait, and anew whenever a recorded step is replayed.
FUSED = {"foreach": False, "fused": True}
ON_DEVICE = {
    torch.optim.SGD: FUSED,
    torch.optim.Adam: FUSED | {"capturable": True},
    torch.optim.AdamW: FUSED | {"capturable": True},
    Muon: {},
}


class LearningRate:
    """Sets the learning rate of an optimizer.

    Args:
        optimizer: of weights; a group's `lr_scale` multiplies the rate.
        device: of the weights.
        on_device: keep the rate in the device's memory, if this kind of optimizer can read it
            there. With and without recording, its steps are then the same kernels.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, device: torch.device, on_device: bool
    ) -> None:
        self.optimizer = optimizer
        self.places: list[Tensor | None] = [None] * len(optimizer.param_groups)
        if on_device and (settings := ON_DEVICE.get(type(optimizer))) is not None:
            self.places = [torch.zeros((), device=device) for _ in self.places]
            for group in optimizer.param_groups:
                group.update(settings)
            # Or it would warn that it isn't recorded, which it needn't be.
            optimizer._warned_capturable_if_run_uncaptured = True
        optimizer.register_load_state_dict_pre_hook(_keep_settings)

    def set(self, lr: float) -> None:
        """Have the next step made at a rate; nothing waits for the device."""
        for group, place in zip(self.optimizer.param_groups, self.places, strict=True):
            value = lr * group.get("lr_scale", 1.0)
            group["lr"] = value if place is None else place.fill_(value)


def check_recordable(optimizer: torch.optim.Optimizer, compile: str) -> None:
    """See that the step of an optimizer can be recorded, if `trainer.compile` asks for that.

    Raises:
        RequestError: it can't.
    """
    if compile != "none" and type(optimizer) not in ON_DEVICE:
        raise RequestError(
            f"trainer.compile={compile} can't record steps of {type(optimizer).__name__}, only of "
            f"{', '.join(kind.__name__ for kind in ON_DEVICE)}: choose one of these, or none"
        )


def _keep_settings(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint may come from a device where the optimizer worked in another way."""
    kept = FUSED.keys() | {"capturable"}
    groups = [
        saved | {name: group[name] for name in kept if name in group}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    return state | {"param_groups": groups}
