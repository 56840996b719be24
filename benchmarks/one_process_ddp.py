"""Compare a training by one process of torchrun with a training without torchrun.

torchrun --nproc_per_node=1 -m benchmarks.one_process_ddp [--device cpu|cuda]
    [--model resnet44v2_3stage] [--steps 100]

`python -m resnet_sweep` connects processes only if there are several, and NCCL needs a GPU for each
of them. On a machine with one GPU, this benchmark connects a single process: with NCCL,
DistributedDataParallel and SyncBatchNorm on a GPU, or with Gloo and DistributedDataParallel on a
CPU. Both trainings make the same steps, so their losses differ only by rounding.
"""

import time
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.command_line import make_parser
from benchmarks.compile_modes import compare
from benchmarks.markdown import table_header, table_row
from benchmarks.profile import first_steps, plan_epoch
from resnet_sweep.training.device import configure
from resnet_sweep.training.trainer import Trainer


def distribute(training: Trainer) -> None:
    """Let the processes that torchrun started share a training, as `trainer=ddp` does."""
    on_gpu = training.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(training.device)
        training.model = nn.SyncBatchNorm.convert_sync_batchnorm(training.model)
    devices = [torch.cuda.current_device()] if on_gpu else None
    training.wrapped_model = DistributedDataParallel(training.model, device_ids=devices)


def train(training: Trainer, steps: int) -> tuple[list[float], float]:
    """Make steps, and return their losses, and the images per second of the second half."""
    training.model.train()
    half, start = steps // 2, 0.0
    for number, make_step in enumerate(first_steps(training, steps)):
        if number == half:
            synchronize(training.device)
            start = time.perf_counter()
        make_step()
    synchronize(training.device)
    seconds = time.perf_counter() - start
    losses = training.step_metrics.losses[:steps].tolist()
    return losses, (steps - half) * training.config.batch_size / seconds


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def check_collectives(device: torch.device) -> None:
    """Send a tensor through each of the operations that `ProcessGroup` uses.

    Raises:
        SystemExit: an operation changed the tensor. A single process only sends it to itself.
    """
    tensor = torch.arange(4.0, device=device)
    for operation in (dist.all_reduce, lambda sent: dist.broadcast(sent, 0)):
        operation(tensor)
        if tensor.tolist() != [0, 1, 2, 3]:
            raise SystemExit(f"a collective operation returned {tensor.tolist()}")


def format_results(results: Sequence[tuple[str, list[float], float]]) -> str:
    """Return a table in Markdown; the losses are compared with those of the first result."""
    (_, expected, _), *_ = results
    lines = [table_header("training", "images/s", "equal losses", "largest difference")]
    for name, losses, speed in results:
        equal, largest = compare(losses, expected)
        lines.append(
            table_row(name, f"{speed:,.0f}", f"{equal} of {len(expected)}", f"{largest:.2g}")
        )
    return "\n".join(lines)


def main() -> None:
    """Train with and without torchrun's process group, and print a table in Markdown."""
    parser = make_parser("one_process_ddp", __doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--model", default="resnet44v2_3stage", help="default: resnet44v2_3stage")
    parser.add_argument("--steps", type=int, default=100, help="default: 100")
    arguments = parser.parse_args()
    planned = plan_epoch(arguments.model, 128 * arguments.steps, arguments.device)
    configure(planned.device, planned.precision, planned.settings.threads)
    backend = "nccl" if planned.device.type == "cuda" else "gloo"
    dist.init_process_group(backend)
    check_collectives(planned.device)
    results = []
    for name in ("one process", "one process, again", f"DistributedDataParallel, {backend}"):
        training = planned.build_trainer()
        if name.endswith(backend):
            distribute(training)
        results.append((name, *train(training, arguments.steps)))
    dist.destroy_process_group()
    print(f"`{arguments.model}`, {planned.device}, {planned.precision}\n")
    print(format_results(results))


if __name__ == "__main__":
    main()
