"""Attention modules: they scale the channels or positions of feature maps, (N, channels, H, W)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


def channel_perceptron(channels: int) -> nn.Sequential:
    """Return two linear layers without biases, with max(channels / 16, 4) hidden units."""
    hidden = max(channels // 16, 4)
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, channels, bias=False),
    )


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation: scales each channel by a function of the means of all channels.

    Hu et al., 2018, "Squeeze-and-Excitation Networks", equations 2 to 4: the scales are
    sigmoid(W2 relu(W1 z)), where z are the means of the channels over the image. As in these
    equations, there are no biases; the authors found that channel dependencies are easier to model
    without them. The reduction ratio is 16, as in the paper, but there are at least four hidden
    units, because 16 channels would have a single one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.perceptron = channel_perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.perceptron(x.mean((2, 3))))
        return x * scale[:, :, None, None]


class EfficientChannelAttention(nn.Module):
    """Efficient channel attention: scales each channel by a 1D convolution of the channel means.

    Wang et al., 2020, "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural
    Networks", equations 9 and 12: the kernel size is the odd number nearest to (log2(channels) + b)
    / gamma, with gamma 2 and b 1; if two are equally near, the larger one. There is no bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2) | 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.conv(x.mean((2, 3))[:, None])[:, 0])
        return x * scale[:, :, None, None]


class ConvolutionalBlockAttention(nn.Module):
    """CBAM: scales first each channel, and then each position.

    Woo et al., 2018, "CBAM: Convolutional Block Attention Module", equations 2 and 3. The scales of
    the channels are sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)), where mean and max are over the
    image; W0 and W1 have the same sizes as in `SqueezeExcitation`. The scales of the positions are
    the sigmoid of a 7x7 convolution of the mean and the max over the channels. BatchNorm follows
    this convolution: it isn't in the equation, but in the authors' code, and keeps the sigmoid from
    saturating. Its weight is initialized to 0, as in that code, so at first the scale of each
    position is one half.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.perceptron = channel_perceptron(channels)
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.perceptron(x.mean((2, 3))) + self.perceptron(x.amax((2, 3))))
        x = x * scale[:, :, None, None]
        positions = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.norm(self.conv(positions)))


ATTENTION: dict[str, Callable[[int], nn.Module]] = {
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": ConvolutionalBlockAttention,
}
