"""CIFAR-100, from array files, from torchvision's copy, or from its download.

Array files are images and labels in NumPy's own format, memory-mapped, so that processes on the
same machine share one copy in memory: `train_images.npy`, `train_labels.npy`, `test_images.npy`,
`test_labels.npy`, and `classes.txt` (a name a line).
"""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt

from resnet_sweep.data.dataset import Dataset, Split, Subsets, UInt8Array
from resnet_sweep.errors import ConfigError
from resnet_sweep.runs.lock import exclusive

COUNTS = {"train": 50_000, "test": 10_000}
CLASSES = 100
# Digests of the published images and labels, in any order.
DIGESTS = {
    "train": "ace8bf041bf05e0a76933484ca47d0cd",
    "test": "e7dfbebcbaea52d210b1f02da2f677e7",
}


@dataclass(frozen=True)
class CIFAR100(Subsets):
    """50,000 training and 10,000 test images of 100 classes, 3x32x32 (Krizhevsky, 2009).

    They are looked for in this order: array files in `root`/cifar100, torchvision's copy in
    `root`/cifar-100-python, and, in the default root only, torchvision's verified download.
    Whatever the source, array files are made of it once.

    Attributes:
        root: the folder; None for the default, which is $RESNET_SWEEP_DATA or else
            ~/.cache/resnet_sweep.
        mean, std: for each channel of images scaled to 0..1.
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
        """Return the dataset, checked, with its subsets chosen by `seed`.

        Raises:
            ConfigError: it isn't there and can't be downloaded, or isn't CIFAR-100 as published.
        """
        folder = self._folder()
        splits, ordered = {}, []
        for part in COUNTS:
            splits[part] = read_split(folder, part)
            in_order, in_any_order = digest_folder(folder, part, file_state(folder, part))
            if in_any_order.hex()[:32] != DIGESTS[part]:
                raise ConfigError(
                    f"{part}_images.npy and {part}_labels.npy in {folder} aren't CIFAR-100 as "
                    "published: they were altered, so replace them"
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
        """Return the folder of array files, which is made if there is none."""
        default = os.environ.get("RESNET_SWEEP_DATA") or "~/.cache/resnet_sweep"
        root = Path(default if self.root is None else self.root).expanduser()
        folder, original = root / "cifar100", root / "cifar-100-python"
        if folder.is_dir():
            return folder
        if self.root is not None and not original.is_dir():
            raise ConfigError(
                f"data.root={root} holds neither {folder.name}/ (array files) nor "
                f"{original.name}/ (torchvision's copy): put one there, leave data.root out for a "
                "download, or try experiment=quickstart, which needs no data"
            )
        existed = root.exists()
        try:
            root.mkdir(parents=True, exist_ok=True)
            # Of processes that are started together, one downloads, and the others wait.
            with exclusive(root / ".cifar100.lock"):
                if not folder.is_dir():
                    splits, classes = _read_torchvision(root, download=self.root is None)
                    write_arrays(folder, splits, classes)
        # torchvision raises RuntimeError for a failed download and for a wrong checksum.
        except (OSError, RuntimeError) as error:
            text = str(error).partition(" You can use download=True")[0]
            reason = text.splitlines()[0] if text else type(error).__name__
            if not existed:
                with contextlib.suppress(OSError):
                    root.rmdir()
            if self.root is not None:
                raise ConfigError(
                    f"{original} couldn't be made into array files beside it ({reason}): fix "
                    "that, or put the published files into another data.root"
                ) from error
            raise ConfigError(
                f"CIFAR-100 isn't in {root} and couldn't be downloaded ({reason}): connect to a "
                "network, put cifar-100-python/ (the published archive, unpacked) or cifar100/ "
                f"(array files) into {root}, or try experiment=quickstart, which needs no data"
            ) from error
        return folder


def read_split(folder: Path, part: str) -> Split:
    """Memory-map one part, "train" or "test", of a folder of array files.

    Raises:
        ConfigError: a file is missing, cut off, or has other content than expected.
    """
    images = _map(folder / f"{part}_images.npy", (COUNTS[part], 3, 32, 32))
    labels = _map(folder / f"{part}_labels.npy", (COUNTS[part],))
    if (largest := int(labels.max())) >= CLASSES:
        raise ConfigError(
            f"{folder / f'{part}_labels.npy'} has the label {largest}, but the {CLASSES} classes "
            f"are labelled 0 to {CLASSES - 1}: replace the file"
        )
    return Split.whole(images, labels)


def read_classes(folder: Path) -> list[str]:
    """Return the class names of a folder of array files.

    Raises:
        ConfigError: the file is missing, or doesn't have CLASSES different names.
    """
    path = folder / "classes.txt"
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read ({error}): restore it") from error
    if not len(names) == len(set(names)) == CLASSES:
        raise ConfigError(
            f"{path} has {len(set(names))} different names on {len(names)} lines, but should have "
            f"one for each of the {CLASSES} classes: restore it"
        )
    return names


@lru_cache
def digest_folder(folder: Path, part: str, state: Hashable) -> tuple[bytes, bytes]:
    """Return digests of one part's examples, in their order and in any order.

    They are computed once for each state of the files.
    """
    digests = read_split(folder, part).digests()
    return blake2b(b"".join(digests)).digest(), blake2b(b"".join(sorted(digests))).digest()


def file_state(folder: Path, part: str) -> Hashable:
    """Return sizes, times of change and inodes of one part's files."""
    stats = [(folder / f"{part}_{kind}.npy").stat() for kind in ("images", "labels")]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)


def write_arrays(folder: Path, splits: dict[str, Split], classes: list[str]) -> None:
    """Write a folder of array files atomically, unless another process has made it meanwhile."""
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)
        for part, split in splits.items():
            np.save(unfinished / f"{part}_images.npy", split.images)
            np.save(unfinished / f"{part}_labels.npy", split.labels)
        (unfinished / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _map(path: Path, shape: tuple[int, ...]) -> UInt8Array:
    try:
        # Copy-on-write, because torch warns of read-only arrays.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: restore it") from error
    # NumPy raises errors of many kinds for a damaged header.
    except Exception as error:
        raise ConfigError(f"{path} is cut off or isn't an array file: replace it") from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"{path} is an archive of arrays, not an array file: replace it")
    if array.dtype != np.uint8 or array.shape != shape:
        raise ConfigError(
            f"{path} holds {array.dtype} numbers of shape {array.shape}, but should hold uint8 "
            f"numbers of shape {shape}: replace it"
        )
    return array


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
