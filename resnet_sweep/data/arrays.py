"""Array files: images and labels in NumPy's own format, memory-mapped.

A folder holds `train_images.npy`, `train_labels.npy`, `test_images.npy`, `test_labels.npy` and
`classes.txt` (a name a line). Processes on the same machine share one copy in memory.
"""

import shutil
import tempfile
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from resnet_sweep.data.dataset import Split, UInt8Array
from resnet_sweep.errors import ConfigError

FileState = tuple[tuple[int, int, int], ...]


def read_split(folder: Path, part: str, count: int, classes: int) -> Split:
    """Memory-map one part, "train" or "test", of a folder of array files.

    Raises:
        ConfigError: a file is missing, cut off, or has other content than expected.
    """
    images = _map(folder / f"{part}_images.npy", (count, 3, 32, 32))
    labels = _map(folder / f"{part}_labels.npy", (count,))
    if (largest := int(labels.max())) >= classes:
        raise ConfigError(
            f"{folder / f'{part}_labels.npy'} has the label {largest}, but the {classes} classes "
            f"are labelled 0 to {classes - 1}: replace the file"
        )
    return Split.whole(images, labels)


def read_classes(folder: Path, classes: int) -> list[str]:
    """Return the class names of a folder of array files.

    Raises:
        ConfigError: the file is missing, or doesn't have this many different names.
    """
    path = folder / "classes.txt"
    try:
        names = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read ({error}): restore it") from error
    if not len(names) == len(set(names)) == classes:
        raise ConfigError(
            f"{path} has {len(set(names))} different names on {len(names)} lines, but should have "
            f"one for each of the {classes} classes: restore it"
        )
    return names


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


def digest_examples(split: Split) -> list[bytes]:
    """Return a digest of each image together with its label, in order."""
    return [
        blake2b(image.tobytes() + label.tobytes(), digest_size=16).digest()
        for image, label in zip(split.images, split.labels, strict=True)
    ]


@lru_cache
def digest_folder(folder: Path, part: str, state: FileState) -> tuple[bytes, bytes]:
    """Return digests of one part's examples, in their order and in any order.

    They are computed once for each state of the files.
    """
    split = Split.whole(
        np.load(folder / f"{part}_images.npy", mmap_mode="r"),
        np.load(folder / f"{part}_labels.npy", mmap_mode="r"),
    )
    digests = digest_examples(split)
    return blake2b(b"".join(digests)).digest(), blake2b(b"".join(sorted(digests))).digest()


def file_state(folder: Path, part: str) -> FileState:
    """Return sizes, times of change and inodes of one part's files."""
    stats = [(folder / f"{part}_{kind}.npy").stat() for kind in ("images", "labels")]
    return tuple((stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats)


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
