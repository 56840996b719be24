"""From the config of a sweep to its plan, with something to look at meanwhile."""

import os
import time
from pathlib import Path
from typing import Self

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress

from resnet_sweep.composition.command import STARTED_IN
from resnet_sweep.composition.gate import words_of
from resnet_sweep.console import console
from resnet_sweep.sweeps.expansion import preset_words
from resnet_sweep.sweeps.history import History
from resnet_sweep.sweeps.ledger import Ledger
from resnet_sweep.sweeps.plan import Plan, Planner

# In a pipe, composing many jobs says this often where it is.
PLAIN_SECONDS = 10


class ComposingBar:
    """Shows how the composing of a sweep's jobs gets on; within a `with` block."""

    def __enter__(self) -> Self:
        self._told = time.monotonic()
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("composing", total=None)
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def advance(self, done: int, total: int) -> None:
        """Tell that some of the jobs are composed."""
        self._bar.update(self._task, completed=done, total=total)
        if not console.is_terminal and time.monotonic() - self._told > PLAIN_SECONDS:
            self._told = time.monotonic()
            console.print(f"{done} of {total} jobs composed")


def compose_plan(loader: ConfigLoader, config: DictConfig) -> Plan:
    """Compose and check every job of a sweep, and see what there is of it.

    Args:
        loader: composes.
        config: of the sweep as a whole.

    Raises:
        RequestError: a job is wrong, or the directory is another sweep's; nothing was written.
    """
    directory = Path(os.path.abspath(config.hydra.sweep.dir))
    # A directory named by the time is always a new one.
    pattern = OmegaConf.to_container(config.hydra.sweep, resolve=False)["dir"]
    ledger = Ledger() if "${now:" in pattern else Ledger.read(directory)
    history = History([STARTED_IN / "outputs", STARTED_IN / "multirun"])
    words = [*preset_words(config.hydra.sweeper.get("params")), *words_of(config.hydra)]
    with ComposingBar() as bar:
        return Planner(loader, config, directory, ledger, history).make(words, bar.advance)
