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

    def write(self, text: str) -> None:
        """Put out a line or more as they are, for programs."""
        try:
            print(text, file=self.file, flush=True)
        except BrokenPipeError:
            self.on_broken_pipe()


console = PersistentConsole(highlight=False, soft_wrap=True)
