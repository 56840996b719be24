"""Dead channels: channels that are zero after a ReLU for every image."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn

RELUS = (nn.ReLU, nn.ReLU6)
# Largest output of each channel, (channels,), by the name of a ReLU and the number of its call in a
# forward pass.
Maxima = dict[tuple[str, int], Tensor]


@dataclass(frozen=True)
class DeadChannels:
    """The number of dead channels in a layer, or in several layers together.

    Attributes:
        layer: name of the layer, with the number of the call if a forward pass calls the module
            more than once.
        channels: number of channels.
        dead: number of channels that aren't above zero for any image.
    """

    layer: str
    channels: int
    dead: int


@contextmanager
def collect_maxima(model: nn.Module) -> Iterator[Maxima]:
    """Yield a dict that collects the largest output of each channel of each ReLU in this context.

    Only ReLUs that are modules are found.
    """
    maxima: Maxima = {}
    calls: Counter[str] = Counter()

    def hook(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls[name] += 1
        # If the output isn't a feature map, its channels are the last dimension.
        channels = output.movedim(1 if output.ndim == 4 else -1, 0)
        largest = channels.flatten(1).amax(1)
        key = (name, calls[name])
        maxima[key] = torch.maximum(maxima.get(key, largest), largest)

    with ExitStack() as hooks:
        hooks.enter_context(model.register_forward_pre_hook(lambda *_: calls.clear()))
        for name, module in model.named_modules():
            if isinstance(module, RELUS):
                hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        yield maxima


def dead_channels(maxima: Maxima) -> list[DeadChannels]:
    """Return the dead channels of each call of a ReLU, in the order of the forward pass."""
    repeated = {name for name, call in maxima if call > 1}
    return [
        DeadChannels(
            layer=f"{name}, call {call}" if name in repeated else name,
            channels=len(largest),
            dead=int((largest <= 0).sum()),
        )
        for (name, call), largest in maxima.items()
    ]


def by_stage(layers: list[DeadChannels]) -> list[DeadChannels]:
    """Return the sums over the layers of each stage, or of each other top-level module."""
    channels, dead = Counter[str](), Counter[str]()
    for layer in layers:
        parts = layer.layer.partition(",")[0].split(".")
        stage = ".".join(parts[: 2 if parts[0] == "stages" else 1])
        channels[stage] += layer.channels
        dead[stage] += layer.dead
    return [DeadChannels(stage, count, dead[stage]) for stage, count in channels.items()]


def table(layers: list[DeadChannels]) -> Iterator[str]:
    """Yield the lines of a table with a row for each stage and a row for the sum."""
    rows = by_stage(layers)
    rows.append(
        DeadChannels("all", sum(row.channels for row in rows), sum(row.dead for row in rows))
    )
    width = max(len(row.layer) for row in rows)
    yield f"{'':{width}}  channels  dead"
    for row in rows:
        share = 100 * row.dead / row.channels
        yield f"{row.layer:{width}}  {row.channels:8,}  {row.dead:4,} ({share:.1f}%)"


def draw_dead_channels(layers: list[DeadChannels], title: str) -> Figure:
    """Draw the number of dead channels and of other channels in each layer."""
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
    axes.set(title=title, xlabel="channels (number of dead channels at the bar)")
    figure.legend(loc="outside lower center", ncols=2)
    return figure
