"""The environment of a process that torchrun started, read without importing torch."""

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

# The key of the run directory in torchrun's store, where restarted processes find it.
_DIRECTORY = "resnet_sweep/directory"


@dataclass(frozen=True)
class TorchrunEnvironment:
    """The rank of this process, and the settings of the torchrun that started it.

    Attributes:
        rank: number of this process, from 0.
        world_size: number of processes, on all machines.
        local_rank: number of this process on its machine, from 0.
        run_id: `--rdzv-id`, which doesn't change in a restart.
        restarts: how often torchrun restarted the processes.
    """

    rank: int
    world_size: int
    local_rank: int
    run_id: str
    restarts: int = 0

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Return the environment of this process; None if torchrun didn't start it."""
        if "TORCHELASTIC_RUN_ID" not in environment:
            return None
        return cls(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
            run_id=environment["TORCHELASTIC_RUN_ID"],
            restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT", 0)),
        )

    @property
    def run_name(self) -> str | None:
        """The name that a user gave the run with `--rdzv-id`; None without one.

        Raises:
            ConfigError: it isn't valid as the name of a directory.
        """
        # The ids that torchrun generates are "none" and UUIDs.
        with suppress(ValueError):
            if self.run_id == "none" or str(UUID(self.run_id)) == self.run_id:
                return None
        if not re.fullmatch(r"[\w@%+=-][\w.:@%+=-]{0,199}", self.run_id):
            raise ConfigError(
                f"--rdzv-id={self.run_id} isn't valid as the name of a directory: choose another "
                "id, or set hydra.run.dir=DIRECTORY"
            )
        return self.run_id

    def store(self) -> "TCPStore":
        """Return torchrun's own store, which outlives a restart of the processes."""
        from torch.distributed import TCPStore

        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)

    def rendezvous_store(self) -> "Store":
        """Return the store through which the processes of one start form a process group.

        On one machine, torchrun's store still has the addresses of the processes before a restart.
        A prefix for every start keeps new processes from connecting to these.
        """
        from torch.distributed import PrefixStore

        # Every machine has its own count of restarts, so the counts of several may differ.
        alone = int(os.environ["LOCAL_WORLD_SIZE"]) == self.world_size
        attempt = self.restarts if alone else ""
        return PrefixStore(f"resnet_sweep/rendezvous{attempt}", self.store())

    def directory(self, create: Callable[[], Path]) -> Path:
        """Return the run directory, for a command that doesn't set one.

        Args:
            create: creates a new one. It is called once; after a restart, the store has the result.

        Raises:
            ConfigError: the run's name isn't valid as the name of a directory.
        """
        if self.run_name is not None:
            return Path("outputs", self.run_name)
        store = self.store()
        if not store.check([_DIRECTORY]):
            store.set(_DIRECTORY, str(create()))
        return Path(store.get(_DIRECTORY).decode())
