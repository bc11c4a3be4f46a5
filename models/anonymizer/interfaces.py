"""What gate and pipeline need from the networks; anything of these shapes will do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from models.encoder.levels import Level
from models.faces.boxes import Box
from models.identity.rejection import BinTest
from models.identity.sphere import Codes


class Ensemble(Protocol):
    """Face-recognition oracles, asked together."""

    def __call__(self, crops: Tensor) -> Mapping[str, Tensor]:
        """Embed aligned crops (n, 3, 128, 128) in [-1, 1] to unit vectors (n, d_k), one entry for each oracle."""
        ...


class Threshold(Protocol):
    """Calibration of one oracle."""

    @property
    def privacy_threshold(self) -> float:
        """tau_k: cosine similarity from which two crops may show one person."""
        ...

    @property
    def impostor_std(self) -> float:
        """Standard deviation of the similarities of different people, the unit of the margin m_k."""
        ...


class MatchCurves(Protocol):
    """Calibrators of the oracles, from similarity to the probability of a match."""

    def probability(self, oracle: str, similarity: float) -> SupportsFloat:
        """Give the probability, at equal priors, that two faces of this cosine in [-1, 1] show one person."""
        ...


class IdentityEncoder(Protocol):
    """Turns oracle embeddings into an identity code."""

    def __call__(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Map embeddings (n, d_k) to unit codes (n, d)."""
        ...


class AttributeEncoder(Protocol):
    """Turns crops into the distribution of their attribute code."""

    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Give mean and standard deviation of z_a, each (n, c, h, w), for crops (n, 3, 128, 128) in [-1, 1]."""
        ...


class AttributeLimiter(Protocol):
    """Takes out of attribute codes what a level does not let them tell."""

    def __call__(self, level: Level, crops: Tensor, mean: Tensor) -> Tensor:
        """Limit the means (n, c, h, w) of the codes of crops (n, 3, 128, 128) in [-1, 1]; the shape stays."""
        ...


class Generator(Protocol):
    """Draws faces."""

    def generate(
        self,
        crops: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        *,
        steps: int,
        guidance: float,
        generator: Sequence[torch.Generator],
    ) -> Tensor:
        """Draw one face per row.

        Row i must depend on row i of the inputs and on `generator[i]` only, so that a picture looks the same in
        whatever company it is processed.

        Args:
            crops: context, (n, 3, 128, 128) in [-1, 1].
            attribute_code: z_a, (n, c, h, w).
            identity_code: unit codes (n, d).
            steps: denoising steps.
            guidance: guidance weight on the identity code.
            generator: one random stream per row.

        Returns:
            Crops (n, 3, 128, 128) in [-1, 1], equal to the context outside the face mask.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Identity codes that passed every test on codes.

    Attributes:
        codes: unit codes (m, d) in the order drawn; m may be smaller than asked for.
        tries: for each code, how many source-dependent code tests (T1) were made since the code before it, its own
            included. Tests that do not look at the source (manifold, gallery) do not count.
        gallery_tries: for each code, candidates until the first that the gallery let through.
        refused_after: T1 tests that failed after the last code.
    """

    codes: Codes
    tries: tuple[int, ...]
    gallery_tries: tuple[int, ...]
    refused_after: int = 0


class IdentitySampler(Protocol):
    """Proposes replacement identities, independent of the source but for the T1 test on codes."""

    def candidates(
        self,
        source_code: Codes,
        num: int,
        max_tries: int,
        rng: np.random.Generator,
        suits: BinTest | None = None,
    ) -> Candidates:
        """Draw at most `num` codes far from `source_code` (d,), on the manifold, nobody enrolled, that suit."""
        ...


class SceneMatcher(Protocol):
    """Makes the coarse attribute match of faces from what their pictures keep."""

    def __call__(self, crops: Tensor, attribute_codes: Tensor) -> Sequence[BinTest]:
        """Give one test of candidate codes for each of n crops (n, 3, 128, 128) and attribute codes (n, c, h, w)."""
        ...


class LeakageMeter(Protocol):
    """Counts what rejection tells about the source, and about the gallery."""

    def record(self, stage: Literal["pre", "post", "gallery"], tries: int) -> float:
        """Count one face accepted at try `tries` of a stage; give the bits it may have leaked."""
        ...


class SubjectResolver(Protocol):
    """Names the subject of a face for pseudonyms, by where it is in which picture; it sees no pixel, no embedding."""

    def __call__(self, digest: bytes, box: Box) -> bytes | None:
        """Name a subject.

        Args:
            digest: sha256 of the picture's bytes, as they came.
            box: of the face, in shares of width and height.

        Returns:
            What the subject is called, the same in every picture of a corpus; None for a face that is not known.
        """
        ...


class LandmarkEstimator(Protocol):
    """Finds landmarks in aligned crops."""

    def __call__(self, crops: Tensor) -> Tensor:
        """Give the 68 landmarks (n, 68, 2), 300-W order, in crop pixels for crops (n, 3, 128, 128) in [-1, 1]."""
        ...
