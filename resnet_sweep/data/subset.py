"""The choice of some images among many."""

import numpy as np


def balanced_subset(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Positions of `count` of the labels, as equally many of each class as there can be.

    The images of each class are taken in a random order, one of every class in turn, so that
    the choice for a smaller count is part of the choice for a larger one.

    Args:
        labels: (N,), integers.
        count: at most N.
        seed: any non-negative integer.

    Returns:
        (count,), int64, ascending.
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
