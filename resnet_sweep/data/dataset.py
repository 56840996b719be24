"""A dataset: what is trained on, what is validated on, and what is kept for the end."""

from dataclasses import dataclass

import numpy as np

from resnet_sweep.data.subset import balanced_subset
from resnet_sweep.errors import RequestError
from resnet_sweep.randomness import derive_seed


@dataclass(frozen=True)
class Split:
    """Some of the images of an array, without copying them.

    Attributes:
        images: (N, 3, H, W), uint8, RGB; may be a memory map.
        labels: (N,), uint8.
        indices: (n,), int64, ascending: the images of the N that belong to this split.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    @classmethod
    def whole(cls, images: np.ndarray, labels: np.ndarray) -> "Split":
        """The split of all images."""
        return cls(images, labels, np.arange(len(images)))

    def __len__(self) -> int:
        return len(self.indices)

    def divide(self, count: int, seed: int, setting: str) -> tuple["Split", "Split"]:
        """A class-balanced, seeded choice of `count` images, and the rest.

        Raises:
            RequestError: there are fewer images than that; `setting` is the name of the setting
                to blame.
        """
        if count > len(self):
            raise RequestError(
                f"{setting}={count} is more than the {len(self)} images there are: "
                f"choose a smaller number, or {setting}=null"
            )
        chosen = balanced_subset(self.labels[self.indices], count, seed)
        rest = np.setdiff1d(np.arange(len(self)), chosen, assume_unique=True)
        return tuple(Split(self.images, self.labels, self.indices[part]) for part in (chosen, rest))


@dataclass(frozen=True)
class Dataset:
    """What a run sees.

    Attributes:
        train: the images to train on.
        validation: the images that a run is judged by after each epoch.
        test: the images for `evaluate`; the same as `validation` unless some training images
            are held out for that.
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
        """How many classes there are."""
        return len(self.classes)

    @classmethod
    def select(
        cls,
        train: Split,
        test: Split,
        seed: int,
        limit_train: int | None,
        limit_test: int | None,
        holdout: int | None,
        **description: object,
    ) -> "Dataset":
        """A dataset of class-balanced parts of `train` and `test`, which `seed` chooses.

        A larger limit chooses all that a smaller one chooses, and more.

        Raises:
            RequestError: a part is larger than what there is.
        """
        if limit_test is not None:
            test, _ = test.divide(limit_test, derive_seed(seed, "limit_test"), "data.limit_test")
        validation = test
        if holdout is not None:
            validation, train = train.divide(holdout, derive_seed(seed, "holdout"), "data.holdout")
            if not len(train):
                raise RequestError(
                    f"data.holdout={holdout} leaves no image to train on: choose a smaller number"
                )
        if limit_train is not None:
            train, _ = train.divide(
                limit_train, derive_seed(seed, "limit_train"), "data.limit_train"
            )
        return cls(train, validation, test, **description)
