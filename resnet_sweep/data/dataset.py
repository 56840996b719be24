"""A dataset: its training, validation and test images, and batches of them."""

import warnings
from collections.abc import Iterable, Iterator
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
LabelArray = npt.NDArray[np.integer[Any]]
# Images, (B, C, H, W), and their labels.
Batch = tuple[Tensor, Tensor]
# Images are copied to a GPU in parts of about this many bytes.
COPIED_BYTES = 2**26


@dataclass(frozen=True)
class Split:
    """A subset of an array of images, which isn't copied.

    Attributes:
        images: (N, C, H, W), uint8, gray (C = 1) or RGB (C = 3); may be a memory map.
        labels: (N,), integers from 0.
        indices: (n,), int64, indices of the images that belong to this split, in ascending order.
    """

    images: UInt8Array
    labels: LabelArray
    indices: IndexArray

    @classmethod
    def whole(cls, images: UInt8Array, labels: LabelArray) -> Self:
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

    @property
    def channels(self) -> int:
        """Number of channels of an image: 1 or 3."""
        return self.image_shape[0]


@dataclass(frozen=True)
class Dataset:
    """The images that a run uses.

    Attributes:
        train: training images.
        validation: images on which the model is evaluated after each epoch.
        test: images for `evaluate`; the same as `validation` unless the data has validation images
            of its own, or training images are held out for validation.
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
    def channels(self) -> int:
        """Number of channels of an image: 1 or 3."""
        return self.description.channels

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
        limit_train, limit_test: number of training images and of test images; None for all. If the
            data has validation images of its own, `limit_test` limits them, too.
        holdout: number of training images that are used for validation instead of the test set;
            None for the test set.
    """

    limit_train: Count | None = None
    limit_test: Count | None = None
    holdout: Count | None = None

    def select(
        self,
        train: Split,
        test: Split,
        seed: int,
        validation: Split | None = None,
        **description: Any,
    ) -> Dataset:
        """Return the dataset with subsets of the images.

        Args:
            train, test: all training images and all test images.
            seed: seed of the run.
            validation: all validation images, if the data has some besides the test images.
            description: other attributes of the dataset.

        Raises:
            ConfigError: a subset is larger than the number of images, or training images would be
                held out although the data has validation images.
        """
        if self.limit_test is not None:
            test, _ = test.divide("limit_test", self.limit_test, seed)
            if validation is not None:
                validation, _ = validation.divide("limit_test", self.limit_test, seed)
        if self.holdout is not None:
            if validation is not None:
                raise ConfigError(
                    f"data.holdout={self.holdout} has no use, because the data has validation "
                    "images of its own: choose data.holdout=null"
                )
            validation, train = train.divide("holdout", self.holdout, seed)
            if not len(train):
                raise ConfigError(
                    f"data.holdout={self.holdout} leaves no image for training: choose a smaller "
                    "number"
                )
        if self.limit_train is not None:
            train, _ = train.divide("limit_train", self.limit_train, seed)
        return Dataset(train, test if validation is None else validation, test, **description)


class Batches:
    """Batches of a split's images, as uint8 on the training device.

    On a CPU the images aren't copied in advance. So processes continue to share memory-mapped
    arrays, and images that exceed the memory are read from the file when a batch needs them.

    A GPU gets a copy of all images if they fit. Otherwise, each batch is copied when it is needed,
    and `each` copies the next batch while the GPU computes.

    Args:
        split: the images and labels.
        device: the training device.
        resident: whether the images stay where batches are computed; None to find out what fits.
    """

    def __init__(self, split: Split, device: torch.device, resident: bool | None = None) -> None:
        self.device = device
        with warnings.catch_warnings(action="ignore"):
            # torch warns that an array is read-only. Nothing writes into these tensors.
            images = torch.from_numpy(split.images)
        labels = torch.from_numpy(split.labels.astype(np.int64))
        indices = torch.from_numpy(split.indices)
        size = images[0].numel()
        self.resident = fits(device, size * len(split)) if resident is None else resident
        if self.resident and device.type != "cpu":
            # Copied in parts, because the main memory may be smaller than the GPU's.
            parts = indices.split(max(1, COPIED_BYTES // size))
            copy = torch.empty((len(split), *images.shape[1:]), dtype=torch.uint8, device=device)
            for target, part in zip(copy.split(len(parts[0])), parts, strict=True):
                target.copy_(images[part])
            images, labels = copy, labels[indices].to(device)
            indices = torch.arange(len(split), device=device)
        self.images, self.labels, self.indices = images, labels, indices
        streams = not self.resident and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if streams else None

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: Tensor) -> Batch:
        """Return the images, uint8, and labels, int64, at some positions, (B,), in the split."""
        chosen = self.indices[positions.to(self.indices.device)]
        return self.images[chosen].to(self.device), self.labels[chosen].to(self.device)

    def each(self, positions: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield the result of `take` for each tensor of positions.

        If the images aren't on the GPU, a batch is copied there before the batch ahead of it is
        yielded.
        """
        if self.resident:
            yield from map(self.take, positions)
            return
        ahead = None
        for chosen in positions:
            following = self._send(chosen)
            if ahead is not None:
                yield self._receive(*ahead)
            ahead = following
        if ahead is not None:
            yield self._receive(*ahead)

    def _send(self, positions: Tensor) -> tuple[Batch, torch.cuda.Event | None]:
        """Start to copy a batch to the device; the event marks the end of the copy."""
        if self.stream is None:
            return self.take(positions), None
        chosen = self.indices[positions.to(self.indices.device)]
        with torch.cuda.stream(self.stream):
            # Only a copy from pinned memory lets the CPU continue.
            images = self.images[chosen].pin_memory().to(self.device, non_blocking=True)
            labels = self.labels[chosen].pin_memory().to(self.device, non_blocking=True)
            return (images, labels), self.stream.record_event()

    def _receive(self, batch: Batch, copied: torch.cuda.Event | None) -> Batch:
        """Return a batch that the device computes with only when it is copied."""
        if copied is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(copied)
            for tensor in batch:
                # Otherwise, the memory could be reused for a copy while the batch is still read.
                tensor.record_stream(current)
        return batch


def fits(device: torch.device, size: int) -> bool:
    """Return whether images of `size` bytes take at most half of a GPU's free memory.

    The other half is for the model and for what a step computes. Images on a CPU aren't copied, so
    they always fit.
    """
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return size <= free // 2


def balanced_subset(labels: LabelArray, count: int, seed: int) -> IndexArray:
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
