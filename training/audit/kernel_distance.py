"""Kernel distance between two sets of pictures: do released faces look like photos as a whole (U7)?

    KID = E k(x, x') + E k(y, y') - 2 E k(x, y),   k(a, b) = (a . b / d + 1)^3

Source: Binkowski et al., "Demystifying MMD GANs" (ICLR 2018), unbiased estimator, cubic kernel.
Differs: the features are those of the search index's EfficientNet-lite0, scaled to norm sqrt(d), and not Inception's,
so that values compare with each other and with no published ones. The i-th picture of one set may show the same person
as the i-th of the other: such pairs are left out of the cross term too, which keeps the estimate unbiased.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.audit.statistics import Estimate

Features = NDArray[np.float64]

SUBSETS = 100
"""Halves of the pictures whose spread is the interval."""


def kernel_distance(first: Features, second: Features, rng: np.random.Generator, *, subsets: int = SUBSETS) -> Estimate:
    """Estimate the squared maximum mean discrepancy of two sets of features.

    Args:
        first: Unit features, (n, d).
        second: As many of the other set, (n, d).
        rng: Draws the subsets.
        subsets: Number of subsets of half the pictures.

    Returns:
        The estimate over all pictures, which may be negative, and the middle 95 % of the values of halves drawn without
        replacement, which vary about as much as the whole does (the delete-half jackknife of Shao and Wu, 1989). NaN
        below two pictures.

    Raises:
        ValueError: The sets are not of one size.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected sets of one size, got {first.shape} and {second.shape}")
    n = len(first)
    if n < 2:
        return Estimate(np.nan, np.nan, np.nan, n)
    terms = _kernel(first, first) + _kernel(second, second) - _kernel(first, second) - _kernel(second, first)
    size = max(2, n // 2)
    drawn = [_off_diagonal_mean(terms, rng.permutation(n)[:size]) for _ in range(subsets)]
    lower, upper = np.quantile(drawn, [0.025, 0.975])
    return Estimate(_off_diagonal_mean(terms, np.arange(n)), float(lower), float(upper), n)


def _kernel(a: Features, b: Features) -> Features:
    """The cubic kernel of features scaled to norm sqrt(d), so that the product over d is the cosine."""
    return np.asarray((a @ b.T + 1.0) ** 3)


def _off_diagonal_mean(terms: Features, rows: NDArray[np.int64]) -> float:
    part = terms[np.ix_(rows, rows)]
    return float((part.sum() - np.trace(part)) / (len(rows) * (len(rows) - 1)))
