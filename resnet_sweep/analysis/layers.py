"""The layers of a network that the feature report analyzes, and their outputs."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from resnet_sweep.models.resnet import ResNet


class NotApplicableError(LookupError):
    """An analysis isn't applicable to a network; the message says why."""


@dataclass(frozen=True)
class Layers:
    """The layers of an image classifier that are analyzed.

    Attributes:
        stages: consecutive modules by name; each returns feature maps (N, channels, H, W).
        features: module that returns the last feature maps; None if there are no feature maps.
        classifier: last linear layer, whose input is one vector per image; None if there is none.
    """

    stages: dict[str, nn.Module]
    features: nn.Module | None
    classifier: nn.Module | None


def find_layers(model: nn.Module, images: Tensor) -> Layers:
    """Return the layers of a network that are analyzed.

    The layers of a `ResNet` are known. For other networks, the stages are the top-level children
    that return feature maps larger than 1x1. If there is only one such child, as in VGG and
    MobileNet, the stages are its own children. Of those with feature maps of the same size, only
    the last one is a stage. The classifier is the last linear layer.

    Args:
        model: model in evaluation mode.
        images: (N, 3, H, W), normalized, for a forward pass.
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
    """Return height and width of the outputs that are feature maps larger than 1x1."""
    with torch.inference_mode(), collect_outputs(layers) as outputs:
        model(images)
    return {
        name: output.shape[2:]
        for name, output in outputs.items()
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1
    }


@contextmanager
def collect_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Yield a dict that collects the latest output of each layer in this context, in call order."""
    outputs: dict[str, Tensor] = {}

    def hook(name: str, module: nn.Module, inputs: tuple[Any, ...], output: object) -> object:
        if isinstance(output, Tensor):
            outputs.pop(name, None)
            outputs[name] = output
            # The next layer may change its input in place, so it gets a copy.
            return output.clone()
        return output

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_hook(partial(hook, name)))
        yield outputs
