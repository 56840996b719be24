"""Paired t statistics of several variants that share their estimates of the noise."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Floats = NDArray[np.float64]

# With fewer variants, or fewer seeds of a variant, the variances can't be compared with each other.
MIN_VARIANTS = 3
MIN_SEEDS = 3
# The pooled variance has at most this many times the weight of a group's own variance.
MAX_WEIGHT = 4
# The probability that a group whose noise is like that of the others counts as unlike them.
UNLIKE = 0.2
# Singular values below this part of the largest one are rounding errors.
TOLERANCE = 1e-9


class ModeratedDifferences(NamedTuple):
    """The differences of variants from a baseline; arrays with an element for each variant.

    Attributes:
        standard_error: estimated standard deviation of the mean difference.
        freedom: degrees of freedom of `standard_error`.
        moderated: whether the pooled variance was used for the variant and for the baseline.
    """

    standard_error: Floats
    freedom: Floats
    moderated: NDArray[np.bool_]


def moderate(values: Floats) -> ModeratedDifferences:
    """Estimate how precise the mean differences of variants from their baseline are.

    The values are modelled as the sum of an effect of the group, an effect of the seed, and noise,
    whose variance may differ from group to group. The effects are fitted by least squares. The
    residuals of a group give its own variance, and all residuals give a pooled variance. As in
    Smyth (2004), "Linear models and empirical Bayes methods for assessing differential expression
    in microarray experiments", the variance of a group is a weighted mean of both. In contrast to
    that paper, the weight is fixed, because there are too few groups to estimate it:

    - The pooled variance has min(MAX_WEIGHT, variants - 2) times the weight of the own variance.
    - The weighted mean isn't used if the own variance is larger.
    - The pooled variance isn't used for a group whose own variance is larger than that of the other
      groups in an F test with the level UNLIKE.

    The variance of a difference is the sum of the variances of its two groups. Its degrees of
    freedom are Satterthwaite's (1946), and at most those of the more precise group.
    `benchmarks/intervals.py` measures the error rates of this rule.

    Args:
        values: groups x seeds; the first group is the baseline. A missing value is nan. There are
            at least MIN_VARIANTS variants. Each has MIN_SEEDS seeds in common with the baseline.
    """
    known = ~np.isnan(values)
    seeds = np.count_nonzero(known[1:] & known[0], axis=1)
    own, freedom = _residual_variances(values, known)
    total, squares = freedom.sum(), own * freedom
    pooled, others = squares.sum() / total, (squares.sum() - squares) / (total - freedom)
    unlike = own > fdtri(freedom, total - freedom, 1 - UNLIKE) * others
    weight = min(MAX_WEIGHT, len(seeds) - 2)
    variance = np.where(unlike, own, np.maximum(own, (own + weight * pooled) / (1 + weight)))
    own_freedom = np.array([known[0].sum() - 1, *(seeds - 1)])
    group_freedom = np.where(unlike, own_freedom, (1 + weight) * own_freedom)
    parts = variance**2 / group_freedom
    sums = variance[1:] + variance[0]
    # All variances are 0 if the values are equal.
    welch = np.divide(sums**2, parts[1:] + parts[0], out=np.ones(len(sums)), where=sums > 0)
    largest = np.minimum(np.maximum(group_freedom[1:], group_freedom[0]), total)
    return ModeratedDifferences(
        standard_error=np.sqrt(sums / seeds),
        freedom=np.minimum(welch, largest),
        moderated=~(unlike[1:] | unlike[0]),
    )


def _residual_variances(values: Floats, known: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the variance of each group around additive effects of group and seed.

    Returns:
        The variances, and their degrees of freedom, which aren't integers.
    """
    counts = known.sum(axis=1)
    groups, seeds = known.nonzero()
    observed = values[known]
    observed = observed - (np.bincount(groups, observed) / counts)[groups]
    # Indicators of the seeds, with the mean of each group subtracted.
    design = np.zeros((len(observed), values.shape[1]))
    design[np.arange(len(observed)), seeds] = 1
    design -= (known / counts[:, None])[groups]
    left, singular, _ = np.linalg.svd(design, full_matrices=False)
    basis = left[:, singular > TOLERANCE * singular[0]]
    residuals = observed - basis @ (basis.T @ observed)
    # The leverages add up to the number of fitted effects.
    leverages = 1 / counts[groups] + (basis**2).sum(axis=1)
    freedom = np.bincount(groups, 1 - leverages).astype(np.float64)
    return np.bincount(groups, residuals**2) / freedom, freedom
