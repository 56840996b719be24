"""The weights that an optimizer trains, in groups."""

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def parameter_groups(model: nn.Module, decay_norm_and_bias: bool) -> list[dict]:
    """All weights of a model, as an optimizer takes them.

    Args:
        model: with weights that need gradients.
        decay_norm_and_bias: False makes a second group of biases and the weights of
            normalisations, with weight_decay 0 (He et al., 2019, "Bag of Tricks", section 3.1).
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if decay_norm_and_bias:
        return [{"params": trained}]
    undecayed = {
        id(weight)
        for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if name == "bias" or isinstance(module, (_NormBase, nn.LayerNorm, nn.GroupNorm))
    }
    return [
        {"params": [weight for weight in trained if id(weight) not in undecayed]},
        {"params": [weight for weight in trained if id(weight) in undecayed], "weight_decay": 0.0},
    ]
