"""Classifiers from torchvision and timm, adapted to small images."""

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from resnet_sweep.errors import one_line
from resnet_sweep.ranges import Count

# Models with auxiliary classifiers: in training they return a tuple unless `aux_logits` is false.
AUXILIARY = {"googlenet", "inception_v3"}
# Arguments of the libraries that load pretrained weights.
WEIGHTS = ("weights", "checkpoint_path")
# The auxiliary classifiers of these models.
AUXILIARY_PARTS = ("aux1", "aux2", "AuxLogits")
# A stem has at most three convolutions before its pooling; a later pooling belongs to a stage.
STEM_CONVOLUTIONS = 3


def torchvision_classifier(
    num_classes: Count,
    name: str,
    fit_stem: bool = True,
    in_channels: Count = 3,
    pretrained: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return a classifier of torchvision.

    Args:
        num_classes: number of classes.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        fit_stem: adapt the stem to small images, see `remove_early_downsampling`.
        in_channels: number of channels of an image.
        pretrained: name of pretrained weights, such as IMAGENET1K_V1, or DEFAULT; the classifier
            then has the classes of these weights. None for random weights.
        arguments: further arguments of the model.

    Raises:
        ValueError: there is no such classifier, its weights aren't available, or an argument loads
            weights.
    """
    # This import takes seconds, and other models don't need it.
    from torchvision import models

    check_arguments("torchvision", name, models.list_models(module=models), arguments)
    if pretrained is not None:
        model = _torchvision_pretrained(name, pretrained, arguments)
    else:
        if name in AUXILIARY:
            arguments = {"aux_logits": False, "init_weights": True} | arguments
        model = models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if fit_stem:
        remove_early_downsampling(model)
    if in_channels != 3:
        replace_input_channels(model, in_channels)
    return model


def timm_classifier(
    num_classes: Count,
    name: str,
    fit_stem: bool = True,
    in_channels: Count = 3,
    pretrained: str | None = None,
    **arguments: Any,
) -> nn.Module:
    """Return a classifier of timm.

    Args:
        num_classes: number of classes.
        name: one of `timm.list_models()`.
        fit_stem: adapt the stem to small images, see `remove_early_downsampling`.
        in_channels: number of channels of an image.
        pretrained: tag of pretrained weights, such as a1_in1k, or DEFAULT; the classifier then has
            the classes of these weights. None for random weights.
        arguments: further arguments of the model.

    Raises:
        ValueError: timm isn't installed, there is no such classifier, its weights aren't
            available, or an argument loads weights.
    """
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"name={name} needs timm, which isn't installed: pip install 'resnet-sweep[timm]'"
        ) from error
    # A name may end in a tag of pretrained weights, and the list has names without tags.
    known = [name] if timm.is_model(name) else timm.list_models()
    check_arguments("timm", name, known, arguments)
    if in_channels != 3:
        arguments = {"in_chans": in_channels} | arguments
    if pretrained is not None:
        model = _timm_pretrained(name, pretrained, arguments)
    else:
        model = timm.create_model(name, pretrained=False, num_classes=num_classes, **arguments)
    if fit_stem:
        remove_early_downsampling(model, in_channels)
    return model


def _torchvision_pretrained(name: str, weights: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network of torchvision with pretrained weights."""
    from torchvision import models

    choices = models.get_model_weights(name)
    if weights not in choices.__members__:
        raise ValueError(
            f"{name} has no weights {weights}: choose one of {', '.join(choices.__members__)}"
        )
    choice = choices[weights]
    try:
        # The constructor of the network reads the file again, but without `weights_only`. A file
        # that can be read with it contains no code.
        choice.get_state_dict(progress=False, check_hash=True, weights_only=True)
    # A download raises an OSError, and a damaged file can raise errors of nearly any type.
    except Exception as error:
        file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(choice.url).name)
        verb = "read" if file.exists() else f"downloaded from {choice.url}"
        raise ValueError(
            f"the weights {choice.name} of {name} can't be {verb} ({one_line(error)}): copy the "
            f"file to {file} from a machine with a network, or leave init_from out"
        ) from error
    model: nn.Module = models.get_model(name, weights=choice, **arguments)
    for part in AUXILIARY_PARTS:
        if hasattr(model, part):
            setattr(model, part, None)
    return model


def _timm_pretrained(name: str, tag: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Return a network of timm with pretrained weights."""
    import timm
    from huggingface_hub.constants import HF_HUB_CACHE

    architecture = name.partition(".")[0]
    full_name = name if tag == "DEFAULT" else f"{architecture}.{tag}"
    known = timm.list_pretrained(f"{architecture}.*")
    if not any(full_name in (choice, choice.partition(".")[0]) for choice in known):
        tags = ", ".join(choice.partition(".")[2] for choice in known)
        raise ValueError(
            f"timm has no pretrained weights {full_name}: "
            + (f"choose one of the tags {tags}" if tags else "choose another model")
        )
    try:
        model: nn.Module = timm.create_model(full_name, pretrained=True, **arguments)
    # The download raises errors of several libraries.
    except Exception as error:
        found = timm.get_pretrained_cfg(full_name)
        hub = full_name if found is None else str(found.hf_hub_id)
        folder = Path(HF_HUB_CACHE, f"models--{hub.replace('/', '--')}")
        raise ValueError(
            f"the weights of {full_name} can't be loaded ({one_line(error)}): copy the folder "
            f"{folder} from a machine with a network, where `hf download {hub}` makes it, or leave "
            "init_from out"
        ) from error
    return model


def check_arguments(
    library: str, name: str, known: Iterable[str], arguments: Mapping[str, Any]
) -> None:
    """Check the name and the arguments of a classifier.

    Raises:
        ValueError: the name isn't known, or an argument loads weights.
    """
    for argument in WEIGHTS:
        if argument in arguments:
            raise ValueError(
                f"{argument}={arguments[argument]} would load weights that the signature of the "
                "run doesn't contain: leave it out, and set init_from=pretrained or init_from=FILE"
            )
    if name not in known:
        near = get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}?" if near else "its list_models() lists the names"
        raise ValueError(f"name={name} isn't a classifier of {library}: {hint}")


def remove_early_downsampling(model: nn.Module, in_channels: int = 3) -> None:
    """Remove the downsampling in a network's stem, for images of about 32x32 pixels.

    The first convolution gets a kernel of at most 3x3 and stride 1, and the max pooling in the stem
    is removed, as in the CIFAR networks of He et al., 2016, "Deep Residual Learning for Image
    Recognition", section 4.2. A convolution of disjoint patches (ConvNeXt, Swin) gets patches of
    2x2 pixels. If several parallel convolutions have the image as input (RepVGG), all of them are
    changed.

    Two kinds of networks aren't changed: networks with a fixed number of patches, such as vision
    transformers, which take the sizes of image and patches as arguments, and networks that don't
    start with a strided convolution.

    The new kernel is the center of the old one, multiplied by the ratio of their sizes. This keeps
    the variance of the outputs. Most networks initialize a kernel by its fan-in or fan-out. The new
    weights are distributed as if the smaller kernel had been initialized so.

    Args:
        model: the network, which is changed in place.
        in_channels: number of channels of an image.
    """
    if hasattr(model, "patch_embed") or hasattr(model, "image_size"):
        return
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or convolutions[0].in_channels != in_channels:
        return
    if convolutions[0].stride[0] == 1:
        return
    stride = convolutions[0].stride
    patches = convolutions[0].kernel_size == stride
    for conv in convolutions:
        if conv.in_channels == in_channels and conv.stride == stride:
            crop_kernel(conv, 2 if patches else 3, 2 if patches else 1)
    convolutions_so_far = 0
    for path, module in list(model.named_modules()):
        convolutions_so_far += isinstance(module, nn.Conv2d)
        if convolutions_so_far > STEM_CONVOLUTIONS:
            return
        if isinstance(module, nn.MaxPool2d):
            model.set_submodule(path, nn.Identity())
            return


def replace_input_channels(model: nn.Module, in_channels: int) -> None:
    """Change all convolutions of RGB images to images with another number of channels.

    The weights of the first channels are multiplied by the square root of the ratio of the numbers
    of channels. This keeps the variance of the outputs.

    Raises:
        ValueError: no convolution has three input channels.
    """
    found = False
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1:
            found = True
            with torch.no_grad():
                weight = module.weight[:, :in_channels] * math.sqrt(3 / in_channels)
            module.weight = nn.Parameter(weight)
            module.in_channels = in_channels
    if not found:
        raise ValueError(
            f"the network takes images with three channels only, and the data has {in_channels}: "
            "choose another network"
        )


def crop_kernel(conv: nn.Conv2d, size: int, stride: int) -> None:
    """Crop a convolution's kernel to its center, at most (size, size), and set its stride."""
    old = conv.kernel_size[0]
    size = min(old, size)
    margin = (old - size) // 2
    center = slice(margin, margin + size)
    with torch.no_grad():
        conv.weight = nn.Parameter(conv.weight[:, :, center, center] * (old / size))
    conv.kernel_size = (size, size)
    conv.stride = (stride, stride)
    if not isinstance(conv.padding, str):
        conv.padding = tuple(max(padding - margin, 0) for padding in conv.padding)
