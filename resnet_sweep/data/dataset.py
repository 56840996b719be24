"""A dataset: its images for training, for validation and for testing."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from resnet_sweep.errors import ConfigError
from resnet_sweep.randomness import derive_seed
from resnet_sweep.ranges import Count

UInt8Array = npt.NDArray[np.uint8]
IndexArray = npt.NDArray[np.int64]
# Images, (B, 3, H, W), and their labels.
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Split:
    """Some of the images of an array, without a copy of them.

    Attributes:
        images: (N, 3, H, W), uint8, RGB; may be a memory map.
        labels: (N,), uint8.
        indices: (n,), int64, ascending: the images of the N that belong to this split.
    """

    images: UInt8Array
    labels: UInt8Array
    indices: IndexArray

    @classmethod
    def whole(cls, images: UInt8Array, labels: UInt8Array) -> Self:
        """Return the split of all images."""
        return cls(images, labels, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.indices)

    def digests(self) -> list[bytes]:
        """Return a digest of each of the N images together with its label, in order."""
        return [
            blake2b(image.tobytes() + label.tobytes(), digest_size=16).digest()
            for image, label in zip(self.images, self.labels, strict=True)
        ]

    def divide(self, setting: str, count: int, seed: int) -> tuple["Split", "Split"]:
        """Return a class-balanced choice of `count` images, and the other images.

        Args:
            setting: name of the setting in `data` that `count` is from.
            count: number of images to choose.
            seed: seed of the run; each setting draws by itself.

        Raises:
            ConfigError: there are fewer images than that.
        """
        if count > len(self):
            raise ConfigError(
                f"data.{setting}={count} is more than the {len(self)} images there are: "
                f"choose a smaller number, or data.{setting}=null"
            )
        labels = self.labels[self.indices]
        chosen = balanced_subset(labels, count, derive_seed(seed, setting))
        rest = np.setdiff1d(np.arange(len(self)), chosen, assume_unique=True)
        return (
            Split(self.images, self.labels, self.indices[chosen]),
            Split(self.images, self.labels, self.indices[rest]),
        )


@dataclass(frozen=True)
class Dataset:
    """The images of a run.

    Attributes:
        train: training images.
        validation: images on which a run is evaluated after each epoch.
        test: images for `evaluate`; the same as `validation` unless training images are held out
            for validation.
        classes: the name of each label.
        mean, std: per channel, of images scaled to 0..1.
        fingerprint: a digest of all images and labels in their order, before any subset.
    """

    train: Split
    validation: Split
    test: Split
    classes: list[str]
    mean: list[float]
    std: list[float]
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """Settings of a dataset: how many of its images a run uses, chosen by the run's seed.

    The choice is class-balanced, and a larger one has all images of a smaller one.

    Attributes:
        limit_train, limit_test: number of training and of test images; None for all.
        holdout: number of training images to validate on instead of the test set.
    """

    limit_train: Count | None = None
    limit_test: Count | None = None
    holdout: Count | None = None

    def select(self, train: Split, test: Split, seed: int, **description: Any) -> Dataset:
        """Return the dataset of chosen images.

        Args:
            train, test: all images.
            seed: seed of the run.
            description: the dataset's other attributes.

        Raises:
            ConfigError: a subset is larger than the images that there are.
        """
        if self.limit_test is not None:
            test, _ = test.divide("limit_test", self.limit_test, seed)
        validation = test
        if self.holdout is not None:
            validation, train = train.divide("holdout", self.holdout, seed)
            if not len(train):
                raise ConfigError(
                    f"data.holdout={self.holdout} leaves no image to train on: choose a smaller "
                    "number"
                )
        if self.limit_train is not None:
            train, _ = train.divide("limit_train", self.limit_train, seed)
        return Dataset(train, validation, test, **description)


class Batches:
    """The images of a split, kept as uint8 on the device that trains.

    On a CPU nothing is copied, so memory-mapped arrays stay shared between processes.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        indices = torch.from_numpy(split.indices)
        images, labels = torch.from_numpy(split.images), torch.from_numpy(split.labels)
        if device.type != "cpu":
            images, labels = images[indices].to(device), labels[indices].to(device)
            indices = torch.arange(len(split), device=device)
        self.images, self.labels, self.indices = images, labels, indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Tensor) -> Batch:
        """Return the images, uint8, and labels, int64, at positions, (B,), of the split."""
        chosen = self.indices[positions]
        return self.images[chosen], self.labels[chosen].long()


def balanced_subset(labels: UInt8Array, count: int, seed: int) -> IndexArray:
    """Return ascending positions of `count` labels, with the classes as equal as possible.

    The images of each class are taken in a random order, one of every class in turn, so the choice
    for a smaller count is part of the choice for a larger one.
    """
    # RandomState and not default_rng: its streams are frozen for all versions of NumPy.
    generator = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    turn = generator.permutation(int(labels.max(initial=0)) + 1)
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    place_in_class = np.concatenate([np.arange(size) for size in sizes])
    order = by_class[np.lexsort((turn[labels[by_class]], place_in_class))]
    return np.sort(order[:count])
