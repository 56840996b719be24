"""The console that commands print to, and their exit status."""

import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from resnet_sweep.compare.format import escape
from resnet_sweep.errors import ConfigError
from resnet_sweep.output import discard_output, exit_on_write_error, tolerant_output


class PipeSafeConsole(Console):
    """A console that ignores a pipe closed by its reader, such as `| head`."""

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal, where a line can be replaced.

        The output of a Jupyter kernel says that it is one. But a notebook stores all that is
        printed, so it gets plain lines.
        """
        return super().is_terminal and not type(self.file).__module__.startswith("ipykernel")

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
console = PipeSafeConsole(highlight=False, soft_wrap=True, force_jupyter=False)


def run_command(action: Callable[[], int | None], crashed: int = 1) -> NoReturn:
    """Run a command, and exit with its status, or with 2 after a ConfigError.

    Args:
        action: returns the exit status; None means 0.
        crashed: the exit status after an unexpected exception.
    """
    try:
        with tolerant_output():
            status = action()
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
        exit_on_write_error(error)
    except Exception:
        traceback.print_exc()
        sys.exit(crashed)
    sys.exit(status or 0)
