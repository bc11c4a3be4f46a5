"""What another number format does to the thing that a network is for, beside what its float32 outputs say.

Numbers that differ by a thousandth mean nothing by themselves. A recognizer is asked whether two faces are one person,
so its harm is counted in similarities and decisions; a network that draws is looked at in levels of the drawn pixels; a
detector by its scores; the networks of the attribute code by pixels of landmarks and by the noise of the code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Outputs = Sequence[Tensor]


class Harm(Protocol):
    """Compares outputs of one network for the same rows."""

    @property
    def about(self) -> str:
        """What is counted; networks about the same thing share a table."""

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Measures by name, from the outputs in float32 and those in the other format."""


@dataclass(frozen=True, slots=True)
class EmbeddingHarm:
    """Embeddings (n, d): every pair of rows is compared, both sides in the same format.

    Attributes:
        threshold: similarity that a released face must not reach.
        impostor_std: standard deviation of the similarities of different people.
        margin: in such deviations, how far below the threshold a candidate must stay.
    """

    threshold: float
    impostor_std: float
    margin: float
    about: str = "recognizers"

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Cosines, similarities and decisions.

        Args:
            exact: Embeddings in float32.
            other: Embeddings in the other format.

        Returns:
            Cosine of each row to itself, smallest and mean; the largest change of a similarity, also in units of the
            margin; decisions that change at the threshold and at the limit of a candidate; and pairs below the limit
            that float32 puts at the threshold or above, which is what the margin is there to prevent.
        """
        before, after = (F.normalize(side[0].double(), dim=1) for side in (exact, other))
        cosines = (before * after).sum(1)
        pairs = torch.triu_indices(len(before), len(before), 1)
        told, found = ((side @ side.T)[pairs[0], pairs[1]] for side in (before, after))
        change = float((told - found).abs().max()) if len(told) else 0.0
        limit = self.threshold - self.margin * self.impostor_std
        return {
            "smallest cosine": float(cosines.min()),
            "mean cosine": float(cosines.mean()),
            "pairs": float(len(told)),
            "largest change of a similarity": change,
            "in margins": change / (self.margin * self.impostor_std),
            "decisions changed at the limit": float(((told < limit) != (found < limit)).sum()),
            "decisions changed at the threshold": float(((told < self.threshold) != (found < self.threshold)).sum()),
            "below the limit, float32 not below the threshold": float(
                ((found < limit) & (told >= self.threshold)).sum()
            ),
        }


@dataclass(frozen=True, slots=True, eq=False)
class PictureHarm:
    """Outputs from which crops are drawn.

    Attributes:
        draw: turns the output (n, ...) into crops (n, 3, 128, 128), in float32.
        is_drawn: (128, 128) bool, pixels that are replaced.
    """

    draw: Callable[[Tensor], Tensor]
    is_drawn: Tensor
    about: str = "pictures"

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Mean and largest difference of the drawn pixels, in levels of 255, after rounding to levels."""
        with torch.inference_mode():
            before, after = (
                self.draw(side[0].float()).float().clamp(-1, 1).add(1).mul(127.5).round() for side in (exact, other)
            )
        difference = (before - after).abs()[:, :, self.is_drawn]
        return {"mean level difference": float(difference.mean()), "largest": float(difference.max())}


@dataclass(frozen=True, slots=True)
class LandmarkHarm:
    """Landmarks (n, k, 2) in crop pixels."""

    about: str = "landmarks"

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Mean and largest distance in crop pixels."""
        distance = (exact[0].double() - other[0].double()).norm(dim=-1)
        return {"mean distance (px)": float(distance.mean()), "largest (px)": float(distance.max())}


@dataclass(frozen=True, slots=True)
class CodeHarm:
    """Mean and standard deviation of a Gaussian code, each (n, ...)."""

    about: str = "codes"

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Mean and largest change of the mean, in standard deviations of the code's own noise."""
        change = (exact[0].double() - other[0].double()).abs() / exact[1].double()
        return {"mean change (deviations)": float(change.mean()), "largest (deviations)": float(change.max())}


@dataclass(frozen=True, slots=True)
class ScoreHarm:
    """Outputs whose last one holds the probabilities (n, 2, ...) of no face and face.

    Attributes:
        threshold: score above which a candidate goes on.
    """

    threshold: float
    about: str = "detectors"

    def __call__(self, exact: Outputs, other: Outputs) -> dict[str, float]:
        """Largest change of a score, and how many of how many candidates change sides of the threshold."""
        before, after = (side[-1].double()[:, 1] for side in (exact, other))
        changed = (before > self.threshold) != (after > self.threshold)
        return {
            "largest change of a score": float((before - after).abs().max()),
            "decisions changed": float(changed.sum()),
            "candidates": float(changed.numel()),
        }
