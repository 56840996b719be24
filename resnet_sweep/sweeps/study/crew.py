"""The further workers that a command of a study starts beside itself."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from hydra.core.override_parser.types import Quote, QuotedString


def worker_command(words: Sequence[str], directory: Path) -> list[str]:
    """The command that joins a study as one worker.

    Args:
        words: of the command that began it.
        directory: of the sweep.
    """
    place = QuotedString(str(directory), Quote.single).with_quotes()
    # Of two words for one key, the later holds.
    own = [*words, f"hydra.sweep.dir={place}", "hydra.sweeper.n_jobs=1"]
    return [sys.executable, "-m", "resnet_sweep", *own]


class Crew:
    """Processes of the same command in the same directory, within a `with` block.

    They end by themselves when no trial is left, and are asked to when this process is stopped. One
    that dies leaves its trial to the others.

    Args:
        words: of this command.
        directory: of the sweep.
        count: how many.
    """

    def __init__(self, words: Sequence[str], directory: Path, count: int) -> None:
        self.command = worker_command(words, directory)
        self.count = count
        self.processes: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        # What they do is on screen once, told by this process.
        for _ in range(self.count):
            self.processes.append(subprocess.Popen(self.command, stdout=subprocess.DEVNULL))
        return self

    def __exit__(self, kind: type | None, *error: object) -> None:
        for process in self.processes:
            if kind is not None:
                process.terminate()
        for process in self.processes:
            process.wait()
