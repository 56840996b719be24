"""A cache of array files, made once from the files of a dataset.

The cache is the folder $RESNET_SWEEP_CACHE, or ~/.cache/resnet_sweep/arrays if that isn't set. An
entry is a folder with `images.npy`, `labels.npy`, `moments.npy` and `header.json`. Its name
contains a digest of where the dataset's files are, of their names, sizes and modification times,
and of the settings that change the arrays. So an entry is found without reading the images again,
and a changed file leads to another entry.

The fingerprint of the data is a digest of the arrays themselves, which is computed when they are
written. So it is the same for the same pixels in another folder or file format.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Gt, Lt
from pydantic import BaseModel, ValidationError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from resnet_sweep.console import console
from resnet_sweep.data.array_files import USER_CACHE, map_array, new_folder
from resnet_sweep.data.dataset import Dataset, IndexArray, Split, Subsets, UInt8Array
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.lock import exclusive

# Increment this number when a change to the package changes the arrays or the format of an entry.
VERSION = 1
# Images are written in blocks of about this many bytes.
BLOCK_BYTES = 2**24
ARRAYS = ("images", "labels", "moments")

log = logging.getLogger(__name__)


class Header(BaseModel):
    """Content of `header.json`.

    Attributes:
        shape: (N, C, H, W), shape of the images.
        parts: number of images of each part, in the order of the arrays.
        classes: name of each class, by its label.
        fingerprint: digest of the shape, the parts, the number of classes, the labels and images.
        files: size and modification time of each array file.
    """

    shape: tuple[int, int, int, int]
    parts: dict[str, int]
    classes: list[str]
    fingerprint: str
    files: dict[str, tuple[int, int]] = {}


@dataclass(frozen=True)
class Source:
    """Images to write into the cache.

    Attributes:
        shape: (C, H, W), shape of an image.
        labels: (N,), int64.
        parts: number of images of each part, in order: "train", and "val", "test" or both; or
            "all", if training and test images aren't separate.
        classes: name of each class, by its label.
        blocks: the images, in order, as blocks, (n, C, H, W), uint8.
    """

    shape: tuple[int, int, int]
    labels: IndexArray
    parts: Mapping[str, int]
    classes: list[str]
    blocks: Iterable[UInt8Array]

    def header(self) -> Header:
        """Return the header, with a fingerprint that doesn't contain the images yet."""
        shape = (len(self.labels), *self.shape)
        return Header(shape=shape, parts=dict(self.parts), classes=self.classes, fingerprint="")


@dataclass(frozen=True)
class Arrays:
    """The memory-mapped arrays of an entry.

    Attributes:
        images: (N, C, H, W), uint8.
        labels: (N,), int64.
        moments: (N, C, 2), int64, sum of the pixels of a channel, and sum of their squares.
    """

    images: UInt8Array
    labels: IndexArray
    moments: npt.NDArray[np.int64]
    header: Header

    def parts(self) -> dict[str, Split]:
        """Return the images of each part."""
        splits, first = {}, 0
        for name, count in self.header.parts.items():
            splits[name] = self.split(np.arange(first, first + count))
            first += count
        return splits

    def split(self, indices: IndexArray) -> Split:
        """Return the images at some indices."""
        return Split(self.images, self.labels, indices)

    def mean_and_std(self, indices: IndexArray) -> tuple[list[float], list[float]]:
        """Return the mean and standard deviation per channel of images scaled to 0..1.

        Integers are summed, so the order of the images has no effect.
        """
        _, _, height, width = self.images.shape
        pixels = len(indices) * height * width
        means, deviations = [], []
        # Python's integers don't overflow.
        for total, squares in self.moments[indices].sum(0).tolist():
            variance = (pixels * squares - total**2) / pixels**2
            means.append(total / pixels / 255)
            # A channel with a single value would be divided by zero.
            deviations.append(variance**0.5 / 255 or 1.0)
        return means, deviations


@dataclass(frozen=True, kw_only=True)
class CachedDataset(Subsets):
    """Base class of datasets whose images are in the cache.

    Attributes:
        mean, std: mean and standard deviation per channel, of images scaled to 0..1; None for
            those of all training images.
    """

    mean: Sequence[float] | None = None
    std: Sequence[Annotated[float, Gt(0)]] | None = None

    def load(self, seed: int) -> Dataset:
        """Return the dataset with the subsets that `seed` chooses; convert its files once.

        The files are searched for changes at the first call only.

        Raises:
            ConfigError: the data is missing or invalid, the cache can't be written, or a setting
                doesn't fit the data.
        """
        arrays = self._arrays
        parts = self.split(arrays)
        mean, std = arrays.mean_and_std(parts["train"].indices)
        channels = arrays.images.shape[1]
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and len(value) != channels:
                raise ConfigError(
                    f"data.{name}={list(value)} must have one entry for each channel of the "
                    f"images, which have {channels}: correct it, or choose data.{name}=null"
                )
        test = parts.get("test", parts.get("val"))
        assert test is not None
        return self.select(
            parts["train"],
            test,
            seed,
            validation=parts.get("val") if "test" in parts else None,
            classes=arrays.header.classes,
            mean=mean if self.mean is None else list(self.mean),
            std=std if self.std is None else list(self.std),
            fingerprint=arrays.header.fingerprint,
        )

    @cached_property
    def _arrays(self) -> Arrays:
        return self.arrays()

    def arrays(self) -> Arrays:
        """Return the arrays of the dataset, from `cached_arrays`."""
        raise NotImplementedError

    def split(self, arrays: Arrays) -> dict[str, Split]:
        """Return the images of "train", and of "val", "test" or both."""
        return arrays.parts()


@dataclass(frozen=True, kw_only=True)
class SplitDataset(CachedDataset):
    """Base class of datasets that may have no test images, so that some images are chosen for it.

    Attributes:
        test_fraction: fraction of the images of each class that is used for the test set.
        split_seed: seed of the choice. The seed of the run doesn't change the test set.
    """

    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    split_seed: int = 0

    def split(self, arrays: Arrays) -> dict[str, Split]:
        """Return the images of each part, and choose test images if there are none."""
        if "all" not in arrays.header.parts:
            return arrays.parts()
        labels, classes = arrays.labels, arrays.header.classes
        # RandomState is used because its streams are the same in all versions of NumPy.
        order = np.random.RandomState(self.split_seed).permutation(len(labels))
        by_class = order[np.argsort(labels[order], kind="stable")]
        ends = np.cumsum(np.bincount(labels, minlength=len(classes)))
        test = []
        for name, members in zip(classes, np.split(by_class, ends[:-1]), strict=True):
            if len(members) == 1:
                raise ConfigError(
                    f"the class {name} has one image, which can't be used both for training and "
                    "for testing: add images, or remove the class"
                )
            count = round(self.test_fraction * len(members))
            test.append(members[: min(max(count, 1), len(members) - 1)])
        chosen = np.sort(np.concatenate(test))
        rest = np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True)
        return {"train": arrays.split(rest), "test": arrays.split(chosen)}


def cache_folder() -> Path:
    """Return the folder of the cache."""
    named = os.environ.get("RESNET_SWEEP_CACHE")
    return Path(named).expanduser() if named else Path(USER_CACHE, "arrays").expanduser()


def file_states(root: Path, paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return the name relative to `root`, the size and the modification time of each file.

    Raises:
        ConfigError: a file is missing, or is a link to nothing.
    """
    states = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise ConfigError(f"{path} can't be read ({error.strerror}): restore it") from error
        states.append((os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns))
    return states


def cached_arrays(
    name: str, root: Path, identity: Sequence[Any], read: Callable[[], Source]
) -> Arrays:
    """Return the arrays of a dataset from the cache, and write them there if they are missing.

    If several processes need an entry at once, one writes it, and the others wait.

    Args:
        name: name of the dataset, with which the name of the entry begins.
        root: the folder or file of the dataset.
        identity: values in JSON that, with `name` and `root`, determine the arrays: the states of
            the dataset's files, and settings.
        read: checks the dataset's files, and returns their images.

    Raises:
        ConfigError: the cache can't be written, or `read` raised it.
    """
    content = json.dumps([VERSION, name, os.path.abspath(root), *identity])
    folder = cache_folder() / f"{name}-{blake2b(content.encode(), digest_size=10).hexdigest()}"
    arrays = _open(folder)
    if arrays is not None:
        return arrays
    created = missing_folders(folder.parent)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / f".{folder.name}.lock"):
            arrays = _open(folder)
            if arrays is None:
                # A killed process may have left unfinished folders, and a file may be damaged.
                for path in (folder, *folder.parent.glob(f".{folder.name}-*")):
                    shutil.rmtree(path, ignore_errors=True)
                _write(folder, read())
                arrays = _open(folder)
    except OSError as error:
        raise ConfigError(
            f"array files can't be written to {folder.parent} ({error.strerror or error}): free "
            "space there, or set the environment variable RESNET_SWEEP_CACHE to another folder"
        ) from error
    finally:
        remove_empty(created)
    if arrays is None:
        raise ConfigError(f"{folder} was changed while it was written: repeat the command")
    return arrays


def _open(folder: Path) -> Arrays | None:
    """Return the arrays of an entry; None if it is missing, or its files aren't as written."""
    try:
        header = Header.model_validate_json((folder / "header.json").read_bytes())
        if header.files != _states(folder):
            return None
        count, channels, _, _ = header.shape
        return Arrays(
            map_array(folder / "images.npy", header.shape),
            map_array(folder / "labels.npy", (count,), np.int64),
            map_array(folder / "moments.npy", (count, channels, 2), np.int64),
            header,
        )
    except (OSError, ValidationError, ConfigError):
        return None


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {name: (folder / f"{name}.npy").stat() for name in ARRAYS}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def _write(folder: Path, source: Source) -> None:
    header = source.header()
    labels = np.ascontiguousarray(source.labels, dtype=np.int64)
    described = json.dumps([header.shape, header.parts, len(header.classes)])
    digest = blake2b(described.encode() + labels.tobytes(), digest_size=16)
    moments = []
    log.info("converting %s images to array files in %s", f"{len(labels):,}", folder)
    with new_folder(folder) as unfinished:
        with (unfinished / "images.npy").open("wb") as file:
            # The file is written and not mapped, because a full disk kills a process that writes
            # into a map.
            description = {"descr": "|u1", "fortran_order": False, "shape": header.shape}
            np.lib.format.write_array_header_1_0(file, description)
            for block in _with_progress(source.blocks, len(labels)):
                content = block.tobytes()
                file.write(content)
                digest.update(content)
                sums = block.sum((2, 3), dtype=np.int64)
                # The square of 255 has 16 bits.
                squares = np.square(block, dtype=np.uint16).sum((2, 3), dtype=np.int64)
                moments.append(np.stack([sums, squares], axis=2))
            file.flush()
            os.fsync(file.fileno())
        np.save(unfinished / "labels.npy", labels)
        np.save(unfinished / "moments.npy", np.concatenate(moments))
        header.fingerprint, header.files = digest.hexdigest(), _states(unfinished)
        (unfinished / "header.json").write_text(header.model_dump_json(indent=2))


def _with_progress(blocks: Iterable[UInt8Array], total: int) -> Iterator[UInt8Array]:
    """Yield blocks of images, and show the progress on a terminal."""
    if not console.is_terminal:
        yield from blocks
        return
    columns = (TextColumn("converting images"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("", total=total)
        for block in blocks:
            yield block
            bar.advance(task, len(block))
