"""The classifiers of torchvision and timm, with new weights."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from torch import nn

from resnet_sweep.models.stem import remove_early_downsampling
from resnet_sweep.ranges import Count

# These return a tuple in training, unless told not to.
AUXILIARY = {"googlenet", "inception_v3"}
# What asks for trained weights.
WEIGHTS = ("weights", "pretrained", "checkpoint_path")


def torchvision_classifier(
    num_classes: Count, name: str, fit_stem: bool = True, **arguments: Any
) -> nn.Module:
    """A classifier of torchvision by its name.

    Args:
        num_classes: length of the output.
        name: one of `torchvision.models.list_models(module=torchvision.models)`.
        fit_stem: whether its stem is to suit small images, see `resnet_sweep.models.stem`.
        arguments: further ones of the network.

    Raises:
        ValueError: there is no such classifier, or an argument asks for trained weights.
    """
    refuse_weights(arguments)
    # Importing it takes seconds, which other models needn't pay.
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(unknown_model(name, "torchvision", known))
    if name in AUXILIARY:
        arguments = {"aux_logits": False, "init_weights": True} | arguments
    model = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments)
    if fit_stem:
        remove_early_downsampling(model)
    return model


def timm_classifier(
    num_classes: Count, name: str, fit_stem: bool = True, **arguments: Any
) -> nn.Module:
    """A classifier of timm by its name.

    Args:
        num_classes: length of the output.
        name: one of `timm.list_models()`.
        fit_stem: whether its stem is to suit small images, see `resnet_sweep.models.stem`.
        arguments: further ones of `timm.create_model` and the network.

    Raises:
        ValueError: there is no such classifier, or no timm, or an argument asks for trained
            weights.
    """
    refuse_weights(arguments)
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"name={name} needs timm, which isn't installed: pip install 'resnet-sweep[timm]'"
        ) from error
    if not timm.is_model(name):
        raise ValueError(unknown_model(name, "timm", timm.list_models()))
    model = timm.create_model(name, pretrained=False, num_classes=num_classes, **arguments)
    if fit_stem:
        remove_early_downsampling(model)
    return model


def refuse_weights(arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError where an argument asks for trained weights."""
    for name in WEIGHTS:
        if name in arguments:
            raise ValueError(
                f"{name}={arguments[name]} asks for trained weights, but networks start with new "
                f"ones here: leave {name} out"
            )


def unknown_model(name: str, library: str, known: Iterable[str]) -> str:
    """A sentence on a name that a library hasn't, with the nearest that it has."""
    near = get_close_matches(name, known)
    hint = f"did you mean {' or '.join(near)}?" if near else "its list_models() has the names"
    return f"name={name} isn't a classifier of {library}: {hint}"
