"""CIFAR-100, from array files, from torchvision's copy, or from its download."""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt

from resnet_sweep.data import arrays
from resnet_sweep.data.dataset import Dataset, Split, Subsets
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
        return self.select(
            splits["train"],
            splits["test"],
            seed,
            classes=arrays.read_classes(folder, CLASSES),
            mean=list(self.mean),
            std=list(self.std),
            fingerprint=blake2b(b"".join(ordered), digest_size=16).hexdigest(),
        )

    def _folder(self) -> Path:
        """Return the folder of array files, which is made if there is none."""
        if self.root is None:
            named = os.environ.get("RESNET_SWEEP_DATA") or "~/.cache/resnet_sweep"
        else:
            named = self.root
        root = Path(named).expanduser()
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
                    arrays.write_arrays(folder, splits, classes)
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
