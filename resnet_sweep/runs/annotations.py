"""The annotations of a run: tags and a note, which users add at any time.

They are in a file of their own, because only the process that trains a run may change `run.json`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from resnet_sweep.errors import ConfigError, InvalidFileError, describe_errors
from resnet_sweep.runs.files import remove_unfinished, write_atomically
from resnet_sweep.runs.lock import exclusive

ANNOTATIONS = "annotations.json"
# Two commands may change the annotations of a run at the same time.
LOCK = "annotations.lock"

# A tag is a word, so that a list of tags can be printed and typed without quotes.
Tag = Annotated[str, StringConstraints(pattern=r"^[^\s,]+$", max_length=100)]


class Annotations(BaseModel):
    """The content of `annotations.json`.

    Attributes:
        tags: words, without repetitions, in the order in which they were added.
        note: a text; empty if there is none.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    tags: list[Tag] = []
    note: Annotated[str, StringConstraints(max_length=10_000)] = ""

    @classmethod
    def parse(cls, content: bytes) -> "Annotations":
        """Parse the content of an `annotations.json`.

        Raises:
            InvalidFileError: it isn't valid.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise InvalidFileError(f"{ANNOTATIONS}: {describe_errors(error)}") from error

    @classmethod
    def read(cls, directory: Path) -> "Annotations":
        """Read the annotations in a run directory; they are empty if there is no file.

        Raises:
            ConfigError: the file can't be read.
        """
        path = directory / ANNOTATIONS
        try:
            return cls.parse(path.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, InvalidFileError) as error:
            raise ConfigError(
                f"{path} can't be read ({error}): correct it, or remove it"
            ) from error

    def changed(
        self, add: Sequence[str] = (), remove: Sequence[str] = (), note: str | None = None
    ) -> "Annotations":
        """Return annotations with tags added and removed, and another note unless it is None.

        Raises:
            ConfigError: a tag isn't a word, a tag to remove isn't there, or a text is too long.
        """
        for tag in remove:
            if tag not in self.tags:
                has = f"has the tags {', '.join(self.tags)}" if self.tags else "has no tags"
                raise ConfigError(f"the tag {tag} can't be removed: the run {has}")
        tags = [tag for tag in dict.fromkeys([*self.tags, *add]) if tag not in remove]
        try:
            return Annotations(tags=tags, note=self.note if note is None else note.strip())
        except ValidationError as error:
            raise ConfigError(
                f"the annotations aren't valid ({describe_errors(error)}): choose tags that are "
                "words without spaces and commas, and a shorter note"
            ) from error


def annotate(
    directory: Path,
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    note: str | None = None,
) -> Annotations:
    """Change the annotations of a run, see `Annotations.changed`, and return them.

    A process may be training the run.

    Raises:
        ConfigError: the annotations can't be read, changed or written.
    """
    path = directory / ANNOTATIONS
    try:
        with exclusive(directory / LOCK):
            annotations = Annotations.read(directory).changed(add, remove, note)
            # A killed command may have left its temporary file.
            remove_unfinished(directory, ANNOTATIONS)
            write_atomically(path, annotations.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise ConfigError(
            f"{path} can't be written ({error.strerror or error}): make its directory writable"
        ) from error
    return annotations
