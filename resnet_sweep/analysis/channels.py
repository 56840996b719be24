"""Dead channels: those that a ReLU never lets through."""

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
    """Of a layer, or of several.

    Attributes:
        layer: its name; where a module is used more than once, with the number of the use.
        channels: how many it has.
        dead: how many of them are above zero on no image.
    """

    layer: str
    channels: int
    dead: int


class ReluMaxima(Observer):
    """Within this context, the largest output of each channel of each ReLU is kept.

    A module that is used several times in a forward pass counts as several layers. A ReLU that
    isn't a module can't be seen.

    Args:
        model: that images are sent through in this context.
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
        # Of what isn't an image, the channels are the last dimension.
        channels = output.movedim(1 if output.ndim == 4 else -1, 0)
        largest = channels.flatten(1).amax(1)
        key = (name, self.uses[name])
        self.maxima[key] = torch.maximum(self.maxima.get(key, largest), largest)

    def dead_channels(self) -> list[DeadChannels]:
        """Of each layer, in the order of the forward pass.

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
    """The layers of each stage, or of each top-level part of the network, together."""
    sums: dict[str, tuple[int, int]] = {}
    for each in layers:
        parts = each.layer.partition(",")[0].split(".")
        stage = ".".join(parts[: 2 if parts[0] == "stages" else 1])
        channels, dead = sums.get(stage, (0, 0))
        sums[stage] = channels + each.channels, dead + each.dead
    return [DeadChannels(stage, *counts) for stage, counts in sums.items()]


def table(layers: list[DeadChannels]) -> Iterator[str]:
    """Lines with a row for each stage and one for all."""
    total = DeadChannels("all", sum(e.channels for e in layers), sum(e.dead for e in layers))
    rows = [*by_stage(layers), total]
    width = max(len(row.layer) for row in rows)
    yield f"{'':{width}}  channels  dead"
    for row in rows:
        share = 100 * row.dead / row.channels
        yield f"{row.layer:{width}}  {row.channels:8,}  {row.dead:4,} ({share:.1f}%)"


def to_json(layers: list[DeadChannels], images: int) -> bytes:
    """The counts of each layer and the number of images, as JSON."""
    content = {"images": images, "layers": [asdict(each) for each in layers]}
    return json.dumps(content, indent=2).encode() + b"\n"


def draw_channels(layers: list[DeadChannels], title: str) -> Figure:
    """For each layer, how many channels are dead and how many alive."""
    figure = Figure(figsize=(8, 1.5 + 0.22 * len(layers)), layout="constrained")
    axes = figure.subplots()
    names = [each.layer for each in layers]
    dead = [each.dead for each in layers]
    alive = [each.channels - each.dead for each in layers]
    axes.barh(names, dead, color="tab:red", label="dead")
    axes.barh(names, alive, left=dead, color="lightgray", label="alive")
    for row, each in enumerate(layers):
        axes.text(each.channels, row, f" {each.dead}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.08, y=0.01)
    axes.tick_params(axis="y", labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=title, xlabel="channels; the number is that of the dead ones")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
