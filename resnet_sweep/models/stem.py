"""Stems of networks for large images, fitted to small ones."""

import torch
from torch import nn

# A stem has up to three convolutions before its pooling: what pools later belongs to a stage.
STEM_CONVOLUTIONS = 3


def remove_early_downsampling(model: nn.Module) -> None:
    """Take the early downsampling out of a network, for images of about 32x32 pixels.

    As He et al., 2016, "Deep Residual Learning for Image Recognition", have it for CIFAR, the
    first convolution becomes one of at most 3x3 with stride 1, and a max pooling of the stem is
    dropped. A convolution of disjoint patches (ConvNeXt, Swin) keeps its nature with patches of
    2x2. Networks that count their patches are left alone, for they take the size of the image and
    of the patches as arguments; so are those that don't start with a strided convolution. Where
    parallel convolutions see the image (RepVGG), all of them change.

    The smaller kernel is the middle of the larger one, times the ratio of their sizes: its outputs
    have the variance that they had, and where a network draws its first weights by the fan-in or
    fan-out, as most do, it's what would have been drawn for the smaller kernel.

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
    """Leave the middle of a convolution's kernel, (size, size) at most, and change its stride."""
    old = conv.kernel_size[0]
    size = min(old, size)
    margin = (old - size) // 2
    middle = slice(margin, margin + size)
    with torch.no_grad():
        conv.weight = nn.Parameter(conv.weight[:, :, middle, middle] * (old / size))
    conv.kernel_size = (size, size)
    conv.stride = (stride, stride)
    conv.padding = tuple(max(padding - margin, 0) for padding in conv.padding)
