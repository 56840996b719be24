"""Residual networks for small images."""

from typing import Annotated, Literal

from torch import Tensor, nn

from resnet_sweep.models.blocks import BLOCKS, convolution
from resnet_sweep.ranges import Count, Range


class ResNet(nn.Module):
    """A residual network for images of about 32x32 pixels.

    A 3x3 stem without normalisation, stages of residual blocks, a last BatchNorm and ReLU, the
    mean over the image, dropout, and a linear classifier (He et al., 2016, "Identity Mappings in
    Deep Residual Networks", section 4). Weights start as in He et al., 2015, "Delving Deep into
    Rectifiers", equation 14.

    Shapes: (N, 3, H, W) to logits (N, num_classes).

    Args:
        num_classes: length of the output.
        widths: channels of each stage; the stem has those of the first.
        blocks: residual blocks of each stage.
        strides: stride of each stage's first block.
        block: kind of residual block.
        dropout: probability with which a feature is dropped before the classifier.

    Raises:
        ValueError: widths, blocks and strides differ in length, or there is no stage.
    """

    def __init__(
        self,
        num_classes: Count,
        widths: list[Count],
        blocks: list[Count],
        strides: list[Count],
        block: Literal["basic_v2"] = "basic_v2",
        dropout: Annotated[float, Range(minimum=0, below=1)] = 0.0,
    ) -> None:
        super().__init__()
        if not widths or not len(widths) == len(blocks) == len(strides):
            raise ValueError(
                f"widths={list(widths)}, blocks={list(blocks)} and strides={list(strides)} "
                "must have one entry for each stage"
            )
        self.stem = convolution(3, widths[0], 3)
        stages = []
        channels = widths[0]
        for width, depth, stride in zip(widths, blocks, strides, strict=True):
            stage = []
            for index in range(depth):
                stage.append(BLOCKS[block](channels, width, stride if index == 0 else 1))
                channels = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.norm(self.stages(self.stem(images))))
        return self.classifier(self.dropout(self.pool(features).flatten(1)))
