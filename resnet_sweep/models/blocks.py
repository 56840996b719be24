"""Residual blocks."""

from torch import Tensor, nn


def convolution(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the image size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class BasicBlockV2(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU ("full pre-activation").

    He et al., "Identity Mappings in Deep Residual Networks", 2016, figure 4(e). Where the shape
    changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it is the input.

    Shapes: (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, out_channels, 3, stride)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = convolution(out_channels, out_channels, 3)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = (
            None
            if stride == 1 and in_channels == out_channels
            else convolution(in_channels, out_channels, 1, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = self.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return self.conv2(self.relu(self.norm2(self.conv1(activated)))) + shortcut


BLOCKS = {"basic_v2": BasicBlockV2}
