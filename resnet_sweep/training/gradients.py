"""A watch over gradients."""

import logging

from resnet_sweep.runs.layers import Layer
from resnet_sweep.runs.metrics import Row
from resnet_sweep.training.monitor import Monitor, Step

# A norm that no gradient of a training that goes well comes near.
EXPLODING = 1000.0
# As a part of the largest gradient of any layer: less than that, and a layer hardly learns.
VANISHING = 1e-6

log = logging.getLogger(__name__)


class GradientWatch(Monitor):
    """Warns of a layer whose gradient explodes or vanishes, once of each layer.

    In the first epoch none vanishes: some layers start at zero on purpose, as those of CBAM.
    """

    def __init__(self) -> None:
        self.exploded: set[str] = set()
        self.vanished: set[str] = set()

    def stepped(self, steps: list[Step]) -> None:
        for step in steps:
            layer, norm = step.steepest_layer, step.steepest_norm
            if norm > EXPLODING and layer not in self.exploded:
                self.exploded.add(layer)
                log.warning(
                    "warning: the gradient of layer %s explodes: its norm is %.3g in epoch %d, "
                    "step %d; a lower optim.lr, a longer schedule.warmup_epochs or "
                    "trainer.clip_grad_norm may help", layer, norm, step.epoch, step.step + 1,
                )  # fmt: skip

    def epoch_ended(self, row: Row, layers: list[Layer], step: int) -> None:
        if row["epoch"] == 1:
            return
        largest = max(layers, key=lambda layer: layer.grad_norm, default=None)
        for layer in layers:
            if layer.grad_norm <= VANISHING * largest.grad_norm and layer.name not in self.vanished:
                self.vanished.add(layer.name)
                log.warning(
                    "warning: the gradient of layer %s vanishes: its mean norm is %.3g in epoch "
                    "%d, where that of layer %s is %.3g", layer.name, layer.grad_norm,
                    row["epoch"], largest.name, largest.grad_norm,
                )  # fmt: skip
