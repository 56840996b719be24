"""Files that are written whole or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path

from resnet_sweep.errors import ConfigError


def write_atomically(
    path: Path, content: bytes, backup: Path | None = None, durable: bool = True
) -> None:
    """Write a file so that a reader sees all of it, or what was there before.

    When this returns, the content is on the disk, and not only in the system's cache.

    Args:
        path: the file, in an existing directory.
        content: its bytes.
        backup: where to move the file that is at `path` now, if there is one.
        durable: False saves the time that it takes to write the file's name to the disk, so that a
            power cut may undo all of this.
    """
    # It is opened as any new file is, so that the umask decides who may read it.
    unfinished = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if backup is not None and path.exists():
            os.replace(path, backup)
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    # Windows can't open a directory, which has the file's name.
    if durable and os.name != "nt":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, by their names, into a folder that is made if it doesn't exist.

    Raises:
        ConfigError: the folder can't be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be written to ({error.strerror or error}): change that, or work on a "
            "copy of the run directory"
        ) from error


def remove_unfinished(directory: Path, *patterns: str) -> None:
    """Remove files that a killed process had not finished writing, such as `checkpoints/*.pth`."""
    for pattern in patterns:
        path = directory / pattern
        for unfinished in path.parent.glob(f".{path.name}-*"):
            unfinished.unlink(missing_ok=True)


def digest_file(path: Path) -> str | None:
    """Return a digest of a file; None if it can't be read."""
    try:
        return blake2b(path.read_bytes(), digest_size=8).hexdigest()
    except OSError:
        return None


def missing_folders(directory: Path) -> list[Path]:
    """Return a directory and its parents, as far as they don't exist; the directory is first."""
    directory = Path(os.path.abspath(directory))
    return [folder for folder in (directory, *directory.parents) if not os.path.lexists(folder)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that are empty, each before its parent."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            folder.rmdir()
