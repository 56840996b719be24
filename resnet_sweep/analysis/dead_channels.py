"""Dead channels: channels that are zero after a ReLU on every image."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnet_sweep.analysis.layers import NotApplicableError, Observer

RELUS = (nn.ReLU, nn.ReLU6)


@dataclass(frozen=True)
class DeadChannels:
    """Number of dead channels of a layer, or of several.

    Attributes:
        layer: name of the layer; of a module that is used more than once, with the number of the
            use.
        channels: number of channels.
        dead: number of channels that aren't above zero on any image.
    """

    layer: str
    channels: int
    dead: int


class ReluMaxima(Observer):
    """Keeps the largest output of each channel of each ReLU, within its context.

    A module that is used several times in a forward pass counts as several layers. A ReLU that
    isn't a module isn't found.

    Args:
        model: the model that is called within the context.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.uses: Counter[str] = Counter()
        self.maxima: dict[tuple[str, int], Tensor] = {}

    def attach(self) -> Iterator[RemovableHandle]:
        yield self.model.register_forward_pre_hook(self._begin)
        for name, module in self.model.named_modules():
            if isinstance(module, RELUS):
                yield module.register_forward_hook(partial(self._see, name))

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.uses.clear()

    def _see(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.uses[name] += 1
        # If the output isn't a feature map, its channels are the last dimension.
        channels = output.movedim(1 if output.ndim == 4 else -1, 0)
        largest = channels.flatten(1).amax(1)
        key = (name, self.uses[name])
        self.maxima[key] = torch.maximum(self.maxima.get(key, largest), largest)

    def dead_channels(self) -> list[DeadChannels]:
        """Return the dead channels of each layer, in the order of the forward pass.

        Raises:
            NotApplicableError: the model has no ReLU.
        """
        if not self.maxima:
            raise NotApplicableError("the model has no ReLU")
        repeated = {name for name, use in self.maxima if use > 1}
        return [
            DeadChannels(
                layer=f"{name}, use {use}" if name in repeated else name,
                channels=len(largest),
                dead=int((largest <= 0).sum()),
            )
            for (name, use), largest in self.maxima.items()
        ]


def by_stage(layers: list[DeadChannels]) -> list[DeadChannels]:
    """Return sums over the layers of each stage, or of each other top-level part."""
    sums: dict[str, tuple[int, int]] = {}
    for layer in layers:
        parts = layer.layer.partition(",")[0].split(".")
        stage = ".".join(parts[: 2 if parts[0] == "stages" else 1])
        channels, dead = sums.get(stage, (0, 0))
        sums[stage] = channels + layer.channels, dead + layer.dead
    return [DeadChannels(stage, *counts) for stage, counts in sums.items()]


def table(layers: list[DeadChannels]) -> Iterator[str]:
    """Yield the lines of a table with a row for each stage and one for all of them."""
    total = DeadChannels(
        "all",
        sum(layer.channels for layer in layers),
        sum(layer.dead for layer in layers),
    )
    rows = [*by_stage(layers), total]
    width = max(len(row.layer) for row in rows)
    yield f"{'':{width}}  channels  dead"
    for row in rows:
        share = 100 * row.dead / row.channels
        yield f"{row.layer:{width}}  {row.channels:8,}  {row.dead:4,} ({share:.1f}%)"


def to_json(layers: list[DeadChannels], images: int) -> bytes:
    """Return the counts of each layer and the number of images as JSON."""
    content = {"images": images, "layers": [asdict(layer) for layer in layers]}
    return json.dumps(content, indent=2).encode() + b"\n"


def draw_dead_channels(layers: list[DeadChannels], title: str) -> Figure:
    """Draw the number of dead and of other channels of each layer."""
    figure = Figure(figsize=(8, 1.5 + 0.22 * len(layers)), layout="constrained")
    axes = figure.subplots()
    names = [layer.layer for layer in layers]
    dead = [layer.dead for layer in layers]
    alive = [layer.channels - layer.dead for layer in layers]
    axes.barh(names, dead, color="tab:red", label="dead")
    axes.barh(names, alive, left=dead, color="lightgray", label="alive")
    for row, layer in enumerate(layers):
        axes.text(layer.channels, row, f" {layer.dead}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08, y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=title, xlabel="channels; the number is that of the dead ones")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
