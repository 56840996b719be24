"""A dataset: its training, validation and test images, and batches of them."""

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
    """A subset of an array of images, which isn't copied.

    Attributes:
        images: (N, 3, H, W), uint8, RGB; may be a memory map.
        labels: (N,), uint8.
        indices: (n,), int64, indices of the images that belong to this split, in ascending order.
    """

    images: UInt8Array
    labels: UInt8Array
    indices: IndexArray

    @classmethod
    def whole(cls, images: UInt8Array, labels: UInt8Array) -> Self:
        """Return the split that contains all images."""
        return cls(images, labels, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.indices)

    def digests(self) -> list[bytes]:
        """Return a digest of each of the N images with its label, in order."""
        return [
            blake2b(image.tobytes() + label.tobytes(), digest_size=16).digest()
            for image, label in zip(self.images, self.labels, strict=True)
        ]

    def divide(self, setting: str, count: int, seed: int) -> tuple["Split", "Split"]:
        """Return a random, class-balanced subset of `count` images, and the other images.

        Args:
            setting: name of the setting of `data` that has the value `count`.
            count: number of images to choose.
            seed: seed of the run; the subsets of different settings are independent.

        Raises:
            ConfigError: `count` is larger than the number of images.
        """
        if count > len(self):
            raise ConfigError(
                f"data.{setting}={count} is larger than the number of images, {len(self)}: "
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
class DataDescription:
    """What a network needs to know about the images that it was trained on.

    Attributes:
        classes: name of each class, by its label.
        mean, std: mean and standard deviation per channel, of images scaled to 0..1.
        image_shape: channels, height and width of an image.
    """

    classes: list[str]
    mean: list[float]
    std: list[float]
    image_shape: list[int]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)


@dataclass(frozen=True)
class Dataset:
    """The images that a run uses.

    Attributes:
        train: training images.
        validation: images on which the model is evaluated after each epoch.
        test: images for `evaluate`; the same as `validation` unless training images are held out
            for validation.
        classes: name of each class, by its label.
        mean, std: mean and standard deviation per channel, of images scaled to 0..1.
        fingerprint: digest of all images and labels in their order, including those that no subset
            contains.
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

    @property
    def description(self) -> DataDescription:
        """What a network needs to know about these images."""
        shape = [*self.train.images.shape[1:]]
        return DataDescription(self.classes, self.mean, self.std, shape)


@dataclass(frozen=True, kw_only=True)
class Subsets:
    """Settings that limit the number of images that a run uses.

    The run's seed chooses the images. Subsets are class-balanced, and a larger subset contains all
    images of a smaller one.

    Attributes:
        limit_train, limit_test: number of training images and of test images; None for all.
        holdout: number of training images that are used for validation instead of the test set;
            None for the test set.
    """

    limit_train: Count | None = None
    limit_test: Count | None = None
    holdout: Count | None = None

    def select(self, train: Split, test: Split, seed: int, **description: Any) -> Dataset:
        """Return the dataset with subsets of the images.

        Args:
            train, test: all training images and all test images.
            seed: seed of the run.
            description: other attributes of the dataset.

        Raises:
            ConfigError: a subset is larger than the number of images.
        """
        if self.limit_test is not None:
            test, _ = test.divide("limit_test", self.limit_test, seed)
        validation = test
        if self.holdout is not None:
            validation, train = train.divide("holdout", self.holdout, seed)
            if not len(train):
                raise ConfigError(
                    f"data.holdout={self.holdout} leaves no image for training: choose a smaller "
                    "number"
                )
        if self.limit_train is not None:
            train, _ = train.divide("limit_train", self.limit_train, seed)
        return Dataset(train, validation, test, **description)


class Batches:
    """The images of a split, as uint8 on the training device.

    On a CPU the images aren't copied, so processes continue to share memory-mapped arrays.
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
        """Return the images, uint8, and labels, int64, at some positions, (B,), in the split."""
        chosen = self.indices[positions]
        return self.images[chosen], self.labels[chosen].long()


def balanced_subset(labels: UInt8Array, count: int, seed: int) -> IndexArray:
    """Return random positions of `count` labels, ascending, balanced between the classes.

    Images are drawn in rounds, one image of each class per round. So the positions for a smaller
    count are among those for a larger one.
    """
    # RandomState is used because its streams are the same in all versions of NumPy.
    generator = np.random.RandomState([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    class_order = generator.permutation(int(labels.max(initial=0)) + 1)
    shuffled = generator.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.bincount(labels)
    rounds = np.concatenate([np.arange(size) for size in sizes])
    order = by_class[np.lexsort((class_order[labels[by_class]], rounds))]
    return np.sort(order[:count])
