"""Layers of a network that are analyzed, and their outputs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.models.resnet import ResNet


class NotApplicableError(LookupError):
    """An analysis doesn't apply to a network; the message says why."""


@dataclass(frozen=True)
class Layers:
    """Parts of an image classifier.

    Attributes:
        stages: consecutive parts by name; each returns (N, channels, H, W).
        features: the part that returns the last feature maps.
        classifier: the part whose input is one vector for each image.
    """

    stages: dict[str, nn.Module]
    features: nn.Module | None
    classifier: nn.Module | None


def find_layers(model: nn.Module, images: Tensor) -> Layers:
    """Return the layers of a network: exactly for a `ResNet`, and by a heuristic for others.

    For other networks, the stages are the top-level children that return maps of more than a pixel.
    If there is a single one, as in VGG and MobileNet, they are the last of its own children for
    each size of map. The classifier is the last linear layer.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W), for a forward pass.
    """
    if isinstance(model, ResNet):
        stages: dict[str, nn.Module] = {"stem": model.stem}
        stages |= {f"stages.{name}": stage for name, stage in model.stages.named_children()}
        features = model.stages if model.norm is None else model.relu
        return Layers(stages, features, model.classifier)
    children = dict(model.named_children())
    names = [*_map_sizes(model, children, images)]
    if len(names) <= 1:
        children = {
            f"{name}.{inner}": module
            for name, child in children.items()
            if isinstance(child, nn.Sequential)
            for inner, module in child.named_children()
        }
        last_of_size = {size: name for name, size in _map_sizes(model, children, images).items()}
        names = [*last_of_size.values()]
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return Layers(
        {name: children[name] for name in names},
        features=children[names[-1]] if names else None,
        classifier=linear[-1] if linear else None,
    )


def _map_sizes(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, torch.Size]:
    """Return height and width of the outputs that are maps of more than a pixel."""
    with torch.inference_mode(), record_outputs(layers) as outputs:
        model(images)
    return {
        name: output.shape[2:]
        for name, output in outputs.items()
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1
    }


@contextmanager
def record_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Yield the latest output of each layer within this context, in the order of the calls."""
    outputs: dict[str, Tensor] = {}

    def record(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> object:
        if isinstance(output, Tensor):
            outputs.pop(name, None)
            outputs[name] = output
            # The next layer may change its input in place, so it gets a copy.
            return output.clone()
        return output

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(record, name)))
        yield outputs
