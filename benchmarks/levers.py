"""What a single change would do to the training speed.

python -m benchmarks.levers [--models resnet44v2 ...] [--levers fused ...] [--rounds 5]

Each lever is tried in turn with the program as it is, in fresh processes, by the rules of
`benchmarks.throughput`, on a CPU.
"""

import argparse
import sys
from collections.abc import Callable

import torch

from benchmarks.stopwatch import WORD
from benchmarks.throughput import IMAGES, OURS, Loop, compare, table
from resnet_sweep.__main__ import main as train
from resnet_sweep.training import device, evaluation


def use_default_layout() -> None:
    """Images and filters with channels first in memory."""
    torch.channels_last = torch.contiguous_format


def validate_by(images: int) -> Callable[[], None]:
    """Another number of images at once in evaluation."""
    return lambda: setattr(evaluation, "BATCH_SIZE", images)


# What is changed in the program before it begins.
PATCHES: dict[str, Callable[[], object]] = {
    "default_layout": use_default_layout,
    "returned_memory": lambda: setattr(device, "keep_freed_memory", lambda: None),
    "flush_denormal": lambda: torch.set_flush_denormal(True),
    "small_validation_batches": validate_by(125),
    "large_validation_batches": validate_by(1000),
}
WORDS = {"foreach": "+optim.foreach=true", "fused": "+optim.fused=true"}
VARIABLES = {
    "huge_pages": ("THP_MEM_ALLOC_ENABLE=1",),
    "bound_threads": ("OMP_PROC_BIND=true",),
    "spinning_threads": ("OMP_WAIT_POLICY=active",),
    "primitive_cache": ("ONEDNN_PRIMITIVE_CACHE_CAPACITY=4096",),
}
LEVERS = (*PATCHES, *WORDS, *VARIABLES)


def loop_of(lever: str) -> Loop:
    """Ours with a lever."""
    if lever in PATCHES:
        return Loop(lever, "benchmarks.levers", words=("--inside", lever, WORD))
    words = (WORDS[lever],) if lever in WORDS else ()
    return OURS._replace(
        name=lever, words=(*OURS.words, *words), variables=VARIABLES.get(lever, ())
    )


def main() -> None:
    """Measure, and print a table in Markdown; or be the program with a lever inside."""
    if sys.argv[1:2] == ["--inside"]:
        PATCHES[sys.argv[2]]()
        del sys.argv[1:3]
        train()
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.levers", description="Try what may make training faster."
    )
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=[*IMAGES], metavar="MODEL")
    parser.add_argument("--levers", nargs="+", choices=LEVERS, default=LEVERS, metavar="LEVER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, help="to train on in an epoch")
    told = parser.parse_args()
    loops = (OURS, *map(loop_of, told.levers))
    print(table(compare(loops, told.models, told.rounds, told.images, epochs=1, device="cpu")))


if __name__ == "__main__":
    main()
