"""Rates and means with intervals, over people where one person has several photos."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # two-sided 95 % of the normal distribution


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured number with its sample size and 95 % interval.

    Attributes:
        value: Point estimate.
        lower: Lower end of the interval.
        upper: Upper end.
        count: Sample size.
    """

    value: float
    lower: float
    upper: float
    count: int


def rate(hits: NDArray[np.bool_], people: NDArray[np.int64] | None = None) -> Estimate:
    """Share of true entries with its Wilson interval; NaN for an empty sample.

    Two photos of one person are no two independent photos. Where people repeat, the interval is that of the effective
    sample size n / deff (Kish, "Survey Sampling", 1965, on the design effect of clusters; Wilson's interval with it is
    that of Franco et al., 2019), with the effect of `design_effect`.

    Args:
        hits: One entry per photo, (n,).
        people: Person of each photo, (n,); None where each shows somebody else.

    Returns:
        The estimate; its count is n.
    """
    n = len(hits)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    share = float(hits.mean())
    size = n / design_effect(hits, people)
    middle = (share + _Z**2 / (2 * size)) / (1 + _Z**2 / size)
    half = _Z / (1 + _Z**2 / size) * math.sqrt(share * (1 - share) / size + _Z**2 / (4 * size**2))
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)), n)


def design_effect(hits: NDArray[np.bool_], people: NDArray[np.int64] | None) -> float:
    """Variance of a share over people divided by the one over as many independent photos.

    Args:
        hits: One entry per photo, (n,), at least one.
        people: Person of each photo, (n,); None where each shows somebody else.

    Returns:
        At least 1, at most the mean number of photos of a person; the latter where all entries are equal, since then
        nothing tells how alike two photos of one person are.
    """
    if people is None:
        return 1.0
    places = np.unique(people, return_inverse=True)[1]
    clusters = int(places.max()) + 1
    most = len(hits) / clusters
    share = float(hits.mean())
    if clusters < 2 or share in (0.0, 1.0):
        return most
    residuals = np.bincount(places, hits - share)
    clustered = clusters / (clusters - 1) * float(np.square(residuals).sum()) / len(hits)
    return min(most, max(1.0, clustered / (share * (1 - share))))


def mean(
    values: NDArray[np.float64],
    rng: np.random.Generator,
    people: NDArray[np.int64] | None = None,
    *,
    resamples: int = 1000,
) -> Estimate:
    """Mean with a percentile bootstrap interval, over people where they repeat.

    Args:
        values: One value per photo, (n,); NaN entries are left out.
        rng: Draws the resamples.
        people: Person of each photo, (n,), all of whose photos are drawn together; None where each shows somebody else.
        resamples: Number of bootstrap resamples.

    Returns:
        The estimate; NaN for an empty sample.
    """
    finite = np.isfinite(values)
    kept = values[finite]
    if len(kept) == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    if people is None:
        means = kept[rng.integers(0, len(kept), (resamples, len(kept)))].mean(1)
    else:
        places = np.unique(people[finite], return_inverse=True)[1]
        sums, counts = np.bincount(places, kept), np.bincount(places)
        drawn = rng.integers(0, len(sums), (resamples, len(sums)))
        means = sums[drawn].sum(1) / counts[drawn].sum(1)
    lower, upper = np.quantile(means, [0.025, 0.975])
    return Estimate(float(kept.mean()), float(lower), float(upper), len(kept))


def difference(first: Estimate, second: Estimate) -> Estimate:
    """First less second, with an interval from the two intervals.

    Source: Newcombe, "Interval estimation for the difference between independent proportions" (Statistics in Medicine,
    1998), method 10. Differs: it is used for two shares of the same faces too; where hits go together, as they do, the
    interval is wider than it need be.

    Args:
        first: An estimate.
        second: Another.

    Returns:
        The difference; its count is the smaller one.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.lower, second.upper - second.value)
    above = math.hypot(first.upper - first.value, second.value - second.lower)
    return Estimate(value, value - below, value + above, min(first.count, second.count))


def ratio(first: Estimate, second: Estimate) -> Estimate:
    """First over second, both positive, with an interval from the two intervals.

    Source: Donner and Zou, "Closed-form confidence intervals for functions of the normal mean and standard deviation"
    (Statistical Methods in Medical Research, 2012), for independent estimates; of the same faces it is wider than need
    be.

    Args:
        first: An estimate.
        second: Another, whose interval lies above zero and reaches less than twice its value.

    Returns:
        The ratio; its count is the smaller one.

    Raises:
        ValueError: The second is not known well enough to divide by it.
    """
    a, b = first.value, second.value
    if not 0 < second.lower <= b <= second.upper < 2 * b:
        raise ValueError(f"cannot divide by {b} within {second.lower} .. {second.upper}")
    low, high = second.upper * (2 * b - second.upper), second.lower * (2 * b - second.lower)
    below = max(0.0, (a * b) ** 2 - first.lower * (2 * a - first.lower) * low)
    above = max(0.0, (a * b) ** 2 - first.upper * (2 * a - first.upper) * high)
    count = min(first.count, second.count)
    return Estimate(a / b, (a * b - math.sqrt(below)) / low, (a * b + math.sqrt(above)) / high, count)


def rank_k(
    probes: NDArray[np.float32], gallery: NDArray[np.float32], truth: NDArray[np.int64], *, k: int = 1
) -> NDArray[np.bool_]:
    """Whether the right gallery entry is among the k nearest of each probe.

    Args:
        probes: Unit embeddings, (n, d).
        gallery: Unit embeddings, (m, d).
        truth: Right gallery row of each probe, (n,).
        k: Entries looked at.

    Returns:
        (n,) booleans.
    """
    return top_scored(probes @ gallery.T, truth, k=k)


def top_scored(scores: NDArray[np.floating], truth: NDArray[np.int64], *, k: int = 1) -> NDArray[np.bool_]:
    """Whether the right column of each row is among its k best.

    Args:
        scores: Probe against gallery, larger is nearer, (n, m).
        truth: Right column of each row, (n,).
        k: Columns looked at.

    Returns:
        (n,) booleans; of equal scores the earlier column is the guess.
    """
    return np.asarray(places_of(scores, truth) < k)


def places_of(scores: NDArray[np.floating], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of the right column of each row among its columns, the best first.

    Args:
        scores: Probe against gallery, larger is nearer, (n, m).
        truth: Right column of each row, (n,).

    Returns:
        (n,), from 0; of equal scores the earlier column comes first.
    """
    right = scores[np.arange(len(truth)), truth]
    earlier = np.arange(scores.shape[1]) < truth[:, None]
    ahead = (scores > right[:, None]) | ((scores == right[:, None]) & earlier)
    return np.asarray(ahead.sum(1), dtype=np.int64)
