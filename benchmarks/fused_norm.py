"""Compare BatchNorm and ReLU as they are with their fusion by torch's compiler, in training.

python -m benchmarks.fused_norm [--rounds 60]

Times a forward and a backward pass of 128 images, channels last, for the layer shapes of ResNets on
CIFAR-100. Both versions take turns in one process. A C++ compiler is required.
"""

import time
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks.command_line import make_parser
from benchmarks.markdown import median_and_range, table_header, table_row

SHAPES = ((16, 32), (32, 16), (64, 8), (64, 32))  # channels, height and width
BATCH = 128
WARM_UP_ROUNDS = 3


def norm_and_relu(channels: int) -> nn.Sequential:
    """Return the two layers in front of a convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def time_passes(module: nn.Module, images: Tensor, gradient: Tensor) -> float:
    """Return the seconds of a forward and a backward pass."""
    start = time.perf_counter()
    module(images).backward(gradient)
    images.grad = None
    return time.perf_counter() - start


def main() -> None:
    """Measure all shapes, and print a table in Markdown."""
    parser = make_parser("fused_norm", __doc__)
    parser.add_argument("--rounds", type=int, default=60, help="rounds that count (default: 60)")
    rounds = parser.parse_args().rounds
    print(table_header("shape", "eager, ms", "fused, ms", "ratio to eager", "from", "to"))
    for channels, size in SHAPES:
        modules = norm_and_relu(channels), torch.compile(norm_and_relu(channels), dynamic=False)
        images = torch.randn(BATCH, channels, size, size)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(images)
        times = [
            [time_passes(module, images, gradient) for module in modules]
            for _ in range(WARM_UP_ROUNDS + rounds)
        ]
        # The first rounds compile.
        eager, fused = zip(*times[WARM_UP_ROUNDS:], strict=True)
        ratios = [
            eager_seconds / fused_seconds
            for eager_seconds, fused_seconds in zip(eager, fused, strict=True)
        ]
        medians = [f"{1000 * median(seconds):.1f}" for seconds in (eager, fused)]
        shape = " x ".join(map(str, (BATCH, channels, size, size)))
        print(table_row(shape, *medians, *median_and_range(ratios, 2)), flush=True)


if __name__ == "__main__":
    main()
