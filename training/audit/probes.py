"""Photos under attack, their people, and galleries with one photo per person.

The photos of an audit stand in halves: the first photo of every person, then, where both are anonymized, the second
photo of every person in the same order. A gallery is laid out alike, and a probe is compared with its own half alone,
so that every gallery holds one photo of each person; hits are pooled over the halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.audit.statistics import Estimate, mean, rate, top_scored

Codes = NDArray[np.float32]
Scores = NDArray[np.floating]
Score = Callable[[Codes, Codes], Scores]
"""Probes (n, d) and gallery (m, e) to scores (n, m), larger is nearer."""


def cosines(probes: Codes, gallery: Codes) -> Scores:
    """Compare unit embeddings (n, d) and (m, d) by their cosine, (n, m)."""
    return np.asarray(probes @ gallery.T)


@dataclass(frozen=True, slots=True)
class Probes:
    """Which of the photos are probes.

    Attributes:
        places: Place of each probe among the photos, (n,).
        gallery: Number of people, each with one photo in a gallery.
    """

    places: NDArray[np.int64]
    gallery: int

    def __len__(self) -> int:
        return len(self.places)

    @property
    def people(self) -> NDArray[np.int64]:
        """Person of each probe, which is its row in the gallery of its half, (n,)."""
        return self.places % self.gallery

    def scores(self, shown: Codes, gallery: Codes, score: Score = cosines) -> NDArray[np.float64]:
        """Compare every probe with the gallery of its half.

        Args:
            shown: What is seen of the probes, (n, d).
            gallery: One row for each photo, (h * m, e), for h halves of m people.
            score: How the two are compared.

        Returns:
            Scores, (n, m).

        Raises:
            ValueError: The gallery does not hold a row for every person of every half.
        """
        halves = self.places // self.gallery
        if len(gallery) % self.gallery or (len(halves) and (halves.max() + 1) * self.gallery > len(gallery)):
            raise ValueError(f"a gallery of {self.gallery} people cannot have {len(gallery)} rows")
        found = np.zeros((len(self), self.gallery))
        for half in np.unique(halves):
            mine = halves == half
            found[mine] = score(shown[mine], gallery[half * self.gallery : (half + 1) * self.gallery])
        return found

    def found(self, shown: Codes, gallery: Codes, score: Score = cosines, *, k: int = 1) -> Estimate:
        """Estimate how often the right person is among the k best of the gallery; arguments as for `scores`."""
        return self.rate(top_scored(self.scores(shown, gallery, score), self.people, k=k))

    def rate(self, hits: NDArray[np.bool_]) -> Estimate:
        """Share of probes (n,) with an interval over people."""
        return rate(hits, self.people)

    def mean(self, values: NDArray[np.float64], rng: np.random.Generator) -> Estimate:
        """Mean over probes (n,), NaN left out, with an interval over people."""
        return mean(values, rng, self.people)

    def couples(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the probes of people both of whose photos are probes: first photos, and second photos."""
        row = {int(place): index for index, place in enumerate(self.places)}
        pairs = [(row[p], row[p + self.gallery]) for p in sorted(row) if p < self.gallery and p + self.gallery in row]
        first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
        return first, second
