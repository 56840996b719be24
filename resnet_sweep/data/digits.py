"""scikit-learn's handwritten digits, enlarged; a dataset that needs no download."""

from functools import cache
from hashlib import blake2b

import numpy as np

from resnet_sweep.data.arrays import digest_examples
from resnet_sweep.data.dataset import Dataset, Split, UInt8Array, balanced_subset
from resnet_sweep.ranges import Count


class Digits:
    """1,797 digits of 8x8 pixels (Alpaydin and Kaynak, 1998), repeated to 3x32x32.

    A fifth of them, 36 of each class, is the test set.

    Args:
        limit_train, limit_test: size of a class-balanced subset, chosen by the run's seed.
        holdout: number of training images to validate on instead of the test set.
    """

    def __init__(
        self,
        limit_train: Count | None = None,
        limit_test: Count | None = None,
        holdout: Count | None = None,
    ) -> None:
        self.selection = {
            "limit_train": limit_train,
            "limit_test": limit_test,
            "holdout": holdout,
        }

    def load(self, seed: int) -> Dataset:
        """Return the dataset, with its subsets chosen by `seed`.

        Raises:
            ConfigError: a subset is larger than the images that there are.
        """
        images, labels, fingerprint = _read()
        test = balanced_subset(labels, 360, seed=0)
        train = np.setdiff1d(np.arange(len(labels)), test)
        pixels = images[train] / 255
        return Dataset.select(
            Split(images, labels, train),
            Split(images, labels, test),
            seed,
            **self.selection,
            classes=[str(digit) for digit in range(10)],
            mean=pixels.mean(axis=(0, 2, 3)).tolist(),
            std=pixels.std(axis=(0, 2, 3)).tolist(),
            fingerprint=fingerprint,
        )


@cache
def _read() -> tuple[UInt8Array, UInt8Array, str]:
    # This import takes a second, and runs on other data don't need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = gray.repeat(4, axis=1).repeat(4, axis=2)
    images = np.ascontiguousarray(np.broadcast_to(large[:, None], (len(large), 3, 32, 32)))
    labels = digits.target.astype(np.uint8)
    examples = digest_examples(Split.whole(images, labels))
    return images, labels, blake2b(b"".join(examples), digest_size=16).hexdigest()
