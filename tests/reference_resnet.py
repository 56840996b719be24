"""A second implementation of the networks, written only from the equations in the papers.

He et al., 2016, "Deep Residual Learning for Image Recognition" (v1): y = relu(F(x) + h(x)), where
F is conv-BN-ReLU-conv-BN and h the identity, or a 1x1 convolution and BN where the shape changes.
He et al., 2016, "Identity Mappings in Deep Residual Networks" (v2): x_{l+1} = h(x_l) + F(x_l),
where F is BN-ReLU-conv twice (figure 4e), or three times in a bottleneck, and h is the identity, or
a 1x1 convolution of the activated input where the shape changes.
Ioffe and Szegedy, 2015: BatchNorm over batch and image.
Hu et al., 2018 (SE), Wang et al., 2020 (ECA), Woo et al., 2018 (CBAM): F is scaled.

The functions don't use torch's layers: a convolution is a sum over shifted images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Take = Callable[[], Tensor]


def convolve(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolve with padding size // 2: x is (N, C, H, W), weight (D, C, size, size)."""
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
    """Apply BatchNorm with the statistics of the batch."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scaled = (x - mean) / torch.sqrt(variance + 1e-5)
    return scaled * weight[None, :, None, None] + bias[None, :, None, None]


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def attend(x: Tensor, kind: str | None, take: Take) -> Tensor:
    """Apply attention. `take` returns the weights one by one, in the order of their use."""
    images, channels = x.shape[:2]
    flat = x.reshape(images, channels, -1)
    means, maxima = flat.mean(2), flat.sort(2).values[:, :, -1]
    if kind == "se":
        first, second = take(), take()
        scales = sigmoid(relu(means @ first.T) @ second.T)
        return torch.einsum("nchw,nc->nchw", x, scales)
    if kind == "eca":
        (kernel,) = take()[0]
        size = len(kernel)
        scales = torch.zeros_like(means)
        for channel in range(channels):
            for index in range(size):
                neighbour = channel + index - size // 2
                if 0 <= neighbour < channels:
                    scales[:, channel] = scales[:, channel] + kernel[index] * means[:, neighbour]
        return torch.einsum("nchw,nc->nchw", x, sigmoid(scales))
    if kind == "cbam":
        first, second = take(), take()
        scales = relu(means @ first.T) @ second.T + relu(maxima @ first.T) @ second.T
        x = torch.einsum("nchw,nc->nchw", x, sigmoid(scales))
        over_channels = torch.stack([x.mean(1), x.sort(1).values[:, -1]], 1)
        positions = sigmoid(normalize(convolve(over_channels, take(), 1), take(), take()))
        return torch.einsum("nchw,nhw->nchw", x, positions[:, 0])
    return x


def basic_v1(x: Tensor, stride: int, changes: bool, attention: str | None, take: Take) -> Tensor:
    shortcut = normalize(convolve(x, take(), stride), take(), take()) if changes else x
    residual = relu(normalize(convolve(x, take(), stride), take(), take()))
    residual = normalize(convolve(residual, take(), 1), take(), take())
    return relu(attend(residual, attention, take) + shortcut)


def basic_v2(x: Tensor, stride: int, changes: bool, attention: str | None, take: Take) -> Tensor:
    activated = relu(normalize(x, take(), take()))
    shortcut = convolve(activated, take(), stride) if changes else x
    residual = convolve(activated, take(), stride)
    residual = convolve(relu(normalize(residual, take(), take())), take(), 1)
    return attend(residual, attention, take) + shortcut


def bottleneck_v2(
    x: Tensor, stride: int, changes: bool, attention: str | None, take: Take
) -> Tensor:
    activated = relu(normalize(x, take(), take()))
    shortcut = convolve(activated, take(), stride) if changes else x
    residual = convolve(activated, take(), 1)
    residual = convolve(relu(normalize(residual, take(), take())), take(), stride)
    residual = convolve(relu(normalize(residual, take(), take())), take(), 1)
    return attend(residual, attention, take) + shortcut


BLOCKS = {"basic_v1": basic_v1, "basic_v2": basic_v2, "bottleneck_v2": bottleneck_v2}


def resnet(
    images: Tensor,
    weights: list[Tensor],
    widths: list[int],
    blocks: list[int],
    strides: list[int],
    block: str = "basic_v2",
    attention: str | None = None,
    stem_width: int | None = None,
) -> Tensor:
    """Return the logits of a batch. `weights` are in the order of their use."""
    iterator = iter(weights)
    take = lambda: next(iterator)  # noqa: E731
    x = convolve(images, take(), 1)
    if block == "basic_v1":
        x = relu(normalize(x, take(), take()))
    channels = stem_width or widths[0]
    for width, depth, first_stride in zip(widths, blocks, strides, strict=True):
        out_channels = 4 * width if block == "bottleneck_v2" else width
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            changes = stride != 1 or channels != out_channels
            x = BLOCKS[block](x, stride, changes, attention, take)
            channels = out_channels
    if block != "basic_v1":
        x = relu(normalize(x, take(), take()))
    logits = x.mean((2, 3)) @ take().T + take()
    assert next(iterator, None) is None
    return logits


def count_attention(kind: str | None, channels: int) -> int:
    """Return the number of weights: SE 2 C^2 / r, ECA psi(C), CBAM 2 C^2 / r + 2 * 7^2 + 2."""
    perceptron = 2 * channels * max(4, channels // 16)
    # psi(C) is the odd number nearest to (log2(C) + 1) / 2.
    exact = (torch.tensor(float(channels)).log2().item() + 1) / 2
    nearest = min(range(1, 99, 2), key=lambda odd: (abs(odd - exact), -odd))
    return {None: 0, "se": perceptron, "eca": nearest, "cbam": perceptron + 98 + 2}[kind]


def count_parameters(
    widths: list[int],
    blocks: list[int],
    strides: list[int],
    classes: int,
    block: str = "basic_v2",
    attention: str | None = None,
    stem_width: int | None = None,
) -> int:
    """Return the number of weights, from a closed formula for each layer."""
    channels = stem_width or widths[0]
    first = block == "basic_v1"
    count = 3 * 9 * channels + (2 * channels if first else 0)
    for width, depth, first_stride in zip(widths, blocks, strides, strict=True):
        out_channels = 4 * width if block == "bottleneck_v2" else width
        for index in range(depth):
            stride = first_stride if index == 0 else 1
            if block == "bottleneck_v2":
                count += channels * width + 9 * width * width + 4 * width * width
                count += 2 * channels + 2 * width + 2 * width
            else:
                count += 9 * channels * width + 9 * width * width
                count += 2 * width + 2 * (width if first else channels)
            if stride != 1 or channels != out_channels:
                count += channels * out_channels + (2 * out_channels if first else 0)
            count += count_attention(attention, out_channels)
            channels = out_channels
    return count + (0 if first else 2 * channels) + channels * classes + classes
