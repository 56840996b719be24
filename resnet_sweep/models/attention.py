"""Attention over the channels and positions of a feature map, (N, channels, H, W)."""

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
    """Squeeze-and-excitation: scales each channel by a perceptron of all channels' means.

    Hu et al., "Squeeze-and-Excitation Networks", 2018, equations 2 to 4: the scale is
    sigmoid(W2 relu(W1 z)) with z the means over the image. As in those equations there are no
    biases; the authors found channel dependencies easier to model without them. The reduction is
    their 16, with at least four hidden units, so that 16 channels don't have a single one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.perceptron = channel_perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.perceptron(x.mean((2, 3))))
        return x * scale[:, :, None, None]


class EfficientChannelAttention(nn.Module):
    """Efficient channel attention: scales each channel by a convolution of neighbours' means.

    Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    2020, equations 9 and 12: the kernel size is the odd number nearest to (log2(channels) + b) /
    gamma, with gamma 2 and b 1; of two that are equally near, the larger. There is no bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2) | 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.conv(x.mean((2, 3))[:, None])[:, 0])
        return x * scale[:, :, None, None]


class ConvolutionalBlockAttention(nn.Module):
    """CBAM: scales each channel, and then each position, by means and maxima over the other.

    Woo et al., "CBAM: Convolutional Block Attention Module", 2018, equations 2 and 3: the channels
    by sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)) over the image, the positions by the sigmoid of a
    7x7 convolution of mean and max over the channels. The perceptron is that of
    `SqueezeExcitation`. BatchNorm follows the convolution, as in the code of the authors' results,
    though not in the equation: it keeps the sigmoid from saturating. Its weight starts at 0, as
    theirs does, so each position's scale starts at one half.
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
