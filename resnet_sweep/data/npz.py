"""A dataset in an archive of NumPy arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resnet_sweep.data.array_cache import Arrays, Source, SplitDataset, cached_arrays, file_states
from resnet_sweep.data.dataset import IndexArray, UInt8Array
from resnet_sweep.data.torchvision_sets import blocks
from resnet_sweep.errors import ConfigError, one_line

AnyArray = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class NPZ(SplitDataset):
    """Images and labels in one file, as `numpy.savez` writes it and as MedMNIST is published.

    The archive contains `train_images` and `train_labels`, and the same for `test`, `val` or both.
    Without these, `test_fraction` of the images of each class is used for the test set.

    - Images are uint8, of shape (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3.
    - Labels are integers from 0, of shape (N,) or (N, 1).
    - `classes` is optional: the name of each class, as an array of text.

    Attributes:
        file: path of the archive.
    """

    file: str | None = None

    def arrays(self) -> Arrays:
        """Return the arrays of the archive."""
        if self.file is None:
            raise ConfigError(
                "data=npz needs data.file=FILE.npz: name an archive with the arrays train_images, "
                "train_labels, test_images and test_labels"
            )
        path = Path(self.file).expanduser()
        return cached_arrays("npz", path, file_states(path.parent, [path]), lambda: read_npz(path))


def read_npz(path: Path) -> Source:
    """Return the images of an archive.

    Raises:
        ConfigError: the archive can't be read, an array is missing or has a wrong shape or type, or
            a label is out of range.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it contains a single array")
            arrays = {name: archive[name] for name in archive.files if name in _NAMES}
    # NumPy raises errors of many types for a damaged archive.
    except Exception as error:
        raise ConfigError(
            f"data.file={path} can't be read as an archive of arrays ({one_line(error)}): write it "
            "with numpy.savez, without objects"
        ) from error
    parts = [part for part in ("train", "val", "test") if f"{part}_images" in arrays]
    if "train" not in parts:
        raise ConfigError(
            f"data.file={path} contains {', '.join(archive.files) or 'nothing'}, and no "
            "train_images: name the arrays train_images, train_labels, test_images and test_labels"
        )
    images = {part: _images(path, arrays, part) for part in parts}
    labels = {part: _labels(path, arrays, part) for part in parts}
    shapes = {part: array.shape[1:] for part, array in images.items()}
    if len({*shapes.values()}) > 1:
        listed = " and ".join(f"{part}_images {shape}" for part, shape in shapes.items())
        raise ConfigError(
            f"data.file={path} has images of different shapes ({listed}): store all with one shape"
        )
    largest = max(int(array.max()) for array in labels.values())
    names = arrays.get("classes", np.arange(largest + 1)).tolist()
    if not all(isinstance(name, str | int) for name in names) or len({*names}) != len(names):
        raise ConfigError(f"data.file={path}: classes must be different names, one for each class")
    if largest >= len(names):
        raise ConfigError(
            f"data.file={path} has the label {largest}, but its {len(names)} classes are labelled "
            f"0 to {len(names) - 1}: correct the labels, or add names to classes"
        )
    only_train = parts == ["train"]
    return Source(
        shape=shapes["train"],
        labels=np.concatenate([*labels.values()]),
        parts={("all" if only_train else part): len(labels[part]) for part in parts},
        classes=[str(name) for name in names],
        blocks=(block for array in images.values() for block in blocks(array)),
    )


_NAMES = {f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels")}
_NAMES |= {"classes"}


def _images(path: Path, arrays: Mapping[str, AnyArray], part: str) -> UInt8Array:
    """Return the images of a part, (N, C, H, W)."""
    images = arrays[f"{part}_images"]
    if images.dtype == np.uint8 and images.size:
        if images.ndim == 3:
            return images[:, None]
        if images.ndim == 4 and images.shape[3] in (1, 3):
            return images.transpose(0, 3, 1, 2)
        if images.ndim == 4 and images.shape[1] in (1, 3):
            return images
    raise ConfigError(
        f"{part}_images in data.file={path} is a {images.dtype} array of shape {images.shape}: it "
        "must be uint8, with the shape (N, H, W), (N, H, W, C) or (N, C, H, W), where C is 1 or 3"
    )


def _labels(path: Path, arrays: Mapping[str, AnyArray], part: str) -> IndexArray:
    """Return the labels of a part, (N,), int64."""
    name, count = f"{part}_labels", len(arrays[f"{part}_images"])
    labels = arrays.get(name)
    if labels is None:
        raise ConfigError(f"data.file={path} has {part}_images, but no {name}: add it")
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise ConfigError(
            f"{name} in data.file={path} is a {labels.dtype} array of shape {labels.shape}: it "
            f"must contain a whole number for each of the {count} images"
        )
    if int(labels.min()) < 0:
        raise ConfigError(
            f"{name} in data.file={path} contains {labels.min()}: labels must be numbers from 0"
        )
    return labels.reshape(-1).astype(np.int64)
