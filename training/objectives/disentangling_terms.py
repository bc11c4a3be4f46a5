"""Optional terms beside reconstruction, rate and adversary (anonymizer specification, B2 ii, B3 and B4).

All weights are 0 by default, and then nothing here is built, drawn or added: a training without these terms does not
change. The terms have random numbers of their own, made from seed and step, so that trainings with and without them
see equal batches and equal noise, and a resumed training goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder.attributes import AttributeEncoder
from models.encoder.landmark_code import LANDMARK_CHANNELS
from training.objectives.disentanglement import IdentityProbe, LowResolutionDecoder
from training.objectives.encoder_loss import LossWeightsError
from training.objectives.gradient_independence import PictureReader, drift, overlap, probe_gradient, random_response
from training.objectives.mutual_information import IdentityPosterior
from training.objectives.swap_cycle import swap_cycle

EVERY: Final = 4
"""Steps between two with derivatives of the decoder; their weight is multiplied by it."""
FACES: Final = 4
"""Faces of the batch whose derivatives are taken."""
_POSTERIOR_STEPS = 3
_DERIVATIVES = ("overlap", "identity_drift", "landmark_drift")


@dataclass(frozen=True, slots=True)
class TermWeights:
    """Weights beside a reconstruction of weight 1.

    Attributes:
        mutual_information: Of the positive part of vCLUB, per nat.
        overlap: Of G1, which lies in [0, 1].
        probe_gradient: Of G2, the squared gradient of the probe's cosine in the code.
        identity_drift: Of G3, the squared derivative of a recognizer's unit embedding along random signs.
        landmark_drift: Of G4, that of the landmarks, in squared crop pixels.
        cycle: Of the swap-cycle, in squared standard deviations of the code.
    """

    mutual_information: float = 0.0
    overlap: float = 0.0
    probe_gradient: float = 0.0
    identity_drift: float = 0.0
    landmark_drift: float = 0.0
    cycle: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise LossWeightsError(f"the weight {name!r} must be finite and non-negative, got {value!r}")

    @property
    def is_zero(self) -> bool:
        """Whether no term is wanted."""
        return not any(asdict(self).values())


NO_TERMS: Final = TermWeights()


@dataclass(frozen=True, slots=True)
class EncodedFaces:
    """A batch after the encoder: whole code with its mean and standard deviation, each (n, c + 2, 8, 8), unit identity
    codes (n, d), the blanked crops around the face (n, 3, 32, 32), and the mask (1, 1, 32, 32).
    """

    code: Tensor
    mean: Tensor
    std: Tensor
    identity: Tensor
    around: Tensor
    mask: Tensor

    def decode(self, decoder: LowResolutionDecoder, attributes: Tensor, identity: Tensor) -> Tensor:
        """Decode the first faces with other codes, as many as there are codes; (n, 3, 32, 32)."""
        decoded: Tensor = decoder(attributes, identity, self.around[: len(attributes)], self.mask)
        return decoded


class DisentanglingTerms:
    """The wanted terms, and the posterior that vCLUB needs."""

    def __init__(
        self,
        weights: TermWeights,
        *,
        seed: int,
        recognizer: PictureReader | None = None,
        landmarks: PictureReader | None = None,
    ) -> None:
        """Build what the wanted terms need.

        Args:
            weights: Of the terms.
            seed: Of the posterior's start, the random signs and its noise.
            recognizer: Frozen; needed for `identity_drift`. No auditor, which nothing may be trained against.
            landmarks: Frozen; needed for `landmark_drift`.

        Raises:
            LossWeightsError: A wanted term lacks its reader.
        """
        for name, weight, reader in (
            ("identity_drift", weights.identity_drift, recognizer),
            ("landmark_drift", weights.landmark_drift, landmarks),
        ):
            if weight and reader is None:
                raise LossWeightsError(f"the weight {name!r} is {weight}, but there is no network to read with")
        self.weights = weights
        self._seed = seed
        self._recognizer, self._landmarks = recognizer, landmarks
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._posterior: IdentityPosterior | None = None
        if weights.mutual_information:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self._posterior = IdentityPosterior()
            self._optimizer = torch.optim.AdamW(self._posterior.parameters(), 1e-3, weight_decay=1e-2)
            self.modules["posterior"], self.optimizers["posterior_optimizer"] = self._posterior, self._optimizer

    def __call__(
        self,
        step: int,
        model: AttributeEncoder,
        decoder: LowResolutionDecoder,
        probe: IdentityProbe,
        faces: EncodedFaces,
    ) -> dict[str, Tensor]:
        """Evaluate the wanted terms on a batch.

        Args:
            step: From 0; derivatives of the decoder are taken at every fourth.
            model: The encoder.
            decoder: The decoder.
            probe: The adversary; frozen in its term.
            faces: The batch.

        Returns:
            Scalars by the names of the weights; those not wanted, or not at this step, are left out.
        """
        weights, found = self.weights, dict[str, Tensor]()
        if self._posterior is not None:
            # as with the probe, nothing is paid, or won, once the posterior is no better than chance
            found["mutual_information"] = F.relu(self._posterior.penalty(faces.code, faces.identity))
        if weights.probe_gradient:
            found["probe_gradient"] = probe_gradient(probe, faces.code, faces.identity).mean()
        if weights.cycle:
            swapped = faces.decode(decoder, faces.code, faces.identity.roll(1, 0))
            learned = (part[:, :-LANDMARK_CHANNELS] for part in (faces.mean, faces.std))
            found["cycle"] = swap_cycle(model(swapped)[0], *learned)
        if step % EVERY == 0:
            found |= self._derivatives(step, decoder, faces)
        return found

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Weighted sum of evaluated terms; 0 where there are none."""
        scaled = asdict(self.weights) | {name: EVERY * getattr(self.weights, name) for name in _DERIVATIVES}
        return sum((scaled[name] * term for name, term in terms.items()), torch.zeros(()))

    def fit(self, step: int, faces: EncodedFaces) -> None:
        """Fit the posterior by likelihood to fresh samples of the codes, three steps; nothing where none is needed."""
        if self._posterior is None:
            return
        rng = self._rng(step)
        mean, std = faces.mean.detach(), faces.std.detach()
        for _ in range(_POSTERIOR_STEPS):
            noisy = mean + std * torch.randn(mean.shape, generator=rng)
            self._optimizer.zero_grad()
            self._posterior.negative_log_likelihood(noisy, faces.identity).backward()
            self._optimizer.step()

    def _derivatives(self, step: int, decoder: LowResolutionDecoder, faces: EncodedFaces) -> dict[str, Tensor]:
        weights, found = self.weights, dict[str, Tensor]()
        rng = self._rng(step)
        code, identity = faces.code[:FACES], faces.identity[:FACES]
        if weights.overlap or weights.identity_drift:
            drawn, by_attributes = random_response(lambda at: faces.decode(decoder, at, identity), code, rng)
            if weights.identity_drift and self._recognizer is not None:
                found["identity_drift"] = drift(self._recognizer, drawn, by_attributes).mean()
        if weights.overlap or weights.landmark_drift:
            drawn, by_identity = random_response(lambda at: faces.decode(decoder, code, at), identity, rng)
            if weights.landmark_drift and self._landmarks is not None:
                found["landmark_drift"] = drift(self._landmarks, drawn, by_identity).mean()
        if weights.overlap:
            found["overlap"] = overlap(by_identity, by_attributes)
        return found

    def _rng(self, step: int) -> torch.Generator:
        return torch.Generator().manual_seed(1_000_003 * (self._seed + 1) + step)
