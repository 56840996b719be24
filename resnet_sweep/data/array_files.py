"""Folders of array files in NumPy's format, which are memory-mapped and written atomically."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnet_sweep.errors import ConfigError

# The folder of data and array files, unless an environment variable names another one.
USER_CACHE = "~/.cache/resnet_sweep"


def data_folder() -> Path:
    """Return $RESNET_SWEEP_DATA, or the user's cache folder if that isn't set."""
    return expand_home(os.environ.get("RESNET_SWEEP_DATA") or USER_CACHE, "RESNET_SWEEP_DATA")


def expand_home(folder: str, variable: str) -> Path:
    """Return a folder, in which `~` stands for the home directory.

    Args:
        folder: the folder that an environment variable names, or its default.
        variable: name of the variable.

    Raises:
        ConfigError: the folder is in the home directory, but the user has none. In a container, a
            user may have neither $HOME nor an entry in /etc/passwd.
    """
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{folder} can't be found, because this user has no home directory: set the "
            f"environment variable {variable} to a folder"
        ) from error


def map_array(
    path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike = np.uint8
) -> npt.NDArray[Any]:
    """Memory-map an array file for reading.

    Raises:
        ConfigError: the file is missing, is truncated, or has another shape or type.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: restore it") from error
    # NumPy raises errors of many types for a damaged header.
    except Exception as error:
        raise ConfigError(f"{path} is truncated or isn't an array file: replace it") from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{path} is an archive of arrays, not an array file: replace it")
    if array.dtype != dtype or array.shape != shape:
        raise ConfigError(
            f"{path} contains a {array.dtype} array of shape {array.shape}, but it must contain a "
            f"{np.dtype(dtype)} array of shape {shape}: replace it"
        )
    return array


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield an unfinished folder, which is renamed to `folder` at the end of a `with` block.

    If the block fails, or if another process has made `folder` in the meantime, the unfinished
    folder is removed.
    """
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        yield unfinished
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
