"""CIFAR-10, SVHN and Fashion-MNIST, read and downloaded by torchvision."""

import contextlib
import gzip
import shutil
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from resnet_sweep.data.array_cache import (
    BLOCK_BYTES,
    Arrays,
    CachedDataset,
    Source,
    cached_arrays,
    file_states,
)
from resnet_sweep.data.array_files import data_folder
from resnet_sweep.data.dataset import LabelArray, UInt8Array
from resnet_sweep.errors import ConfigError, one_line
from resnet_sweep.runs.files import missing_folders, remove_empty
from resnet_sweep.runs.lock import exclusive

# The images and labels of each part.
Parts = Mapping[str, tuple[UInt8Array, LabelArray]]


@dataclass(frozen=True, kw_only=True)
class TorchvisionDataset(CachedDataset):
    """Base class of datasets in files that torchvision can read and download.

    Attributes:
        title: name of the dataset for people.
        key: name of the dataset in the cache.
        files: the dataset's files, relative to `root`, in one folder. Each entry has the names that
            a file may have.
        layout: the files, for people.
        classes: name of each class.
        root: folder that contains the files; None for $RESNET_SWEEP_DATA, or ~/.cache/resnet_sweep
            if that isn't set. Only there, missing files are downloaded.
    """

    title: ClassVar[str]
    key: ClassVar[str]
    files: ClassVar[tuple[tuple[str, ...], ...]]
    layout: ClassVar[str]
    classes: ClassVar[list[str]]

    root: str | None = None

    def arrays(self) -> Arrays:
        """Return the arrays of the dataset."""
        root = data_folder() if self.root is None else Path(self.root).expanduser()
        found = self._find(root)
        # If another process is downloading the data, its last file may be incomplete.
        downloading = self.root is None and self._lock(root).exists()
        if downloading or len(found) < len(self.files):
            self._download(root)
            found = self._find(root)
        states = file_states(root, found)
        return cached_arrays(self.key, root, [states], lambda: self._source(root))

    @abstractmethod
    def read(self, root: Path, download: bool) -> Parts:
        """Read the dataset with torchvision."""

    def _find(self, root: Path) -> list[Path]:
        """Return the first alternative that exists for each file."""
        alternatives = ([root / name for name in names] for names in self.files)
        existing = (
            next((path for path in paths if path.is_file()), None) for paths in alternatives
        )
        return [path for path in existing if path is not None]

    def _lock(self, root: Path) -> Path:
        """Return the file that a process locks while it downloads the data."""
        return root / f".{self.key}.lock"

    def _download(self, root: Path) -> None:
        if self.root is not None:
            raise ConfigError(
                f"data.root={root} doesn't contain {self.title}: put {self.layout} there, leave "
                "data.root out to download the data, or try experiment=quickstart, which needs no "
                "download"
            )
        # torchvision makes the folder of the files before it downloads them.
        created = missing_folders((root / self.files[0][0]).parent)
        try:
            root.mkdir(parents=True, exist_ok=True)
            # If several processes start at once, one downloads, and the others wait.
            with exclusive(self._lock(root)), contextlib.redirect_stdout(sys.stderr):
                if len(self._find(root)) < len(self.files):
                    self._download_whole(root)
        # torchvision raises RuntimeError if the download fails or has a wrong checksum.
        except (OSError, RuntimeError) as error:
            remove_empty(created)
            raise ConfigError(
                f"{self.title} isn't in {root} and couldn't be downloaded ({_reason(error)}): "
                f"connect to a network, put {self.layout} there, or try experiment=quickstart, "
                "which needs no download"
            ) from error

    def _download_whole(self, root: Path) -> None:
        """Download the files into another folder, and move them to `root` when all are complete."""
        prefix = f".{self.key}-download-"
        # A killed process may have left such a folder.
        for leftover in root.glob(f"{prefix}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=root) as folder:
            self.read(Path(folder), download=True)
            for path in sorted(Path(folder).rglob("*")):
                if path.is_file():
                    target = root / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)

    def _source(self, root: Path) -> Source:
        try:
            parts = self.read(root, download=False)
            images = np.concatenate([images for images, _ in parts.values()])
            labels = np.concatenate([labels for _, labels in parts.values()]).astype(np.int64)
            in_range = 0 <= labels.min() <= labels.max() < len(self.classes)
            if len(images) != len(labels) or not in_range:
                raise ValueError("its images and labels don't fit together")
        # A damaged file can raise an error of any type.
        except Exception as error:
            raise ConfigError(
                f"{self.title} in {root} can't be read ({_reason(error)}): replace it with the "
                "published files"
            ) from error
        return Source(
            shape=images.shape[1:],
            labels=labels,
            parts={part: len(images) for part, (images, _) in parts.items()},
            classes=self.classes,
            blocks=blocks(images),
        )


@dataclass(frozen=True, kw_only=True)
class CIFAR10(TorchvisionDataset):
    """50,000 training and 10,000 test images of 10 classes, 3x32x32.

    Krizhevsky, 2009, "Learning Multiple Layers of Features from Tiny Images". The files are
    pickles, which could execute code. So torchvision first compares their MD5 sums with the
    published ones.
    """

    title = "CIFAR-10"
    key = "cifar10"
    files = tuple(
        (f"cifar-10-batches-py/{name}",)
        for name in (
            *(f"data_batch_{number}" for number in range(1, 6)),
            "test_batch",
            "batches.meta",
        )
    )
    layout = "cifar-10-batches-py/ (the published archive, unpacked)"
    classes: ClassVar = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]

    def read(self, root: Path, download: bool) -> Parts:
        """Read the dataset with torchvision."""
        # This import takes seconds, and a run with a cached dataset doesn't need it.
        from torchvision.datasets import CIFAR10

        parts = {}
        for part in ("train", "test"):
            source = CIFAR10(str(root), train=part == "train", download=download)
            parts[part] = source.data.transpose(0, 3, 1, 2), np.array(source.targets)
        return parts


@dataclass(frozen=True, kw_only=True)
class SVHN(TorchvisionDataset):
    """73,257 training and 26,032 test images of digits on houses, 3x32x32.

    Netzer et al., 2011, "Reading Digits in Natural Images with Unsupervised Feature Learning". The
    531,131 extra training images aren't used.
    """

    title = "SVHN"
    key = "svhn"
    files = (("train_32x32.mat",), ("test_32x32.mat",))
    layout = "the published train_32x32.mat and test_32x32.mat"
    classes: ClassVar = [str(digit) for digit in range(10)]

    def read(self, root: Path, download: bool) -> Parts:
        """Read the dataset with torchvision."""
        from torchvision.datasets import SVHN

        sources = {part: SVHN(str(root), part, download=download) for part in ("train", "test")}
        return {part: (source.data, source.labels) for part, source in sources.items()}


@dataclass(frozen=True, kw_only=True)
class FashionMNIST(TorchvisionDataset):
    """60,000 training and 10,000 test images of 10 kinds of clothes, 1x28x28.

    Xiao et al., 2017, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms". The files may be compressed.
    """

    title = "Fashion-MNIST"
    key = "fashion_mnist"
    files = tuple(
        (f"FashionMNIST/raw/{name}.gz", f"FashionMNIST/raw/{name}")
        for part in ("train", "t10k")
        for name in (f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte")
    )
    layout = "FashionMNIST/raw/ with the four published files (train-images-idx3-ubyte.gz, ...)"
    classes: ClassVar = [
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ]

    def read(self, root: Path, download: bool) -> Parts:
        """Read the dataset with torchvision."""
        from torchvision.datasets import FashionMNIST

        if download:
            FashionMNIST(str(root), download=True)
        # torchvision reads uncompressed files only, and the dataset's folder may be read-only.
        with tempfile.TemporaryDirectory() as folder:
            unpacked = Path(folder, "FashionMNIST", "raw")
            unpacked.mkdir(parents=True)
            for path in self._find(root):
                content = path.read_bytes()
                if path.suffix == ".gz":
                    content = gzip.decompress(content)
                (unpacked / path.name.removesuffix(".gz")).write_bytes(content)
            sources = {part: FashionMNIST(folder, part == "train") for part in ("train", "test")}
        return {
            part: (source.data.numpy()[:, None], source.targets.numpy())
            for part, source in sources.items()
        }


def blocks(images: UInt8Array) -> Iterable[UInt8Array]:
    """Return an array of images, (N, C, H, W), in blocks."""
    count = max(1, BLOCK_BYTES // images[0].size)
    return (images[first : first + count] for first in range(0, len(images), count))


def _reason(error: Exception) -> str:
    return one_line(str(error).partition(" You can use download=True")[0] or type(error).__name__)
