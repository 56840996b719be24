"""BatchNorm and ReLU in training, as they are and as torch's compiler fuses them.

python -m benchmarks.fused_norm [--rounds 60]

A forward and a backward pass of a batch of 128 images, channels last, in turn in one process, by
the shapes of ResNets on CIFAR-100. It needs a C++ compiler.
"""

import argparse
import time
from statistics import median

import torch
from torch import Tensor, nn

SHAPES = ((16, 32), (32, 16), (64, 8), (64, 32))
BATCH = 128


def norm_and_relu(channels: int) -> nn.Sequential:
    """What stands before a convolution."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def seconds(module: nn.Module, images: Tensor, gradient: Tensor) -> float:
    """Of a forward and a backward pass."""
    begun = time.perf_counter()
    module(images).backward(gradient)
    images.grad = None
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fused_norm", description="Fuse BatchNorm and ReLU."
    )
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    print("| shape | eager, ms | fused, ms | ratio to eager | from | to |")
    print("|---|---|---|---|---|---|")
    for channels, size in SHAPES:
        modules = norm_and_relu(channels), torch.compile(norm_and_relu(channels), dynamic=False)
        images = torch.randn(BATCH, channels, size, size)
        images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.randn_like(images)
        turns = [[seconds(each, images, gradient) for each in modules] for _ in range(rounds + 3)]
        # The first ones compile.
        eager, fused = zip(*turns[3:], strict=True)
        speeds = [one / other for one, other in zip(eager, fused, strict=True)]
        figures = [f"{1000 * median(each):.1f}" for each in (eager, fused)]
        figures += [f"{of(speeds):.2f}" for of in (median, min, max)]
        shape = " x ".join(map(str, (BATCH, channels, size, size)))
        print(f"| {shape} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
