"""A second implementation of the network, written from the papers' equations alone.

He et al., 2016, "Identity Mappings in Deep Residual Networks": x_{l+1} = h(x_l) + F(x_l), where F
is BN-ReLU-conv twice (figure 4e), h is the identity, and a 1x1 convolution of the activated input
where the shape changes. Ioffe and Szegedy, 2015: BatchNorm over batch and image.

Nothing here uses torch's layers: convolutions are sums over shifted images.
"""

import torch
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A convolution with padding size // 2: (N, C, H, W) with (D, C, size, size)."""
    size = weight.shape[-1]
    height, width = x.shape[2:]
    pad = size // 2
    padded = torch.zeros(*x.shape[:2], height + 2 * pad, width + 2 * pad, dtype=x.dtype)
    padded[:, :, pad : pad + height, pad : pad + width] = x
    total = 0
    for row in range(size):
        for column in range(size):
            shifted = padded[:, :, row : row + height, column : column + width]
            shifted = shifted[:, :, ::stride, ::stride]
            total = total + torch.einsum("nchw,dc->ndhw", shifted, weight[:, :, row, column])
    return total


def normalize(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """BatchNorm with the statistics of the batch."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scaled = (x - mean) / torch.sqrt(variance + 1e-5)
    return scaled * weight[None, :, None, None] + bias[None, :, None, None]


def rectify(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def resnet_v2(
    images: Tensor,
    weights: list[Tensor],
    widths: list[int],
    blocks: list[int],
    strides: list[int],
) -> Tensor:
    """Logits of a batch, with weights in the order in which the network uses them: the stem; of
    each block norm, conv, norm, conv and, where the shape changes, the shortcut; norm, classifier.
    """
    queue = iter(weights)
    take = lambda: next(queue)  # noqa: E731
    x = convolve(images, take(), 1)
    channels = widths[0]
    for width, depth, first_stride in zip(widths, blocks, strides, strict=True):
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            activated = rectify(normalize(x, take(), take()))
            residual = convolve(activated, take(), stride)
            residual = convolve(rectify(normalize(residual, take(), take())), take(), 1)
            changes = stride != 1 or channels != width
            x = residual + (convolve(activated, take(), stride) if changes else x)
            channels = width
    features = rectify(normalize(x, take(), take())).mean((2, 3))
    logits = features @ take().T + take()
    assert next(queue, None) is None
    return logits


def count_parameters(widths: list[int], blocks: list[int], strides: list[int], classes: int) -> int:
    """The number of weights, by the closed formula of each layer."""
    channels = widths[0]
    count = 3 * 9 * channels
    for width, depth, first_stride in zip(widths, blocks, strides, strict=True):
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            count += 2 * channels + 9 * channels * width + 2 * width + 9 * width * width
            if stride != 1 or channels != width:
                count += channels * width
            channels = width
    return count + 2 * channels + channels * classes + classes
