"""Which factor a code tells: shares of its variance in a balanced factorial set, and how its numbers keep them apart.

In a set with every combination of the levels once, the sums of squares of main effects and of interactions add up to
the total (R. Fisher, "Statistical Methods for Research Workers", 1925): the effect of a set of factors is the mean over
all others, less the effects of its parts. A code without any factor in it still gives an effect of f degrees of freedom
the share f / (n - 1), so that shares are told beside that chance.

Disentanglement and completeness are those of C. Eastwood and C. Williams, "A framework for the quantitative evaluation
of disentangled representations", 2018. Differs: the importance of a factor for a number is its share of the variance,
not a weight of a fitted regression. Both depend on the basis of the code, shares do not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FactorShares:
    """Shares of the variance of a code.

    Attributes:
        main: Share of each factor alone, in the order of the axes.
        standard_errors: Their jackknife errors over the levels of the first factor; nan with two levels.
        chance: Share that a code without any factor would give.
        pairs: Share of all interactions of two factors together.
        rest: Share of all higher interactions; with the others it adds up to 1.
        disentanglement: In [0, 1]: 1 where every number of the code moves with one factor alone.
        completeness: In [0, 1], mean over factors: 1 where each moves one number alone.
    """

    main: tuple[float, ...]
    standard_errors: tuple[float, ...]
    chance: tuple[float, ...]
    pairs: float
    rest: float
    disentanglement: float
    completeness: float


def factor_shares(codes: Array) -> FactorShares:
    """Divide the variance of codes among the factors of a balanced set.

    Args:
        codes: One axis for each factor, at least two, and the numbers of the code in the last one: (l_1, ..., l_k, d).

    Returns:
        The shares.

    Raises:
        ValueError: There is one factor, a factor has one level, a number is not finite, or nothing varies.
    """
    codes = np.asarray(codes, dtype=np.float64)
    levels = codes.shape[:-1]
    if len(levels) < 2 or min(levels) < 2:
        raise ValueError(f"expected at least two factors of at least two levels, got {levels}")
    if not np.isfinite(codes).all():
        raise ValueError("the codes must be finite")
    if np.isclose(codes, codes.reshape(-1, codes.shape[-1])[0], rtol=1e-12, atol=0.0).all():
        raise ValueError("the codes do not vary")
    by_number = effect_sums(codes, 1)  # (k, d)
    total = _total(codes)
    pairs = effect_sums(codes, 2).sum()
    main = by_number.sum(1) / total
    without = [
        effect_sums(part, 1).sum(1) / _total(part)
        for part in (np.delete(codes, level, axis=0) for level in range(levels[0]))
        if levels[0] > 2
    ]
    return FactorShares(
        tuple(main.tolist()),
        tuple(_jackknife(without).tolist()) if without else (math.nan,) * len(levels),
        tuple((count - 1) / (math.prod(levels) - 1) for count in levels),
        float(pairs / total),
        float(1 - main.sum() - pairs / total),
        *_kept_apart(by_number),
    )


def effect_sums(codes: Array, order: int) -> Array:
    """Sums of squares of all effects of one order.

    Args:
        codes: (l_1, ..., l_k, d).
        order: Factors of an effect: 1 for main effects, 2 for interactions of two.

    Returns:
        One row for each set of that many factors, in lexical order, (c, d).
    """
    factors = codes.ndim - 1
    return np.stack([_effect(codes, chosen) for chosen in itertools.combinations(range(factors), order)])


def _effect(codes: Array, chosen: Sequence[int]) -> Array:
    """Sum of squares of the effect of a set of factors in each number, (d,)."""
    effect = np.zeros_like(codes)
    for size in range(len(chosen) + 1):
        for part in itertools.combinations(chosen, size):
            others = tuple(axis for axis in range(codes.ndim - 1) if axis not in part)
            effect += (-1) ** (len(chosen) - size) * codes.mean(axis=others, keepdims=True)
    return np.asarray(np.square(effect).sum(axis=tuple(range(codes.ndim - 1))))


def _total(codes: Array) -> float:
    rows = codes.reshape(-1, codes.shape[-1])
    return float(np.square(rows - rows.mean(0)).sum())


def _jackknife(estimates: Sequence[Array]) -> Array:
    table = np.stack(estimates)
    return np.asarray(np.sqrt((len(table) - 1) * table.var(axis=0)))


def _kept_apart(by_number: Array) -> tuple[float, float]:
    """Disentanglement and completeness of the importances (k, d)."""
    factors, numbers = by_number.shape
    weights = by_number.sum(0) / by_number.sum()
    apart = 1 - _entropy(by_number / by_number.sum(0).clip(1e-300)) / math.log(factors)
    complete = 1.0
    if numbers > 1:
        complete = float((1 - _entropy((by_number / by_number.sum(1, keepdims=True)).T) / math.log(numbers)).mean())
    return float((weights * apart).sum()), complete


def _entropy(shares: Array) -> Array:
    """Entropy over the first axis, nats."""
    return np.asarray(-(shares * np.log(shares.clip(1e-300))).sum(0))
