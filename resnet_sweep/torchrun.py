"""What torchrun passes to the processes that it starts. This module doesn't import torch."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID

from resnet_sweep.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

# Under this name, torchrun keeps the directory of its run for processes that it starts again.
_DIRECTORY = "resnet_sweep/directory"


@dataclass(frozen=True)
class TorchrunEnvironment:
    """The torchrun that started this process, and which of its processes this is.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes, on all machines.
        local_rank: number of this process among those of its machine.
        run_id: `--rdzv-id`; a restart keeps it.
        restarts: number of times that the processes were started again.
    """

    rank: int
    size: int
    local_rank: int
    run_id: str
    restarts: int = 0

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Return the torchrun of this process; None if it was started in another way."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        return cls(
            rank=int(environment["RANK"]),
            size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            run_id=environment["TORCHELASTIC_RUN_ID"],
            restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )

    @property
    def name(self) -> str | None:
        """The run's name, if a user chose one with `--rdzv-id`.

        Raises:
            ConfigError: it can't be the name of a directory.
        """
        # torchrun itself chooses "none", or a UUID.
        with suppress(ValueError):
            if self.run_id == "none" or str(UUID(self.run_id)) == self.run_id:
                return None
        if not re.fullmatch(r"[\w@%+=-][\w.:@%+=-]{0,199}", self.run_id):
            raise ConfigError(
                f"--rdzv-id={self.run_id} can't be the name of a directory: choose another, or "
                "give one with hydra.run.dir=DIRECTORY"
            )
        return self.run_id

    def store(self) -> "TCPStore":
        """Return the store of torchrun itself, which a restart of the processes keeps."""
        from torch.distributed import TCPStore

        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)

    def rendezvous_store(self) -> "Store":
        """Return the store in which the processes that are started together find each other.

        On one machine torchrun keeps the addresses of processes that it started before. Without a
        prefix for each start, a new process would take them for those of its peers.
        """
        from torch.distributed import PrefixStore

        # On several machines, each counts its own restarts.
        alone = int(os.environ["LOCAL_WORLD_SIZE"]) == self.size
        attempt = self.restarts if alone else ""
        return PrefixStore(f"resnet_sweep/meeting{attempt}", self.store())

    def directory(self, claim: Callable[[], Path]) -> Path:
        """Return the run directory of processes that weren't given one.

        Args:
            claim: makes a new one. It is called once; a restart reads what it returned.

        Raises:
            ConfigError: the run's name can't be that of a directory.
        """
        if self.name is not None:
            return Path("outputs", self.name)
        store = self.store()
        if not store.check([_DIRECTORY]):
            store.set(_DIRECTORY, str(claim()))
        return Path(store.get(_DIRECTORY).decode())
