"""The layers of a network that are worth looking at, and what comes out of them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resnet_sweep.models.resnet import ResNet


class NotApplicableError(LookupError):
    """What is asked for has no meaning for a network; the message says why."""


@dataclass(frozen=True)
class Layers:
    """Parts of a classifier of images.

    Attributes:
        stages: the parts that images go through in turn, by their names; each gives
            (N, channels, H, W).
        features: whose output is the last that is an image.
        classifier: whose input is one vector an image.
    """

    stages: dict[str, nn.Module]
    features: nn.Module | None
    classifier: nn.Module | None


def find_layers(model: nn.Module, images: Tensor) -> Layers:
    """The layers of one of this package's networks, or as well as can be told of any other.

    Of any other, the stages are the top-level children whose outputs are images of more than a
    pixel. Where all lies within one of them, as in VGG and MobileNet, they are the last of its
    own children for each size of image. The classifier is the last linear layer.

    Args:
        model: in evaluation mode.
        images: (N, 3, H, W), to try it with.
    """
    if isinstance(model, ResNet):
        stages = {"stem": model.stem}
        stages |= {f"stages.{name}": stage for name, stage in model.stages.named_children()}
        features = model.stages if model.norm is None else model.relu
        return Layers(stages, features, model.classifier)
    children = dict(model.named_children())
    sizes = _image_sizes(model, children, images)
    if len(sizes) <= 1:
        children = {
            f"{name}.{inner}": module
            for name, child in children.items()
            if isinstance(child, nn.Sequential)
            for inner, module in child.named_children()
        }
        # By size, so that a later child takes the place of an earlier one.
        last = {size: name for name, size in _image_sizes(model, children, images).items()}
        sizes = dict.fromkeys(last.values())
    stages = {name: children[name] for name in sizes}
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return Layers(
        stages,
        features=list(stages.values())[-1] if stages else None,
        classifier=linear[-1] if linear else None,
    )


def _image_sizes(
    model: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, torch.Size]:
    """Height and width of what comes out of those layers that give images of more than a pixel."""
    with torch.inference_mode(), recording(layers) as outputs:
        model(images)
    return {
        name: output.shape[2:]
        for name, output in outputs.items()
        if output.ndim == 4 and output.shape[2] * output.shape[3] > 1
    }


@contextmanager
def recording(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Within this context, the latest output of each layer, in the order in which they came."""
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                return None
            outputs.pop(name, None)
            outputs[name] = output
            # What comes next may work in place, so it is given a copy.
            return output.clone()

        return hook

    handles = [layer.register_forward_hook(record(name)) for name, layer in layers.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


class Observer:
    """Something that sees what happens in a network, within its context."""

    def attach(self) -> Iterable[RemovableHandle]:
        """Register hooks; they are removed at the end of the context."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._handles = list(self.attach())
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
