"""Train what a command line of overrides describes: `python -m resnet_sweep OVERRIDE...`."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence

from hydra.errors import InstantiationException

from resnet_sweep.cli import INTERRUPTED
from resnet_sweep.console import console
from resnet_sweep.errors import InternalError, RunFailed
from resnet_sweep.output import WRITE_ERRORS, discard_output, exit_on_write_error
from resnet_sweep.request import Request
from resnet_sweep.torchrun import TorchrunEnvironment

FAILED, REFUSED = 1, 2


def main(arguments: Sequence[str], failed: int = FAILED, own: Sequence[str] = ()) -> None:
    """Run a command line of overrides and Hydra's flags, and exit with its status.

    Args:
        arguments: the command line.
        failed: the exit status after a failed run or an unexpected error.
        own: overrides of a subcommand; see `Request`.
    """
    status = _exit_status(Request(arguments, own).carry_out, arguments, failed)
    if (error := console.take_write_error()) is not None:
        # What was trained counts more than what was printed, so the exit status stays.
        _print(f"warning: the output couldn't be written ({error.strerror or error})\n")
    sys.exit(status)


def _exit_status(action: Callable[[], None], arguments: Sequence[str], failed: int) -> int:
    """Run an action, print its error if it raises one, and return the exit status."""
    try:
        action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except RunFailed:
        return failed
    except BrokenPipeError:
        # Only Hydra's own texts, such as --help, raise this error.
        discard_output()
        return 0
    except InternalError as error:
        _print("".join(traceback.format_exception(error.__cause__)), every_rank=True)
        return failed
    # For a wrong command line, Hydra raises errors of many types.
    except Exception as error:
        if isinstance(error, OSError) and error.errno in WRITE_ERRORS:
            exit_on_write_error(error)
        from resnet_sweep.config.errors import format_error

        _print(f"error: {format_error(error, arguments)}\n")
        # An InstantiationException means that the installation is incomplete.
        return failed if isinstance(error, InstantiationException) else REFUSED
    return 0


def _print(text: str, every_rank: bool = False) -> None:
    torchrun = TorchrunEnvironment.current()
    if every_rank or torchrun is None or torchrun.rank == 0:
        # The reader of the output may have closed the pipe.
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)
