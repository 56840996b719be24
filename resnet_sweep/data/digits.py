"""scikit-learn's handwritten digits: a dataset that needs no download."""

from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Literal

import numpy as np

from resnet_sweep.data.dataset import Dataset, Split, Subsets, UInt8Array, balanced_subset


@dataclass(frozen=True)
class Digits(Subsets):
    """1,797 handwritten digits of 8x8 pixels, enlarged by repeating each pixel.

    Alpaydin and Kaynak, 1998, "Optical Recognition of Handwritten Digits". The test set is a fifth
    of them, 36 images of each class.

    Attributes:
        size: height and width of the enlarged images, which have 3 channels.
        others: as in `Subsets`.
    """

    size: Literal[8, 16, 32, 64] = 32

    def load(self, seed: int) -> Dataset:
        """Return the dataset with the subsets that `seed` chooses.

        Raises:
            ConfigError: a subset is larger than the number of images.
        """
        images, labels, fingerprint = _read(self.size)
        test = balanced_subset(labels, 360, seed=0)
        train = np.setdiff1d(np.arange(len(labels)), test)
        pixels = images[train] / 255
        return self.select(
            Split(images, labels, train),
            Split(images, labels, test),
            seed,
            classes=[str(digit) for digit in range(10)],
            mean=pixels.mean(axis=(0, 2, 3)).tolist(),
            std=pixels.std(axis=(0, 2, 3)).tolist(),
            fingerprint=fingerprint,
        )


@cache
def _read(size: int) -> tuple[UInt8Array, UInt8Array, str]:
    # This import takes a second, and runs on other data don't need it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    gray = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = gray.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
    images = np.ascontiguousarray(np.broadcast_to(large[:, None], (len(large), 3, size, size)))
    labels = digits.target.astype(np.uint8)
    examples = Split.whole(images, labels).digests()
    return images, labels, blake2b(b"".join(examples), digest_size=16).hexdigest()
