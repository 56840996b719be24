"""Fine-tuning: which weights are trained, and which of them belong to the classifier."""

from collections.abc import Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.signature import format_setting


def frozen_names(model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Return the names of the weights that patterns freeze.

    A pattern matches the name of a weight, as in `fnmatch`, or the name of a module, and so all
    weights of the module.

    Raises:
        ConfigError: a pattern matches nothing, or the patterns match all weights.
    """
    weights = [name for name, _ in model.named_parameters()]
    setting = f"trainer.freeze={format_setting(list(patterns))}"
    frozen: set[str] = set()
    for pattern in patterns:
        parts = (pattern, f"{pattern}.*")
        found = {name for name in weights if any(fnmatchcase(name, part) for part in parts)}
        if not found:
            raise ConfigError(
                f"{setting} has {pattern}, which matches no weight and no module of the model: "
                f"{_nearest(model, pattern)}"
            )
        frozen |= found
    if patterns and len(frozen) == len(weights):
        raise ConfigError(
            f"{setting} matches all weights of the model, so nothing would be trained: choose fewer"
        )
    return frozen


def _nearest(model: nn.Module, pattern: str) -> str:
    """Return advice with the names that are similar to a pattern, or with the outermost modules."""
    with_weights = {name for name, _ in model.named_parameters()}
    modules = {name.rpartition(".")[0] for name in with_weights} - {""}
    parents = {".".join(name.split(".")[:depth]) for name in modules for depth in range(1, 9)}
    near = get_close_matches(pattern, sorted(with_weights | modules | parents))
    if near:
        return f"did you mean {' or '.join(near)}?"
    outermost = dict.fromkeys(name.partition(".")[0] for name, _ in model.named_parameters())
    return f"its modules are {', '.join(outermost)}"


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Exclude the weights that patterns match from training; see `frozen_names`."""
    frozen = frozen_names(model, patterns)
    for name, weight in model.named_parameters():
        if name in frozen:
            weight.requires_grad_(False)


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """Return the modules that have weights and of which all weights are frozen.

    They stay in evaluation mode during training, so that BatchNorm keeps its statistics, and a
    frozen module has no dropout.
    """
    found = []
    for module in model.modules():
        weights = list(module.parameters())
        if weights and not any(weight.requires_grad for weight in weights):
            found.append(module)
    return found


def classifier_names(model: nn.Module, num_classes: int) -> set[str]:
    """Return the names of the weights of the classifier.

    The classifier is the last layer whose weight matrix or filters have an output for each class.

    Raises:
        ConfigError: there is no such layer.
    """
    found: set[str] = set()
    for path, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        weight = own.get("weight")
        if weight is not None and weight.ndim >= 2 and len(weight) == num_classes:
            found = {f"{path}.{name}" if path else name for name in own}
    if not found:
        raise ConfigError(
            f"the model has no layer with {num_classes} outputs, so its classifier is unknown: set "
            "trainer.backbone_lr_factor=1"
        )
    return found
