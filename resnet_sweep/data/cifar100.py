"""CIFAR-100 from array files, from torchvision's files, or from a download.

The array files are `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy`, in
NumPy's format, and `classes.txt`, with one name per line. The arrays are memory-mapped, so that
processes on the same machine share one copy in memory.
"""

import contextlib
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt

from resnet_sweep.data.array_files import data_folder, map_array, new_folder
from resnet_sweep.data.dataset import Dataset, Split, Subsets
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import exclusive

COUNTS = {"train": 50_000, "test": 10_000}
CLASSES = 100
# Digests of the published images and labels, which don't depend on the order of the images.
DIGESTS = {
    "train": "ace8bf041bf05e0a76933484ca47d0cd",
    "test": "e7dfbebcbaea52d210b1f02da2f677e7",
}


@dataclass(frozen=True)
class CIFAR100(Subsets):
    """50,000 training and 10,000 test images of 100 classes, 3x32x32.

    The first of these sources is used: array files in `root`/cifar100; torchvision's files in
    `root`/cifar-100-python; and, for the default root only, torchvision's verified download. Data
    from the other two sources is converted to array files once. Krizhevsky, 2009, "Learning
    Multiple Layers of Features from Tiny Images".

    Attributes:
        root: folder of the data; None for $RESNET_SWEEP_DATA, or ~/.cache/resnet_sweep if that
            isn't set.
        mean, std: mean and standard deviation per channel, of images scaled to 0..1.
    """

    root: str | None = None
    mean: Sequence[float] = (0.5071, 0.4867, 0.4408)
    std: Sequence[Annotated[float, Gt(0)]] = (0.2675, 0.2565, 0.2761)

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == 3:
            raise ValueError(
                f"mean={list(self.mean)} and std={list(self.std)} must have three entries each"
            )

    def load(self, seed: int) -> Dataset:
        """Check the data, and return the dataset with the subsets that `seed` chooses.

        Raises:
            ConfigError: the data is missing and can't be downloaded, or it differs from the
                published CIFAR-100.
        """
        folder = self._folder()
        splits, ordered = {}, []
        for part in COUNTS:
            splits[part] = read_split(folder, part)
            in_order, in_any_order = digest_folder(folder, part, file_state(folder, part))
            if in_any_order.hex()[:32] != DIGESTS[part]:
                raise ConfigError(
                    f"{part}_images.npy and {part}_labels.npy in {folder} differ from the "
                    "published CIFAR-100: replace them"
                )
            ordered.append(in_order)
        return self.select(
            splits["train"],
            splits["test"],
            seed,
            classes=read_classes(folder),
            mean=list(self.mean),
            std=list(self.std),
            fingerprint=blake2b(b"".join(ordered), digest_size=16).hexdigest(),
        )

    def _folder(self) -> Path:
        """Return the folder of array files, and create it if it is missing."""
        root = data_folder() if self.root is None else Path(self.root).expanduser()
        folder, original = root / "cifar100", root / "cifar-100-python"
        if folder.is_dir():
            return folder
        if self.root is not None and not original.is_dir():
            raise ConfigError(
                f"data.root={root} contains neither {folder.name}/ (array files) nor "
                f"{original.name}/ (torchvision's files): put one there, leave data.root out to "
                "download the data, or try experiment=quickstart, which needs no download"
            )
        existed = root.exists()
        try:
            root.mkdir(parents=True, exist_ok=True)
            # If several processes start at once, one downloads, and the others wait.
            with exclusive(root / ".cifar100.lock"):
                if not folder.is_dir():
                    splits, classes = _read_torchvision(root, download=self.root is None)
                    write_arrays(folder, splits, classes)
        # torchvision raises RuntimeError if the download fails or has a wrong checksum.
        except (OSError, RuntimeError) as error:
            text = str(error).partition(" You can use download=True")[0]
            reason = text.splitlines()[0] if text else type(error).__name__
            if not existed:
                with contextlib.suppress(OSError):
                    root.rmdir()
            if self.root is not None:
                raise ConfigError(
                    f"{original} couldn't be converted to array files in {folder} ({reason}): fix "
                    "the cause, or put the published files into another data.root"
                ) from error
            raise ConfigError(
                f"CIFAR-100 isn't in {root} and couldn't be downloaded ({reason}): connect to a "
                "network, put cifar-100-python/ (the published archive, unpacked) or cifar100/ "
                f"(array files) into {root}, name a folder with them in RESNET_SWEEP_DATA, or try "
                "experiment=quickstart, which needs no download"
            ) from error
        return folder


def read_split(folder: Path, part: str) -> Split:
    """Memory-map one part, "train" or "test", of a folder of array files.

    Raises:
        ConfigError: a file is missing, is truncated, or has an unexpected shape, type or label.
    """
    images = map_array(folder / f"{part}_images.npy", (COUNTS[part], 3, 32, 32))
    labels = map_array(folder / f"{part}_labels.npy", (COUNTS[part],))
    if (largest := int(labels.max())) >= CLASSES:
        raise ConfigError(
            f"{folder / f'{part}_labels.npy'} has the label {largest}, but the {CLASSES} classes "
            f"are labelled 0 to {CLASSES - 1}: replace the file"
        )
    return Split.whole(images, labels)


def read_classes(folder: Path) -> list[str]:
    """Return the class names of a folder of array files.

    Raises:
        ConfigError: the file is missing, or doesn't contain CLASSES different names.
    """
    path = folder / "classes.txt"
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read ({error}): restore it") from error
    if not len(names) == len(set(names)) == CLASSES:
        raise ConfigError(
            f"{path} has {len(set(names))} different names on {len(names)} lines, but it must have "
            f"one name for each of the {CLASSES} classes: restore it"
        )
    return names


@lru_cache
def digest_folder(folder: Path, part: str, state: Hashable) -> tuple[bytes, bytes]:
    """Return two digests of the images and labels of one part.

    The first depends on their order, and the second doesn't. They are cached.

    Args:
        folder: folder of array files.
        part: "train" or "test".
        state: `file_state` of the part; the digests are computed again if it changes.
    """
    digests = read_split(folder, part).digests()
    return blake2b(b"".join(digests)).digest(), blake2b(b"".join(sorted(digests))).digest()


def file_state(folder: Path, part: str) -> Hashable:
    """Return the sizes, modification times and inodes of one part's files."""
    stats = [(folder / f"{part}_{kind}.npy").stat() for kind in ("images", "labels")]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)


def write_arrays(folder: Path, splits: dict[str, Split], classes: list[str]) -> None:
    """Write a folder of array files atomically, unless another process writes it first."""
    with new_folder(folder) as unfinished:
        for part, split in splits.items():
            np.save(unfinished / f"{part}_images.npy", split.images)
            np.save(unfinished / f"{part}_labels.npy", split.labels)
        (unfinished / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")


def _read_torchvision(root: Path, download: bool) -> tuple[dict[str, Split], list[str]]:
    # This import takes seconds, and a run with array files doesn't need it.
    from torchvision import datasets

    splits = {}
    for part in COUNTS:
        with contextlib.redirect_stdout(sys.stderr):
            source = datasets.CIFAR100(str(root), train=part == "train", download=download)
        images = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
        splits[part] = Split.whole(images, np.array(source.targets, dtype=np.uint8))
    return splits, list(source.classes)
