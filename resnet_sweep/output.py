"""Standard output and error: unencodable characters, closed pipes and write errors."""

# Few imports, because every command loads this module first.
import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

# Printed in place of characters that the output's encoding lacks; others are escaped.
REPLACEMENTS = {"±": "+-", "…": "...", "→": "->", "×": "x", "−": "-", "–": "-"}

# Errors of a full disk, or of a device that fails.
WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def discard_output() -> None:
    """Discard all further standard output, because it can't be written."""
    if sys.stdout is not None:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


def _replace_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks; an error handler for `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escapes = (char.encode("ascii", "backslashreplace").decode() for char in missing)
    texts = (REPLACEMENTS.get(char, text) for char, text in zip(missing, escapes, strict=True))
    return "".join(texts), error.end


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Replace unencodable characters, and ignore a closed pipe, within a `with` block.

    Raises:
        SystemExit: the output can't be written for another reason.
    """
    codecs.register_error("replace_unencodable", _replace_unencodable)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace_unencodable")
    status: object = None
    try:
        yield
    except SystemExit as leaving:
        status = leaving.code
        raise
    finally:
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
        except OSError as error:
            exit_on_write_error(error, status or 2)


def exit_on_write_error(error: OSError, status: object = 2) -> NoReturn:
    """Print that the output can't be written, and exit with a status."""
    reason = error.strerror or error
    print(f"error: the output can't be written ({reason}): redirect it elsewhere", file=sys.stderr)
    discard_output()
    raise SystemExit(status)
