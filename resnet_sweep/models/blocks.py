"""Residual blocks."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resnet_sweep.models.attention import ATTENTION


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the image size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class NarrowProjection(nn.Conv2d):
    """A 1x1 convolution without bias, for fewer than eight channels.

    For a strided convolution in channels-last memory format, oneDNN's kernel for CPUs with AVX2 but
    without AVX-512 writes out of bounds in the backward pass (observed with torch 2.15). So this
    module selects the pixels first, and then applies a convolution without a stride.
    """

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        return F.conv2d(x[..., ::vertical, ::horizontal], self.weight)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d | None:
    """Return a 1x1 convolution for the shortcut if the block changes the shape, or else None."""
    if stride == 1 and in_channels == out_channels:
        return None
    if in_channels < 8:
        return NarrowProjection(in_channels, out_channels, 1, stride, bias=False)
    return convolution(in_channels, out_channels, 1, stride)


class StochasticDepth(nn.Module):
    """Replaces the residuals of randomly drawn images by zeros in training.

    Huang et al., 2016, "Deep Networks with Stochastic Depth", equation 2; with a draw for each
    image, where the paper has one for the batch. The other residuals are divided by
    1 - probability, which keeps the expected value. The paper scales residuals in evaluation
    instead.

    Shapes: (N, ...) to the same.

    Args:
        probability: probability of dropping an image's residual, below 1; with 0, no random numbers
            are drawn.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, residual: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return residual
        survival = 1 - self.probability
        shape = (len(residual), *[1] * (residual.ndim - 1))
        survives = torch.empty(shape, dtype=residual.dtype, device=residual.device)
        return residual * survives.bernoulli_(survival).div_(survival)


class ResidualBlock(nn.Module):
    """Base class of residual blocks: adds a residual to the shortcut.

    Shapes: (N, in_channels, H, W) to (N, expansion * width, H / stride, W / stride), rounded up.

    Attributes:
        expansion: ratio of the output channels to the block's width.
        preactivated: whether BatchNorm and ReLU precede the convolutions. If they do, nothing
            follows the sum.

    Args:
        out_channels: number of output channels.
        attention: attention module of the residual, a key of `ATTENTION`; None for no attention.
        drop: probability of dropping an image's residual in training.
    """

    expansion: ClassVar[int] = 1
    preactivated: ClassVar[bool] = True

    def __init__(self, out_channels: int, attention: str | None, drop: float) -> None:
        super().__init__()
        self.attention = None if attention is None else ATTENTION[attention](out_channels)
        self.stochastic_depth = StochasticDepth(drop)

    def add(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """Return the sum of the residual, after attention and stochastic depth, and the shortcut.

        Shapes: the arguments and the sum are (N, out_channels, H, W).
        """
        if self.attention is not None:
            residual = self.attention(residual)
        dropped: Tensor = self.stochastic_depth(residual)
        return dropped + shortcut


class BasicBlockV1(ResidualBlock):
    """Two 3x3 convolutions, each followed by BatchNorm, with ReLU between them and after the sum.

    He et al., 2016, "Deep Residual Learning for Image Recognition", figure 2. If the block changes
    the shape, the shortcut is a 1x1 convolution and BatchNorm ("option B"); otherwise the input.
    """

    preactivated = False

    def __init__(
        self, in_channels: int, width: int, stride: int, attention: str | None, drop: float
    ) -> None:
        super().__init__(width, attention, drop)
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.norm2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        projected = projection(in_channels, width, stride)
        self.shortcut = projected and nn.Sequential(projected, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        residual = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        activated: Tensor = self.relu(self.add(residual, shortcut))
        return activated


class BasicBlockV2(ResidualBlock):
    """Two 3x3 convolutions, each after BatchNorm and ReLU ("full pre-activation").

    He et al., 2016, "Identity Mappings in Deep Residual Networks", figure 4(e). If the block
    changes the shape, the shortcut is a 1x1 convolution of the activated input; otherwise the
    input.
    """

    def __init__(
        self, in_channels: int, width: int, stride: int, attention: str | None, drop: float
    ) -> None:
        super().__init__(width, attention, drop)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, width, 3, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.add(self.conv2(self.relu(self.norm2(self.conv1(activated)))), shortcut)


class BottleneckV2(ResidualBlock):
    """Convolutions of 1x1, 3x3 and 1x1, each after BatchNorm and ReLU.

    He et al., 2016, "Identity Mappings in Deep Residual Networks", section 4: the first two have
    `width` channels, and the last has four times as many. The 3x3 convolution has the stride,
    because a 1x1 convolution with stride 2 ignores three of four pixels. The shortcut is as in
    `BasicBlockV2`.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, width: int, stride: int, attention: str | None, drop: float
    ) -> None:
        out_channels = self.expansion * width
        super().__init__(out_channels, attention, drop)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, width, 1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = convolution(width, width, 3, stride)
        self.norm3 = nn.BatchNorm2d(width)
        self.conv3 = convolution(width, out_channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual = self.conv2(self.relu(self.norm2(self.conv1(activated))))
        return self.add(self.conv3(self.relu(self.norm3(residual))), shortcut)


BLOCKS: dict[str, type[BasicBlockV1 | BasicBlockV2 | BottleneckV2]] = {
    "basic_v1": BasicBlockV1,
    "basic_v2": BasicBlockV2,
    "bottleneck_v2": BottleneckV2,
}
