"""Residual networks for small images."""

import math
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from torch import Tensor, nn

from resnet_sweep.models.blocks import BLOCKS, convolution
from resnet_sweep.ranges import Count

# It can't be 1, because all features or residuals would be dropped.
DropProbability = Annotated[float, Ge(0), Lt(1)]
# The deepest network of He et al. (2016), with 1,202 layers, has 600 blocks.
MAX_BLOCKS = 1000


class ResNet(nn.Module):
    """A residual network for images of about 32x32 pixels.

    It consists of a 3x3 stem without normalization, stages of residual blocks, BatchNorm and ReLU,
    global average pooling, dropout, and a linear classifier (He et al., 2016, "Identity Mappings in
    Deep Residual Networks", section 4). With "basic_v1", BatchNorm and ReLU follow the stem instead
    of the stages (He et al., 2016, "Deep Residual Learning for Image Recognition", section 4.2).

    Shapes: (N, in_channels, H, W) to logits (N, num_classes).

    Attributes:
        stride: product of all strides, which is the ratio of the image's side to the side of the
            last feature map.

    Args:
        num_classes: number of classes.
        widths: number of channels in each stage; with "bottleneck_v2", the number inside the
            blocks, which have four times as many output channels.
        blocks: number of residual blocks in each stage.
        strides: stride of each stage's first block.
        block: type of the residual blocks.
        dropout: probability of dropping a feature before the classifier.
        attention: squeeze-and-excitation, efficient channel attention or the convolutional block
            attention module, at the end of each residual; None for no attention.
        stochastic_depth: probability of dropping the last block's residual; block l of L has l / L
            of this probability (Huang et al., 2016, "Deep Networks with Stochastic Depth",
            equation 4).
        stem_width: number of channels of the stem; None for the first entry of `widths`.
        in_channels: number of channels of an image.
        initialization: random weights of the convolutions. "he" is the normal distribution of He et
            al., 2015, "Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet
            Classification", equation 14; "torch" is the uniform distribution of torch.nn.Conv2d,
            whose variance is 1 / (3 * fan_in).

    Raises:
        ValueError: widths, blocks and strides have different lengths, there is no stage, or there
            are more than MAX_BLOCKS blocks.
    """

    def __init__(
        self,
        num_classes: Count,
        widths: list[Count],
        blocks: list[Count],
        strides: list[Count],
        block: Literal["basic_v1", "basic_v2", "bottleneck_v2"] = "basic_v2",
        dropout: DropProbability = 0.0,
        attention: Literal["se", "eca", "cbam"] | None = None,
        stochastic_depth: DropProbability = 0.0,
        stem_width: Count | None = None,
        in_channels: Count = 3,
        initialization: Literal["he", "torch"] = "he",
    ) -> None:
        super().__init__()
        if not widths or not len(widths) == len(blocks) == len(strides):
            raise ValueError(
                f"widths={list(widths)}, blocks={list(blocks)} and strides={list(strides)} "
                "must each have one entry per stage"
            )
        if sum(blocks) > MAX_BLOCKS:
            raise ValueError(
                f"blocks={list(blocks)} has {sum(blocks):,} blocks, more than {MAX_BLOCKS:,}: "
                "choose fewer"
            )
        self.stride = math.prod(strides)
        kind = BLOCKS[block]
        channels = widths[0] if stem_width is None else stem_width
        stem = convolution(in_channels, channels, 3)
        self.stem: nn.Module = stem
        if not kind.preactivated:
            self.stem = nn.Sequential(stem, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.stages = nn.Sequential()
        number, total = 0, sum(blocks)
        for width, depth, first_stride in zip(widths, blocks, strides, strict=True):
            stage = nn.Sequential()
            for stride in (first_stride, *[1] * (depth - 1)):
                number += 1
                drop = stochastic_depth * number / total
                stage.append(kind(channels, width, stride, attention, drop))
                channels = kind.expansion * width
            self.stages.append(stage)
        self.norm = nn.BatchNorm2d(channels) if kind.preactivated else None
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if initialization == "he" and isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.stages(self.stem(images))
        if self.norm is not None:
            features = self.relu(self.norm(features))
        logits: Tensor = self.classifier(self.dropout(self.pool(features).flatten(1)))
        return logits
