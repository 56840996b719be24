"""Train what a command line of overrides describes: `python -m resnet_sweep OVERRIDE...`."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Sequence

from hydra.errors import InstantiationException

from resnet_sweep.cli import INTERRUPTED
from resnet_sweep.errors import InternalError, RunFailed
from resnet_sweep.request import Request
from resnet_sweep.torchrun import TorchrunEnvironment

FAILED, REFUSED = 1, 2


def main(arguments: Sequence[str]) -> None:
    """Run a command line of overrides and Hydra's flags, and exit with its status."""
    sys.exit(_exit_status(Request(arguments).carry_out, arguments))


def _exit_status(action: Callable[[], None], arguments: Sequence[str]) -> int:
    """Run an action, print its error if it raises one, and return the exit status."""
    try:
        action()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (RunFailed, BrokenPipeError):
        # The reader of the output may have closed the pipe, as `| head` does.
        return FAILED
    except InternalError as error:
        _print("".join(traceback.format_exception(error.__cause__)), every_rank=True)
        return FAILED
    # For a wrong command line, Hydra raises errors of many types.
    except Exception as error:
        from resnet_sweep.config.errors import format_error

        _print(f"error: {format_error(error, arguments)}\n")
        # An InstantiationException means that the installation is incomplete.
        return FAILED if isinstance(error, InstantiationException) else REFUSED
    return 0


def _print(text: str, every_rank: bool = False) -> None:
    torchrun = TorchrunEnvironment.current()
    if every_rank or torchrun is None or torchrun.rank == 0:
        # The reader of the output may have closed the pipe.
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)
