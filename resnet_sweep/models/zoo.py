"""Classifiers of torchvision and timm, with new weights and stems for small images."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from resnet_sweep.ranges import Count

# These return a tuple in training unless `aux_logits` is false.
AUXILIARY = {"googlenet", "inception_v3"}
# Arguments by which a model gets trained weights.
WEIGHTS = ("weights", "pretrained", "checkpoint_path")
# A stem has up to three convolutions before its pooling; a later pooling belongs to a stage.
STEM_CONVOLUTIONS = 3


def torchvision_classifier(
    num_classes: Count, name: str, fit_stem: bool = True, **arguments: Any
) -> nn.Module:
    """Return a classifier of torchvision.

    Args:
        num_classes: length of the output.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        fit_stem: adapt its stem to small images, see `remove_early_downsampling`.
        arguments: further ones of the network.

    Raises:
        ValueError: there is no such classifier, or an argument asks for trained weights.
    """
    # This import takes seconds, and other models don't need it.
    from torchvision import models

    check_request("torchvision", name, models.list_models(module=models), arguments)
    if name in AUXILIARY:
        arguments = {"aux_logits": False, "init_weights": True} | arguments
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if fit_stem:
        remove_early_downsampling(model)
    return model


def timm_classifier(
    num_classes: Count, name: str, fit_stem: bool = True, **arguments: Any
) -> nn.Module:
    """Return a classifier of timm; as `torchvision_classifier`, with `timm.list_models()`.

    Raises:
        ValueError: there is no such classifier, or no timm, or an argument asks for trained
            weights.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"name={name} needs timm, which isn't installed: pip install 'resnet-sweep[timm]'"
        ) from error
    # A name may have a tag of its weights, which isn't in the list.
    known = [name] if timm.is_model(name) else timm.list_models()
    check_request("timm", name, known, arguments)
    model: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, **arguments
    )
    if fit_stem:
        remove_early_downsampling(model)
    return model


def check_request(
    library: str, name: str, known: Iterable[str], arguments: Mapping[str, Any]
) -> None:
    """Check the name and the arguments of a classifier.

    Raises:
        ValueError: the name isn't known, or an argument asks for trained weights.
    """
    for argument in WEIGHTS:
        if argument in arguments:
            raise ValueError(
                f"{argument}={arguments[argument]} asks for trained weights, but networks start "
                f"with new ones here: leave {argument} out"
            )
    if name not in known:
        near = get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else "its list_models() has the names"
        raise ValueError(f"name={name} isn't a classifier of {library}: {hint}")


def remove_early_downsampling(model: nn.Module) -> None:
    """Remove the early downsampling of a network, for images of about 32x32 pixels.

    As in He et al., 2016, "Deep Residual Learning for Image Recognition", for CIFAR, the first
    convolution becomes one of at most 3x3 with stride 1, and a max pooling of the stem is removed.
    A convolution of disjoint patches (ConvNeXt, Swin) gets patches of 2x2. Networks that count
    their patches aren't changed, because they take the sizes of image and patches as arguments;
    nor are networks that don't start with a strided convolution. If several parallel convolutions
    see the image (RepVGG), all of them change.

    The smaller kernel is the middle of the larger one, times the ratio of their sizes. So its
    outputs have the same variance as before, and its distribution is the one that most networks
    draw for the smaller kernel, by its fan-in or fan-out.

    Args:
        model: changed in place.
    """
    if hasattr(model, "patch_embed") or hasattr(model, "image_size"):
        return
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or convolutions[0].in_channels != 3 or convolutions[0].stride[0] == 1:
        return
    stride = convolutions[0].stride
    patches = convolutions[0].kernel_size == stride
    for conv in convolutions:
        if conv.in_channels == 3 and conv.stride == stride:
            shrink(conv, 2 if patches else 3, 2 if patches else 1)
    seen = 0
    for path, module in list(model.named_modules()):
        seen += isinstance(module, nn.Conv2d)
        if seen > STEM_CONVOLUTIONS:
            return
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.Identity())
            return


def shrink(conv: nn.Conv2d, size: int, stride: int) -> None:
    """Reduce a convolution's kernel to its middle, (size, size) at most, and change its stride."""
    old = conv.kernel_size[0]
    size = min(old, size)
    margin = (old - size) // 2
    middle = slice(margin, margin + size)
    with torch.no_grad():
        conv.weight = nn.Parameter(conv.weight[:, :, middle, middle] * (old / size))
    conv.kernel_size = (size, size)
    conv.stride = (stride, stride)
    if not isinstance(conv.padding, str):
        conv.padding = tuple(max(padding - margin, 0) for padding in conv.padding)
