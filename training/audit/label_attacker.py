"""An attacker who trains a recognizer on released faces with the names of the people (A2).

They hold released and clean photos of people who are not in the test, with names, and learn the metric under which
photos of one person lie together: within-person differences are whitened, so that directions in which the release moves
a face count for little and those that survive it count for much. Released and clean faces are centered apart.

Source: Hatch, Kajarekar and Stolcke, "Within-class covariance normalization" (Interspeech 2006).
Differs: the metric stands on frozen embeddings of several recognizers, where a network on pixels could learn more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.float32]

FLOORS = (1.0, 0.1, 0.01)
"""Floors of the within-person variance that are tried, relative to its mean over directions."""
_HELD_OUT = 4  # every fourth person judges the floors


@dataclass(frozen=True, slots=True)
class LabelAttacker:
    """Cosine under a learned metric.

    Attributes:
        released_center: Mean embedding of released faces, (d,).
        clean_center: Mean embedding of clean faces, (d,).
        whitener: Inverse root of the within-person covariance, (d, d).
    """

    released_center: NDArray[np.float64]
    clean_center: NDArray[np.float64]
    whitener: NDArray[np.float64]

    @classmethod
    def fit(
        cls, released: Codes, clean: Codes, people: NDArray[np.int64], clean_people: NDArray[np.int64]
    ) -> LabelAttacker:
        """Learn the metric, with the floor under which the most held-out people are found.

        Args:
            released: Embeddings of released faces, (n, d).
            clean: Embeddings of clean faces, (m, d).
            people: Person of each released face, (n,).
            clean_people: Person of each clean face, (m,).

        Returns:
            The attacker.

        Raises:
            ValueError: There are not as many names as faces, or fewer than two people.
        """
        if len(released) != len(people) or len(clean) != len(clean_people):
            raise ValueError("every face needs the name of its person")
        names = np.unique(np.concatenate([people, clean_people]))
        if len(names) < 2:
            raise ValueError(f"a recognizer needs two people to learn from, got {len(names)}")
        taught = np.isin(people, names[::_HELD_OUT], invert=True)
        clean_taught = np.isin(clean_people, names[::_HELD_OUT], invert=True)
        floor = FLOORS[0]
        if len(names) >= 2 * _HELD_OUT:
            tried = [
                cls._with_floor(
                    released[taught], clean[clean_taught], people[taught], clean_people[clean_taught], level
                )
                for level in FLOORS
            ]
            shown, gallery = released[~taught], clean[~clean_taught]
            found = [
                float((clean_people[~clean_taught][way.scores(shown, gallery).argmax(1)] == people[~taught]).mean())
                for way in tried
            ]
            floor = FLOORS[int(np.argmax(found))]
        return cls._with_floor(released, clean, people, clean_people, floor)

    @classmethod
    def _with_floor(
        cls,
        released: Codes,
        clean: Codes,
        people: NDArray[np.int64],
        clean_people: NDArray[np.int64],
        level: float,
    ) -> LabelAttacker:
        places = np.unique(np.concatenate([people, clean_people]), return_inverse=True)[1]
        centers = released.mean(0, dtype=np.float64), clean.mean(0, dtype=np.float64)
        rows = np.concatenate([released - centers[0], clean - centers[1]])
        sums = np.zeros((int(places.max()) + 1, rows.shape[1]))
        np.add.at(sums, places, rows)
        inside = rows - (sums / np.bincount(places)[:, None])[places]
        _, scale, axes = np.linalg.svd(inside, full_matrices=False)
        values = scale**2 / len(rows)
        floor = level * values.sum() / rows.shape[1] + 1e-12
        gains = 1 / np.sqrt(values + floor) - 1 / np.sqrt(floor)
        return cls(*centers, np.eye(rows.shape[1]) / np.sqrt(floor) + (axes.T * gains) @ axes)

    def scores(self, released: Codes, gallery: Codes) -> NDArray[np.float64]:
        """Score every probe against every gallery entry: (n, d) and (m, d) to (n, m)."""
        probes = _unit((released - self.released_center) @ self.whitener)
        return np.asarray(probes @ _unit((gallery - self.clean_center) @ self.whitener).T)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
