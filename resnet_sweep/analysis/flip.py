"""Flip test-time augmentation."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FlipAverage(nn.Module):
    """A classifier's softmax probabilities, averaged over an image and its mirror image.

    Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    2015, section 3.2; Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
    Networks", 2012, section 4.1, who average them over crops, too.

    Shapes: (N, 3, H, W) to the logarithms of the means, (N, classes), whose softmax they are.

    Args:
        model: from images to logits.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        upright, mirrored = (
            F.log_softmax(self.model(each).float(), dim=1) for each in (images, images.flip(3))
        )
        return torch.logaddexp(upright, mirrored) - math.log(2)
