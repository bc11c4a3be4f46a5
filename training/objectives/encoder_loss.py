"""The loss of the attribute encoder: reconstruction, rate and leak, and the weights they are added with."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from torch import Tensor

from training.objectives.disentanglement import IdentityProbe, attribute_rate, reversed_probe_loss

if TYPE_CHECKING:
    from models.registry.store import ArtifactStore

ARTIFACT_NAME: Final = "loss-weights"
FILE_NAME: Final = "weights.json"


class LossWeightsError(ValueError):
    """Loss weights that are missing, not numbers, or negative."""


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights beside a reconstruction of weight 1.

    Attributes:
        rate: Of the rate of the learned part, per nat.
        leak: Of the positive cosine that the identity probe reaches.
    """

    rate: float
    leak: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (isinstance(value, float | int) and math.isfinite(value) and value >= 0):
                raise LossWeightsError(f"the weight {name!r} must be finite and non-negative, got {value!r}")

    def to_json(self) -> bytes:
        """The file of the artifact `loss-weights`."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> LossWeights:
        """Read the file back.

        Args:
            data: What `to_json` wrote.

        Returns:
            The weights.

        Raises:
            LossWeightsError: The file is not a table of exactly these weights.
        """
        try:
            return cls(**json.loads(data))
        except (TypeError, ValueError) as error:
            raise LossWeightsError(f"unreadable loss weights: {error}") from error

    def total(self, terms: EncoderTerms) -> Tensor:
        """Add the terms up; a term that is not there costs nothing."""
        loss = terms.reconstruction + self.rate * terms.rate
        return loss if terms.leak is None else loss + self.leak * terms.leak


def load_loss_weights(store: ArtifactStore, version: str) -> LossWeights:
    """Load a published version of `loss-weights`."""
    return LossWeights.from_json(store.resolve(ARTIFACT_NAME, version).read_bytes(FILE_NAME))


@dataclass(frozen=True, slots=True)
class EncoderTerms:
    """Scalars: mean weighted absolute error, rate in nats per face, and the probe's positive cosine or None."""

    reconstruction: Tensor
    rate: Tensor
    leak: Tensor | None

    def as_dict(self) -> dict[str, Tensor]:
        """The terms that are there, by name, for the log."""
        terms = {"reconstruction": self.reconstruction, "rate": self.rate}
        return terms if self.leak is None else {**terms, "leak": self.leak}


def encoder_terms(
    decoded: Tensor,
    target: Tensor,
    weight: Tensor,
    learned: tuple[Tensor, Tensor],
    code: Tensor,
    wanted: Tensor,
    probe: IdentityProbe | None,
) -> EncoderTerms:
    """Evaluate the terms on a batch.

    Args:
        decoded: Decoded faces, (n, 3, 32, 32).
        target: Degraded faces, (n, 3, 32, 32).
        weight: Weight of each pixel, of mean 1, (1, 1, 32, 32).
        learned: Mean and standard deviation of the learned part, each (n, c, 8, 8).
        code: Sampled attribute codes, (n, c + 2, 8, 8).
        wanted: Unit identity codes, (n, d).
        probe: The adversary; None before it counts.

    Returns:
        The terms.
    """
    return EncoderTerms(
        reconstruction=((decoded - target).abs() * weight).mean(),
        rate=attribute_rate(*learned),
        leak=None if probe is None else reversed_probe_loss(probe, code, wanted),
    )
