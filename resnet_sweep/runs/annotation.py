"""The tags and the note that a person gives a run: `annotation.json`."""

import re
from pathlib import Path
from typing import Annotated

from annotated_types import Len, MaxLen
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from resnet_sweep.errors import InvalidFileError, describe_errors
from resnet_sweep.runs.files import write_atomically

ANNOTATION = "annotation.json"
MAX_TAGS, MAX_NOTE = 100, 2000
_TAG = r"[\w.+-]{1,40}"

Tag = Annotated[str, StringConstraints(pattern=f"^{_TAG}$")]


class Annotation(BaseModel):
    """The tags and the note of a run. They don't change what is trained.

    Attributes:
        tags: tags, sorted.
        note: a text; empty without one.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    tags: Annotated[list[Tag], Len(0, MAX_TAGS)] = []
    note: Annotated[str, MaxLen(MAX_NOTE)] = ""

    @classmethod
    def parse(cls, content: bytes) -> "Annotation":
        """Parse the content of `annotation.json`.

        Raises:
            InvalidFileError: it isn't valid.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise InvalidFileError(f"{ANNOTATION}: {describe_errors(error)}") from error

    def write(self, directory: Path) -> None:
        """Write `annotation.json`, or remove it if there is neither a tag nor a note."""
        path = directory / ANNOTATION
        if self.tags or self.note:
            write_atomically(path, self.model_dump_json(indent=1).encode() + b"\n")
        else:
            path.unlink(missing_ok=True)


def is_tag(text: str) -> bool:
    """Return whether a text can be a tag: letters, digits, `_`, `.`, `+` and `-`."""
    return re.fullmatch(_TAG, text) is not None
