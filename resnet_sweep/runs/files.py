"""Files that are written whole or not at all."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from resnet_sweep.errors import RequestError


def write_atomically(path: Path, content: bytes, backup: Path | None = None) -> None:
    """Put `content` at `path`, so that whoever reads there sees all of it or what was before.

    It is on the disk, not only in the system's cache, when this returns. What was at `path` goes
    to `backup`, if that is given.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_UMASK)
            os.fsync(file.fileno())
        if backup is not None and path.exists():
            os.replace(path, backup)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files into a folder, made if need be, each as `write_atomically` does.

    Args:
        folder: in a directory that exists.
        contents: by the name of the file.

    Raises:
        RequestError: the folder can't be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise RequestError(
            f"{folder} can't be written to ({error.strerror or error}): mend that, or work on a "
            "copy of the run directory"
        ) from error


def remove_unfinished(directory: Path, *patterns: str) -> None:
    """Remove what a killed process was about to write.

    Args:
        directory: where.
        patterns: of the files, such as `checkpoints/*.pth`.
    """
    for pattern in patterns:
        path = directory / pattern
        for unfinished in path.parent.glob(f".{path.name}-*"):
            unfinished.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """See to it that the names in a directory are on the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The umask can only be read by setting it, which is safe at import, before there are threads.
_UMASK = os.umask(0)
os.umask(_UMASK)
