"""The errors of the package, and the errors of pydantic in one sentence."""

import json
import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

# The first errors of a file say what is wrong with it.
MAX_ERRORS = 3


class ConfigError(ValueError):
    """What was asked for can't be done.

    Its message is one sentence: what is wrong, with the value, and what to do. It is raised before
    anything of a run is trained or written. The command line prints it and exits with status 2; a
    running sweep marks the run as failed, continues, and exits with status 1.
    """


class InvalidJobs(ConfigError):
    """Some jobs of a sweep can't be run; the message has lines for each of them."""


class RunFailed(Exception):
    """An error ended a run; the record and the log of the run name it."""


class InternalError(Exception):
    """An error of this program, and not of a request; its cause is the error itself."""


class InvalidFileError(ValueError):
    """A file can't be read as what it should be; the message says why, as a clause."""


def one_line(error: object) -> str:
    """Return an error, or its message, as a clause on one line; its type if it has no message."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def describe_errors(error: "ValidationError") -> str:
    """Return pydantic's errors in one line.

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
    """Return a value as JSON has it, shortened."""
    return json.dumps(value) if value is None or isinstance(value, bool) else reprlib.repr(value)
