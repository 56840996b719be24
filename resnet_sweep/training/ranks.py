"""The processes that train one run together."""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.nn.parallel import DistributedDataParallel

from resnet_sweep.training.torchrun import Torchrun


class Ranks:
    """The processes of a run, of which each trains on a share of every batch.

    This one stands for a process that is alone, and so has all of everything.

    Attributes:
        rank: of this process, from 0; that of rank 0 alone owns the run directory.
        size: how many processes there are.
        local_rank: of this process among those of its machine.
    """

    rank, size, local_rank = 0, 1, 0

    @staticmethod
    @cache
    def here() -> "Ranks":
        """Those that this process belongs to."""
        torchrun = Torchrun.here()
        return Ranks() if torchrun is None or torchrun.size == 1 else TorchrunRanks(torchrun)

    @property
    def leads(self) -> bool:
        """Whether this process is rank 0."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of so many entries; parts are in order, and differ by one at most."""
        each, more = divmod(count, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def weigh(self, loss: Tensor, images: int, batch: int) -> Tensor:
        """The mean loss over this process's share of a batch, weighted so that the mean over the
        processes is the mean over the batch.

        Args:
            loss: a scalar.
            images: of the share.
            batch: images of the batch.
        """
        return loss

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        """A model whose backward pass leaves the mean of all processes' gradients."""
        return model

    def agree(self, *wishes: int) -> tuple[int, ...]:
        """Of each wish, the largest that any process has."""
        return wishes

    def add(self, tensor: Tensor) -> None:
        """Make a tensor the sum of all processes' tensors."""

    def average(self, tensor: Tensor) -> None:
        """Make a tensor the mean of all processes' tensors."""

    def collect(self, part: Tensor) -> Tensor:
        """The parts of all processes, one behind the other along the first dimension; on the
        CPU."""
        return part

    def align(self, model: nn.Module) -> None:
        """Make a model's buffers, such as BatchNorm's statistics, those that rank 0 has."""

    def broadcast(self, value: Any = None) -> Any:
        """What rank 0 gave here; of tensors, those on the CPU alone."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """What each process gave here."""
        return [value]

    def join(self) -> None:
        """Come together with the other processes, before anything is told or asked."""

    def leave(self) -> None:
        """Part from the other processes. Doing so twice is harmless."""


class TorchrunRanks(Ranks):
    """The processes that a torchrun started, on one machine or several.

    What is on a GPU they exchange with NCCL, all else with Gloo.

    Args:
        torchrun: that started this process.
    """

    def __init__(self, torchrun: Torchrun) -> None:
        self.torchrun = torchrun
        self.rank, self.size = torchrun.rank, torchrun.size
        self.local_rank = torchrun.local_rank

    def join(self) -> None:
        store = self.torchrun.meeting()
        # Rank 0 comes when it has checked all and has the data.
        store.set_timeout(default_pg_timeout)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.size,
        )

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def weigh(self, loss: Tensor, images: int, batch: int) -> Tensor:
        return loss * (images * self.size / batch)

    def parallel(self, model: nn.Module, device: torch.device) -> nn.Module:
        if device.type != "cuda":
            return DistributedDataParallel(model)
        torch.cuda.set_device(device)
        return DistributedDataParallel(model, device_ids=[device.index])

    def agree(self, *wishes: int) -> tuple[int, ...]:
        all_of_them = torch.tensor(wishes)
        dist.all_reduce(all_of_them, dist.ReduceOp.MAX)
        return tuple(all_of_them.tolist())

    def add(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def average(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)
        tensor /= self.size

    def collect(self, part: Tensor) -> Tensor:
        return torch.cat(self.gather(part.cpu()))

    def align(self, model: nn.Module) -> None:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)

    def broadcast(self, value: Any = None) -> Any:
        values = [value]
        dist.broadcast_object_list(values, 0)
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values
