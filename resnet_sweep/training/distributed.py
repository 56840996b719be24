"""Distributed training: the processes that train one run together."""

import gc
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from resnet_sweep.torchrun import TorchrunEnvironment


class ProcessGroup:
    """The processes that train one run together, each on a share of every batch.

    torchrun starts them, on one machine or several. NCCL exchanges tensors on GPUs, and Gloo
    exchanges everything else. A single process exchanges nothing.

    Attributes:
        torchrun: the environment that torchrun set; by default, there is a single process.
        rank: number of this process, from 0. Only rank 0 writes into the run directory.
        world_size: number of processes.
    """

    def __init__(self, torchrun: TorchrunEnvironment | None = None) -> None:
        self.torchrun = torchrun or TorchrunEnvironment(
            rank=0, world_size=1, local_rank=0, run_id="none"
        )
        self.rank, self.world_size = self.torchrun.rank, self.torchrun.world_size

    @staticmethod
    @cache
    def current() -> "ProcessGroup":
        """Return the group that this process belongs to."""
        return ProcessGroup(TorchrunEnvironment.current())

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0."""
        return self.rank == 0

    def initialize(self) -> None:
        """Connect to the other processes."""
        if self.world_size == 1:
            return
        store = self.torchrun.rendezvous_store()
        # Ranks may start minutes apart, so they wait here as long as in a collective operation.
        store.set_timeout(default_pg_timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.world_size,
        )

    def destroy(self) -> None:
        """Disconnect from the other processes. Calling it twice is harmless."""
        if dist.is_initialized():
            # A DistributedDataParallel in a reference cycle keeps Gloo's threads. They abort the
            # process if they still run when the interpreter ends.
            gc.collect()
            dist.destroy_process_group()

    def share(self, count: int) -> slice:
        """Return the slice of `count` entries that belongs to this process.

        The slices are in the order of the ranks, and their lengths differ by one at most.
        """
        size, remainder = divmod(count, self.world_size)
        first = self.rank * size + min(self.rank, remainder)
        return slice(first, first + size + (self.rank < remainder))

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Return a model whose backward pass averages the gradients over all processes."""
        if self.world_size == 1:
            return model
        if device.type != "cuda":
            return DistributedDataParallel(model)
        torch.cuda.set_device(device)
        return DistributedDataParallel(model, device_ids=[device.index])

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """Return the maximum of each value over all processes."""
        if self.world_size == 1:
            return values
        reduced = torch.tensor(values)
        dist.all_reduce(reduced, dist.ReduceOp.MAX)
        return tuple(reduced.tolist())

    def all_reduce_sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def all_gather(self, value: Any) -> list[Any]:
        """Return the value of each process, in the order of the ranks."""
        values = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any = None) -> Any:
        """Return rank 0's value on all ranks; tensors in the value have to be on the CPU."""
        values = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(values, 0)
        return values[0]

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's buffers of a model to all ranks, for example BatchNorm's statistics."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)
