"""Standard output and error: characters that their encoding lacks, and readers that leave."""

# Few imports, because every command waits for these.
import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import NoReturn

# What is printed for characters that the encoding of the output lacks; others are escaped.
REPLACEMENTS = {"±": "+-", "…": "...", "→": "->", "×": "x", "−": "-", "–": "-"}


def discard_output() -> None:
    """Discard all further output, after its reader has left."""
    if sys.stdout is not None:
        with open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), sys.stdout.fileno())


def _stand_ins(error: UnicodeError) -> tuple[str, int]:
    """Encode characters that an encoding lacks, as an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    escapes = (char.encode("ascii", "backslashreplace").decode() for char in missing)
    texts = (REPLACEMENTS.get(char, text) for char, text in zip(missing, escapes, strict=True))
    return "".join(texts), error.end


@contextmanager
def tolerant_output() -> Iterator[None]:
    """Print in whatever encoding the output has, and ignore that its reader leaves.

    Raises:
        SystemExit: the output can't be written for another reason.
    """
    codecs.register_error("stand_ins", _stand_ins)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="stand_ins")
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
    """Exit with a status, after an error of writing the output."""
    print(f"error: the output can't be written ({error})", file=sys.stderr)
    discard_output()
    raise SystemExit(status)
