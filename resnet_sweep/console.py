"""The console that commands print to, and their exit status."""

import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from rich.console import Console

from resnet_sweep.compare.format import escape
from resnet_sweep.errors import ConfigError
from resnet_sweep.output import discard_output, exit_on_write_error, tolerant_output


class TolerantConsole(Console):
    """A console that discards its output if it can't be written, so that the command continues.

    The reader of a pipe may have closed it, as `| head` does, or a disk may be full.
    """

    _write_error: OSError | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal, where a line can be replaced.

        The output of a Jupyter kernel says that it is one. But a notebook stores all that is
        printed, so it gets plain lines.
        """
        return super().is_terminal and not type(self.file).__module__.startswith("ipykernel")

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects as `rich.console.Console.print` does."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self._write_error = error
            self.on_broken_pipe()

    def take_write_error(self) -> OSError | None:
        """Return the error because of which output was discarded, once; None if there is none."""
        error, self._write_error = self._write_error, None
        return error

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        discard_output()

    def write(self, text: str) -> None:
        """Print text that another program may parse, without markup or wrapping."""
        try:
            print(text, file=self.file, flush=True)
        except BrokenPipeError:
            self.on_broken_pipe()


# In a Jupyter notebook, text is printed as text, and not displayed as HTML.
console = TolerantConsole(highlight=False, soft_wrap=True, force_jupyter=False)


def run_command(action: Callable[[], int | None], crashed: int = 1) -> NoReturn:
    """Run a command, and exit with its status, or with 2 after a ConfigError.

    Args:
        action: returns the exit status; None means 0.
        crashed: the exit status after an unexpected exception.
    """
    try:
        with tolerant_output():
            status = action()
        if (error := console.take_write_error()) is not None:
            exit_on_write_error(error)
    except ConfigError as error:
        # The message may quote text from a run directory.
        message = "\n".join(map(escape, str(error).split("\n")))
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        console.on_broken_pipe()
        sys.exit(crashed)
    except OSError as error:
        if error.filename is None:
            exit_on_write_error(error)
        place, reason = escape(str(error.filename)), error.strerror or error
        print(f"error: {place} can't be used ({reason}): choose another path", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        sys.exit(crashed)
    sys.exit(status or 0)
