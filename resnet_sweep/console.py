"""Where this program prints for people."""

import os
import sys

from rich.console import Console


class PersistentConsole(Console):
    """A console whose reader may leave without ending the program, as `| head` does."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


console = PersistentConsole(highlight=False, soft_wrap=True)
