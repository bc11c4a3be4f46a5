"""Attribute-code probe: does the code of pose, expression and light tell who somebody is (A5)?

Nobody outside sees the code; the generator does, and what the code tells of a person may reach the release. The probe
is ridge regression from sampled codes to embeddings of the person, learned on some people and tested on others, so it
bounds the leak from below.

Differs: a linear probe; the protocol also names deeper ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder.attribute_levels import AttributeLevels
from models.encoder.attributes import FaceAttributes
from models.encoder.levels import Level
from training.audit.attackers import RidgeAttacker
from training.data.face_crops import to_tensor

Codes = NDArray[np.float32]

PENALTIES = (0.1, 1.0, 10.0, 100.0)
"""Ridge penalties tried, relative to the mean squared singular value."""
_FOLDS = 5


@torch.inference_mode()
def attribute_codes(
    attributes: FaceAttributes, levels: AttributeLevels, level: Level, crops: NDArray[np.uint8], seed: int
) -> Codes:
    """Sample the attribute code of source crops (n, 128, 128, 3) at a level, with fresh noise; (n, d)."""
    rng = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(crops), 32):
        rows = to_tensor(crops[start : start + 32])
        mean, std = attributes(rows)
        code = levels(level, rows, mean) + std * torch.randn(mean.shape, generator=rng)
        parts.append(code.flatten(1))
    return torch.cat(parts).float().numpy() if parts else np.zeros((0, 1), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class CodeProbe:
    """Ridge regression from standardized codes to centered embeddings.

    Attributes:
        mean: Mean of the codes, (d,).
        scale: Their standard deviation, (d,).
        center: Mean of the embeddings, (e,).
        ridge: The regression.
        penalty: The penalty chosen.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    center: NDArray[np.float64]
    ridge: RidgeAttacker
    penalty: float

    @classmethod
    def fit(
        cls,
        codes: Codes,
        embeddings: Codes,
        *,
        people: NDArray[np.int64] | None = None,
        penalties: tuple[float, ...] = PENALTIES,
    ) -> CodeProbe:
        """Fit with the penalty under which held-out people are predicted best.

        Args:
            codes: Codes, one row for each photo, (n, d).
            embeddings: Embeddings of the same people, (n, e).
            people: Person of each row, (n,), held out with all rows; None where each shows somebody else.
            penalties: Penalties to choose from.

        Returns:
            The probe.

        Raises:
            ValueError: Fewer than two people, or another number of embeddings.
        """
        if len(codes) < 2 or len(codes) != len(embeddings):
            raise ValueError(f"a probe needs two people and as many embeddings, got {len(codes)} and {len(embeddings)}")
        mean, scale = codes.mean(0, dtype=np.float64), codes.std(0, dtype=np.float64) + 1e-6
        center = embeddings.mean(0, dtype=np.float64)
        x, y = ((codes - mean) / scale).astype(np.float32), (embeddings - center).astype(np.float32)
        person = np.arange(len(x)) if people is None else np.unique(people, return_inverse=True)[1]
        fold = person % min(_FOLDS, int(person.max()) + 1)
        best = max(penalties, key=lambda penalty: _held_out_agreement(x, y, fold, penalty))
        return cls(mean, scale, center, RidgeAttacker.fit(x, y, best), best)

    def scores(self, codes: Codes, gallery: Codes) -> NDArray[np.float64]:
        """Score every probe against every gallery entry: (n, d) and (m, e) to (n, m)."""
        standard = ((codes - self.mean) / self.scale).astype(np.float32)
        return self.ridge.scores(standard, (gallery - self.center).astype(np.float32))


def _held_out_agreement(x: Codes, y: Codes, fold: NDArray[np.int64], penalty: float) -> float:
    """Mean cosine of predicted and true embeddings of people left out of the fit."""
    cosines = []
    for part in range(int(fold.max()) + 1):
        out = fold == part
        predicted = x[out] @ RidgeAttacker.fit(x[~out], y[~out], penalty).weights
        norms = np.linalg.norm(predicted, axis=1) * np.linalg.norm(y[out], axis=1) + 1e-12
        cosines.append((predicted * y[out]).sum(1) / norms)
    return float(np.concatenate(cosines).mean())
