"""Measure how single changes to the program affect its training speed on a CPU.

python -m benchmarks.speed_variants [--models resnet44v2 ...] [--variants fused ...] [--rounds 5]

Each variant changes one thing. The variants and the unchanged program take turns in fresh
processes, as in `benchmarks.throughput`.
"""

import sys
from collections.abc import Callable

import torch

from benchmarks.command_line import make_parser
from benchmarks.throughput import (
    RESNET_SWEEP,
    Loop,
    add_size_arguments,
    format_results,
    measure_rounds,
)
from benchmarks.timestamps import TIMESTAMPS_OVERRIDE
from resnet_sweep.__main__ import main as run_resnet_sweep
from resnet_sweep.training import device, evaluation


def use_default_layout() -> None:
    """Store images and filters with the channels first in memory."""
    torch.channels_last = torch.contiguous_format


def set_validation_batch(images: int) -> Callable[[], None]:
    """Return a patch that evaluates batches of another size."""
    return lambda: setattr(evaluation, "BATCH_SIZE", images)


# Changes to the program's modules, which are made before it starts.
PATCHES: dict[str, Callable[[], object]] = {
    "default_layout": use_default_layout,
    "returned_memory": lambda: setattr(device, "keep_freed_memory", lambda: None),
    "flush_denormal": lambda: torch.set_flush_denormal(True),
    "small_validation_batches": set_validation_batch(125),
    "large_validation_batches": set_validation_batch(1000),
}
OVERRIDES = {"foreach": "+optim.foreach=true", "fused": "+optim.fused=true"}
VARIABLES = {
    "huge_pages": ("THP_MEM_ALLOC_ENABLE=1",),
    "bound_threads": ("OMP_PROC_BIND=true",),
    "spinning_threads": ("OMP_WAIT_POLICY=active",),
    "primitive_cache": ("ONEDNN_PRIMITIVE_CACHE_CAPACITY=4096",),
}
VARIANTS = (*PATCHES, *OVERRIDES, *VARIABLES)


def variant_loop(variant: str) -> Loop:
    """Return the loop of `resnet_sweep` with the change of a variant."""
    if variant in PATCHES:
        return Loop(
            variant,
            "benchmarks.speed_variants",
            arguments=("--patch", variant, TIMESTAMPS_OVERRIDE),
        )
    overrides = (OVERRIDES[variant],) if variant in OVERRIDES else ()
    return RESNET_SWEEP._replace(
        name=variant,
        arguments=(*RESNET_SWEEP.arguments, *overrides),
        variables=VARIABLES.get(variant, ()),
    )


def main() -> None:
    """Measure the variants and print a table in Markdown, or run `resnet_sweep` with a patch."""
    if sys.argv[1:2] == ["--patch"]:
        PATCHES[sys.argv[2]]()
        del sys.argv[1:3]
        run_resnet_sweep()
        return
    parser = make_parser("speed_variants", __doc__)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=VARIANTS,
        metavar="VARIANT",
        help=f"default: all of {', '.join(VARIANTS)}",
    )
    add_size_arguments(parser)
    arguments = parser.parse_args()
    loops = (RESNET_SWEEP, *map(variant_loop, arguments.variants))
    results = measure_rounds(
        loops, arguments.models, arguments.rounds, arguments.images, epochs=1, device="cpu"
    )
    print(format_results(results))


if __name__ == "__main__":
    main()
