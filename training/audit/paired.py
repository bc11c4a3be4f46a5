"""Two treatments of the same photos: what each measures, and the difference with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.audit.statistics import Estimate, mean

Outcome = Literal["better", "worse", "open"]


@dataclass(frozen=True, slots=True)
class Paired:
    """A measure under two treatments.

    Attributes:
        without: Its mean under the first treatment.
        with_: Its mean under the second.
        difference: Second minus first, with the interval of the mean difference over photos.
    """

    without: float
    with_: float
    difference: Estimate

    def outcome(self, direction: int) -> Outcome:
        """Say whether the second treatment is better.

        Args:
            direction: 1 where more is better, -1 where less is, 0 where neither is.

        Returns:
            `better` or `worse` where the interval leaves zero out, else `open`; one photo has no interval.
        """
        if direction and self.difference.count > 1 and (self.difference.lower > 0 or self.difference.upper < 0):
            return "better" if direction * self.difference.value > 0 else "worse"
        return "open"


def paired(without: NDArray[np.float64], with_: NDArray[np.float64], rng: np.random.Generator) -> Paired:
    """Compare two treatments on the photos that both could be measured on.

    Args:
        without: One value per photo, (n,); NaN where the photo could not be measured.
        with_: The same photos under the other treatment, (n,).
        rng: Draws the resamples.

    Returns:
        The comparison; NaN where no photo was measured under both.

    Raises:
        ValueError: The numbers of photos differ.
    """
    if without.shape != with_.shape:
        raise ValueError(f"expected the same photos twice, got {without.shape} and {with_.shape}")
    both = np.isfinite(without) & np.isfinite(with_)
    if not both.any():
        return Paired(np.nan, np.nan, Estimate(np.nan, np.nan, np.nan, 0))
    first, second = without[both], with_[both]
    return Paired(float(first.mean()), float(second.mean()), mean(second - first, rng))
