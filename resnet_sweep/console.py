"""Where this program prints for people."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from resnet_sweep.compare.text import escaped
from resnet_sweep.errors import RequestError


class PersistentConsole(Console):
    """A console whose reader may leave without ending the program, as `| head` does."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        if sys.stdout is None:
            return
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())

    def write(self, text: str) -> None:
        """Put out a line or more as they are, for programs."""
        try:
            print(text, file=self.file, flush=True)
        except BrokenPipeError:
            self.on_broken_pipe()


console = PersistentConsole(highlight=False, soft_wrap=True)


def carry_out(action: Callable[[], int | None], crashed: int = 1) -> NoReturn:
    """Do what a command is for, and exit with its status, or with 2 if the request was wrong.

    Args:
        action: gives the status; None is 0.
        crashed: the status after an error of this program's own.
    """
    if sys.stdout is not None:
        # A name from elsewhere may not fit this terminal's encoding.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = action()
        if sys.stdout is not None:
            sys.stdout.flush()
    except RequestError as error:
        # It may quote what comes from elsewhere.
        told = "\n".join(map(escaped, str(error).split("\n")))
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        console.on_broken_pipe()
        sys.exit(crashed)
    except OSError as error:
        print(f"error: the output can't be written ({error})", file=sys.stderr)
        console.on_broken_pipe()
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(crashed)
    sys.exit(status or 0)
