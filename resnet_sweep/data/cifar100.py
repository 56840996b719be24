"""CIFAR-100, from array files, from torchvision's copy, or from its download."""

import contextlib
import os
import sys
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt

from resnet_sweep.data import arrays
from resnet_sweep.data.dataset import Dataset, Split
from resnet_sweep.errors import ConfigError
from resnet_sweep.ranges import Count
from resnet_sweep.runs.lock import exclusive

COUNTS = {"train": 50_000, "test": 10_000}
CLASSES = 100
# Of the published images and labels, in whatever order they come.
DIGESTS = {
    "train": "ace8bf041bf05e0a76933484ca47d0cd",
    "test": "e7dfbebcbaea52d210b1f02da2f677e7",
}


class CIFAR100:
    """50,000 training and 10,000 test images of 100 classes, 3x32x32 (Krizhevsky, 2009).

    They are looked for in this order: array files in `root`/cifar100, torchvision's copy in
    `root`/cifar-100-python, and, in the default root only, torchvision's verified download.
    Whatever the source, array files are made of it once.

    Args:
        root: the folder; None for the default, which is $RESNET_SWEEP_DATA or else
            ~/.cache/resnet_sweep.
        mean, std: for each channel of images scaled to 0..1.
        limit_train, limit_test: size of a class-balanced subset, chosen by the run's seed.
        holdout: how many training images to validate on instead of the test set.
    """

    def __init__(
        self,
        root: str | None = None,
        mean: Sequence[float] = (0.5071, 0.4867, 0.4408),
        std: Sequence[Annotated[float, Gt(0)]] = (0.2675, 0.2565, 0.2761),
        limit_train: Count | None = None,
        limit_test: Count | None = None,
        holdout: Count | None = None,
    ) -> None:
        if not len(mean) == len(std) == 3:
            raise ValueError(f"mean={list(mean)} and std={list(std)} must have three entries each")
        self.default = root is None
        self.root = default_root() if root is None else Path(root).expanduser()
        self.mean, self.std = list(mean), list(std)
        self.selection = {
            "limit_train": limit_train,
            "limit_test": limit_test,
            "holdout": holdout,
        }

    def load(self, seed: int) -> Dataset:
        """The dataset, checked, with its subsets chosen by `seed`.

        Raises:
            ConfigError: it isn't there and can't be had, or isn't CIFAR-100 as published.
        """
        folder = self._folder()
        splits, ordered = {}, []
        for part, count in COUNTS.items():
            splits[part] = arrays.read_split(folder, part, count, CLASSES)
            state = arrays.file_state(folder, part)
            in_order, in_any_order = arrays.digest_folder(folder, part, state)
            if in_any_order.hex()[:32] != DIGESTS[part]:
                raise ConfigError(
                    f"{part}_images.npy and {part}_labels.npy in {folder} aren't CIFAR-100 as "
                    "published: they were altered, so replace them"
                )
            ordered.append(in_order)
        return Dataset.select(
            splits["train"],
            splits["test"],
            seed,
            **self.selection,
            classes=arrays.read_classes(folder, CLASSES),
            mean=self.mean,
            std=self.std,
            fingerprint=blake2b(b"".join(ordered), digest_size=16).hexdigest(),
        )

    def _folder(self) -> Path:
        """The folder of array files, made if need be."""
        folder = self.root / "cifar100"
        if folder.is_dir():
            return folder
        original = self.root / "cifar-100-python"
        if not original.is_dir() and not self.default:
            raise ConfigError(
                f"data.root={self.root} holds neither {folder.name}/ (array files) nor "
                f"{original.name}/ (torchvision's copy): put one there, leave data.root out for a "
                "download, or try experiment=quickstart, which needs no data"
            )
        existed = self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            # Of processes that are started together, one downloads, and the others wait.
            with exclusive(self.root / ".cifar100.lock"):
                if not folder.is_dir():
                    splits, classes = _read_torchvision(self.root, download=self.default)
                    arrays.write_arrays(folder, splits, classes)
        # torchvision raises RuntimeError for a failed download and for a wrong checksum.
        except (OSError, RuntimeError) as error:
            text = str(error).partition(" You can use download=True")[0]
            reason = text.splitlines()[0] if text else type(error).__name__
            if not existed:
                with contextlib.suppress(OSError):
                    self.root.rmdir()
            if not self.default:
                raise ConfigError(
                    f"{original} couldn't be made into array files beside it ({reason}): fix "
                    "that, or put the published files into another data.root"
                ) from error
            raise ConfigError(
                f"CIFAR-100 isn't in {self.root} and couldn't be had ({reason}): with a network "
                "it is downloaded there; without one, put cifar-100-python/ (the published "
                f"archive, unpacked) or cifar100/ (array files) into {self.root}, or try "
                "experiment=quickstart, which needs no data"
            ) from error
        return folder


def default_root() -> Path:
    """$RESNET_SWEEP_DATA, or else a folder for caches."""
    return Path(os.environ.get("RESNET_SWEEP_DATA") or "~/.cache/resnet_sweep").expanduser()


def _read_torchvision(root: Path, download: bool) -> tuple[dict[str, Split], list[str]]:
    # Imported here because it takes seconds that a run with array files needn't wait.
    from torchvision import datasets

    splits = {}
    for part in COUNTS:
        with contextlib.redirect_stdout(sys.stderr):
            source = datasets.CIFAR100(str(root), train=part == "train", download=download)
        images = np.ascontiguousarray(source.data.transpose(0, 3, 1, 2))
        splits[part] = Split.whole(images, np.array(source.targets, dtype=np.uint8))
    return splits, list(source.classes)
