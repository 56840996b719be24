"""The exceptions of the package, and errors as one line of text."""

import json
import reprlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

# More errors would make the line too long to read.
MAX_ERRORS = 3


class ConfigError(ValueError):
    """A request is invalid or can't be carried out.

    The message is one sentence: what is wrong, with the value, and what to do. The error is raised
    before a run trains or writes anything. The command line prints the message and exits with
    status 2. A running sweep marks the run as failed, continues, and exits with status 1.
    """


class InvalidJobs(ConfigError):
    """Some jobs of a sweep are invalid; the message lists them with the reasons."""


class RunFailed(Exception):
    """A run ended with an error, which its record and its log contain."""


class InternalError(Exception):
    """Wraps an unexpected error of this program, which is its `__cause__`."""


class InvalidFileError(ValueError):
    """A file has invalid content; the message is a clause that gives the reason."""


def check_encodable(name: str) -> None:
    """Raise ConfigError for a name that no file can contain.

    The bytes of such a name aren't valid in the encoding of the system, and Python decodes them to
    characters that UTF-8 doesn't have.
    """
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise ConfigError(
            f"{name} isn't valid in the encoding {sys.getfilesystemencoding()}: set the "
            "environment variable PYTHONUTF8=1, or choose another name"
        )


def one_line(error: object) -> str:
    """Return the message of an error on one line, or the name of its type if it has none."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def describe_errors(error: "ValidationError") -> str:
    """Return pydantic's errors as one line.

    For example, "seconds is -1, but it must be greater than or equal to 0".
    """
    errors = error.errors(include_url=False)
    clauses = []
    for details in errors[:MAX_ERRORS]:
        name = ".".join(map(str, details["loc"])) or "it"
        if details["type"] == "missing":
            clauses.append(f"{name} is missing")
        else:
            allowed = details["msg"].replace("Input should", "it must", 1)
            clauses.append(f"{name} is {format_value(details['input'])}, but {allowed}")
    if len(errors) > MAX_ERRORS:
        clauses.append(f"and {len(errors) - MAX_ERRORS} more")
    return "; ".join(clauses)


def format_value(value: Any) -> str:
    """Return a value as short text, with null, true and false as in JSON."""
    return json.dumps(value) if value is None or isinstance(value, bool) else reprlib.repr(value)
