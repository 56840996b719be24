"""Atomic writes, and the cleanup of files and folders."""

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
    """Write a file so that a reader sees either the new content or the old one, never a part.

    When this function returns, the content is on the disk, not only in the system's cache.

    Args:
        path: the file, in an existing directory.
        content: its bytes.
        backup: where to move an existing file. For a moment, there is then no file at `path`.
        durable: False is faster, because the directory entry isn't written to the disk. But a power
            cut may undo the write.
    """
    # The file is opened as an ordinary new file, so that the umask decides who may read it.
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
    # The directory contains the file's name. Windows can't open a directory.
    if durable and os.name != "nt":
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files to a folder, and create the folder if it doesn't exist.

    Raises:
        ConfigError: the folder can't be written to.
    """
    try:
        folder.mkdir(exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise ConfigError(
            f"{folder} can't be written to ({error.strerror or error}): make it writable, or use a "
            "copy of the run directory"
        ) from error


def remove_unfinished(directory: Path, *patterns: str) -> None:
    """Remove the temporary files of `write_atomically` that a killed process left.

    Args:
        directory: the directory to which the patterns are relative.
        patterns: patterns of the complete files, for example `*.pth`.
    """
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
    """Return a directory and its parents that don't exist, starting with the directory."""
    directory = Path(os.path.abspath(directory))
    return [folder for folder in (directory, *directory.parents) if not os.path.lexists(folder)]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the folders that are empty; a folder has to precede its parent."""
    for folder in folders:
        with contextlib.suppress(OSError, ValueError):
            folder.rmdir()
