"""The console that this program prints to, and the exit status of its commands."""

import codecs
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

from rich.console import Console

from resnet_sweep.compare.format import escaped
from resnet_sweep.errors import ConfigError

# What is printed for characters that the encoding of the output lacks; others are escaped.
STAND_INS = {"±": "+-", "…": "...", "→": "->", "×": "x", "−": "-", "–": "-"}


class PersistentConsole(Console):
    """A console that ignores a closed pipe, as `| head` leaves one."""

    def on_broken_pipe(self) -> None:
        """Discard all further output."""
        self.quiet = True
        if sys.stdout is None:
            return
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())

    def write(self, text: str) -> None:
        """Print text for programs, without any markup or wrapping."""
        try:
            print(text, file=self.file, flush=True)
        except BrokenPipeError:
            self.on_broken_pipe()


console = PersistentConsole(highlight=False, soft_wrap=True)


def _stand_ins(error: UnicodeError) -> tuple[str, int]:
    """Encode characters that an encoding lacks, as an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escapes = (char.encode("ascii", "backslashreplace").decode() for char in missing)
    texts = (STAND_INS.get(char, text) for char, text in zip(missing, escapes, strict=True))
    return "".join(texts), error.end


@contextmanager
def forgiving_output() -> Iterator[None]:
    """Print in whatever encoding the output has, and ignore that its reader leaves.

    Raises:
        SystemExit: the output can't be written for another reason.
    """
    codecs.register_error("stand_ins", _stand_ins)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="stand_ins")
    try:
        yield
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            console.on_broken_pipe()
        except OSError as error:
            _fail_to_write(error)


def _fail_to_write(error: OSError) -> NoReturn:
    print(f"error: the output can't be written ({error})", file=sys.stderr)
    console.on_broken_pipe()
    sys.exit(2)


def run_command(action: Callable[[], int | None], crashed: int = 1) -> NoReturn:
    """Run a command, and exit with its status, or with 2 if the request was wrong.

    Args:
        action: returns the status; None is 0.
        crashed: the status after an exception that nobody expected.
    """
    try:
        with forgiving_output():
            status = action()
    except ConfigError as error:
        # The message may quote text from a run directory.
        message = "\n".join(map(escaped, str(error).split("\n")))
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        console.on_broken_pipe()
        sys.exit(crashed)
    except OSError as error:
        _fail_to_write(error)
    except Exception:
        traceback.print_exc()
        sys.exit(crashed)
    sys.exit(status or 0)
