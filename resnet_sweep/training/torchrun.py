"""What torchrun tells the processes that it starts."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID

from resnet_sweep.errors import ConfigError

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

# Under this name the processes of a torchrun, restarted ones too, find the directory of its run.
_DIRECTORY = "resnet_sweep/directory"


@dataclass(frozen=True)
class Torchrun:
    """The torchrun that started this process, and which of its processes this is.

    Attributes:
        rank: of this process, from 0.
        size: how many processes there are, on all machines.
        local_rank: of this process among those of its machine.
        run_id: `--rdzv-id`, the same however often its processes are started again.
        restarts: how often they were.
    """

    rank: int
    size: int
    local_rank: int
    run_id: str
    restarts: int = 0

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> Self | None:
        """Of this process; None if it was started in another way."""
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
        """The run's name, if `--rdzv-id` gives it one.

        Raises:
            ConfigError: it can't be the name of a directory.
        """
        if self.run_id == "none" or _is_uuid(self.run_id):
            # Nobody chose it, so nobody will look for it.
            return None
        if not re.fullmatch(r"[\w@%+=-][\w.:@%+=-]{0,199}", self.run_id):
            raise ConfigError(
                f"--rdzv-id={self.run_id} can't be the name of a directory: choose another, or "
                "give one with hydra.run.dir=DIRECTORY"
            )
        return self.run_id

    def store(self) -> "TCPStore":
        """What torchrun keeps for its processes, those that it starts again as well."""
        from torch.distributed import TCPStore

        return TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)

    def meeting(self) -> "Store":
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
        """The run directory of processes that weren't given one.

        Args:
            claim: makes a new one. The first time it is asked; what it gave is kept by torchrun
                itself, so that processes that it starts again find it.

        Raises:
            ConfigError: the run's name can't be that of a directory.
        """
        if self.name is not None:
            return Path("outputs", self.name)
        store = self.store()
        if not store.check([_DIRECTORY]):
            store.set(_DIRECTORY, str(claim()))
        return Path(store.get(_DIRECTORY).decode())


def _is_uuid(word: str) -> bool:
    try:
        return str(UUID(word)) == word
    except ValueError:
        return False
