"""Attention over the channels and the places of a feature map."""

import math

import torch
from torch import Tensor, nn


def channel_perceptron(channels: int) -> nn.Sequential:
    """Two layers with a sixteenth of the channels between them, four at least, and no biases."""
    hidden = max(channels // 16, 4)
    return nn.Sequential(
        nn.Linear(channels, hidden, bias=False),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, channels, bias=False),
    )


class SqueezeExcitation(nn.Module):
    """Each channel, scaled by what a perceptron makes of the means of all.

    Hu et al., "Squeeze-and-Excitation Networks", 2018, equations 2 to 4: the scale is
    sigmoid(W2 relu(W1 z)) with z the means over the image. As in those equations there are no
    biases, without which the authors found channel dependencies easier to model. The reduction is
    their 16, but four hidden units are the least, so that 16 channels aren't squeezed into one.

    Shapes: (N, channels, H, W) to the same.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.perceptron = channel_perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.perceptron(x.mean((2, 3))))
        return x * scale[:, :, None, None]


class EfficientChannelAttention(nn.Module):
    """Each channel, scaled by a convolution over the means of its neighbours.

    Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
    2020, equations 9 and 12: the kernel size is the odd number nearest to (log2(channels) + b) /
    gamma, with gamma 2 and b 1, and the larger one where two are as near. There is no bias.

    Shapes: (N, channels, H, W) to the same.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2) | 1
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.sigmoid(self.conv(x.mean((2, 3))[:, None])[:, 0])
        return x * scale[:, :, None, None]


class ConvolutionalBlockAttention(nn.Module):
    """Each channel, and then each place, scaled by what the means and maxima over the other say.

    Woo et al., "CBAM: Convolutional Block Attention Module", 2018, equations 2 and 3: the channels
    by sigmoid(W1 relu(W0 mean) + W1 relu(W0 max)) over the image, the places by the sigmoid of a
    7x7 convolution of mean and max over the channels. The perceptron is that of
    `SqueezeExcitation`. Behind the convolution there is BatchNorm, as in the authors' code, which
    their results come from, though not in the equation: it keeps the sigmoid from saturating
    whatever the maxima are. Its weight starts at 0, as theirs does, and so each place's scale at
    one half.

    Shapes: (N, channels, H, W) to the same.

    Args:
        channels: of the input.
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
        places = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.norm(self.conv(places)))


ATTENTION = {
    "se": SqueezeExcitation,
    "eca": EfficientChannelAttention,
    "cbam": ConvolutionalBlockAttention,
}
