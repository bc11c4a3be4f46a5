"""Held-out faces drawn with another person's code by any generator, and what each drawn face measures.

Every generator gets the same crops, the same attribute codes at level `balanced` (what the service uses,
`models.encoder.attribute_levels`) and the same noise, row by row, so that two of them are compared face by face. No
landmark correction, no choice among candidates and no gate: what is measured is the generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.anonymizer.candidate_test import MARGINS
from models.diffusion.generator import FaceGenerator
from models.encoder.attribute_levels import AttributeLevels
from models.encoder.attributes import FaceAttributes
from models.encoder.landmark_code import INNER_LANDMARKS
from models.encoder.variational import IdentityEncoder
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES, load_ensemble
from models.oracles.thresholds import load_thresholds
from models.registry.store import ArtifactStore
from training.objectives.privacy import landmark_distance
from training.objectives.reconstruction import laplacian_energy

Readings = dict[str, NDArray[np.float64]]
"""One value per face, (n,), for each key of `MEASURES`."""

ACCEPTED_BY_ALL: Final = "accepted by all serving oracles"
MEASURES: Final[Mapping[str, int]] = {
    **{f"similarity to the source, {name}": -1 for name in (*SERVING_ORACLES, *AUDITOR_ORACLES)},
    **{f"accepted, {name}": 1 for name in SERVING_ORACLES},
    ACCEPTED_BY_ALL: 1,
    "landmark distance, 68-point network (px)": -1,
    "landmark distance, detector (px)": -1,
    "similarity among the drawn faces": -1,
    "cosine of the code read back": 1,
    "sharpness (Laplacian energy, 1e-3)": 1,
}
"""What is read of every drawn face, and the direction in which it is better."""

_BATCH = 20  # faces at a time
_WINDOWS = 4  # of the detector, averaged
_GUIDANCE = 2.0

Sample = Callable[[Tensor, torch.Generator], Tensor]
"""Draws attribute codes (n, c, 8, 8) of crops (n, 3, 128, 128)."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What drawn faces are read with; auditors are trained against by nobody.

    Attributes:
        recognizers: crops (n, 3, 128, 128) to unit embeddings (n, d_k) of serving and auditing oracles, by name.
        limits: largest similarity to the source at which a serving oracle accepts a face.
        identity: turns embeddings of the serving oracles into codes.
        landmarks: crops to inner landmarks (n, 51, 2) in crop pixels.
        detector: distance of what the detector reads of two sets of crops, see
            `training.objectives.detector_landmarks`.
        sample: draws attribute codes.
    """

    recognizers: nn.Module
    limits: Mapping[str, float]
    identity: IdentityEncoder
    landmarks: Callable[[Tensor], Tensor]
    detector: nn.Module
    sample: Sample


def load_instruments(
    store: ArtifactStore,
    attributes: FaceAttributes,
    levels: AttributeLevels,
    identity: IdentityEncoder,
    detector: nn.Module,
    *,
    far: float,
) -> Instruments:
    """Load the recognizers, and set the limits at which the service refuses a candidate.

    Args:
        store: Store with serving and auditing oracles and their calibration.
        attributes: Attribute code, with the landmark network.
        levels: Limits the code to level `balanced`.
        identity: Identity encoder.
        detector: Distance of the detector's landmarks.
        far: False-accept rate of the thresholds.

    Returns:
        The instruments.
    """
    thresholds = load_thresholds(store)

    def sample(crops: Tensor, rng: torch.Generator) -> Tensor:
        mean, std = attributes(crops)
        return levels("balanced", crops, mean) + std * torch.randn(mean.shape, generator=rng)

    return Instruments(
        load_ensemble(store, (*SERVING_ORACLES, *AUDITOR_ORACLES), centers=thresholds.centers),
        {name: found.limit(MARGINS["balanced"]) for name, found in thresholds.at(far, SERVING_ORACLES).items()},
        identity,
        lambda crops: attributes.landmark_net(crops)[:, INNER_LANDMARKS],
        detector,
        sample,
    )


class SwappedFaces:
    """Unseen crops, each to be drawn with its neighbor's identity code."""

    @torch.no_grad()
    def __init__(self, crops: Tensor, codes: Tensor, instruments: Instruments) -> None:
        """Read the crops.

        Args:
            crops: Crops of different people, (n, 3, 128, 128) in [-1, 1], n >= 2.
            codes: Their identity codes, (n, d).
            instruments: What faces are read with.

        Raises:
            ValueError: There are fewer than two faces, or not one code for each.
        """
        if len(crops) < 2 or len(crops) != len(codes):
            raise ValueError(f"expected a code for each of at least two crops, got {len(codes)} for {len(crops)}")
        self.crops = crops
        self._wanted = codes.roll(1, 0)
        self._instruments = instruments
        rng = torch.Generator().manual_seed(3)
        self._attributes = torch.cat([instruments.sample(part, rng) for part in crops.split(_BATCH)])
        self._source = self._embed(crops)
        self._points = torch.cat([instruments.landmarks(part) for part in crops.split(_BATCH)])

    def draw(self, generator: FaceGenerator, steps: int) -> Tensor:
        """Draw every face; the first noise of a row is the same for each generator and number of steps.

        Args:
            generator: Generator, distilled or not.
            steps: Denoising steps.

        Returns:
            Drawn crops, (n, 3, 128, 128) in [-1, 1].
        """
        noise = [torch.Generator().manual_seed(1000 + row) for row in range(len(self.crops))]
        return torch.cat(
            [
                generator.generate(
                    self.crops[rows],
                    self._attributes[rows],
                    self._wanted[rows],
                    steps=steps,
                    guidance=_GUIDANCE,
                    generator=noise[rows],
                ).clone()
                for rows in _slices(len(self.crops))
            ]
        )

    @torch.no_grad()
    def read(self, faces: Tensor) -> Readings:
        """Measure drawn faces, one for each crop.

        Args:
            faces: Drawn crops, (n, 3, 128, 128) in [-1, 1].

        Returns:
            The readings. Similarity among the faces is the mean over all others and over the serving oracles.

        Raises:
            ValueError: There are not as many faces as crops.
        """
        if faces.shape != self.crops.shape:
            raise ValueError(f"expected a face for each of {len(self.crops)} crops, got {tuple(faces.shape)}")
        tools, drawn = self._instruments, self._embed(faces)
        similarity = {name: (codes * self._source[name]).sum(1) for name, codes in drawn.items()}
        accepted = {name: similarity[name] < limit for name, limit in tools.limits.items()}
        others = torch.stack([_to_others(drawn[name]) for name in tools.limits]).mean(0)
        points = torch.cat([tools.landmarks(part) for part in faces.split(_BATCH)])
        values = [
            *similarity.values(),
            *accepted.values(),
            torch.stack(list(accepted.values())).all(0),
            landmark_distance(points, self._points),
            self._detector_distance(faces),
            others,
            (tools.identity(drawn) * self._wanted).sum(1),
            1e3 * laplacian_energy(faces),
        ]
        return {key: value.double().numpy() for key, value in zip(MEASURES, values, strict=True)}

    def _embed(self, crops: Tensor) -> dict[str, Tensor]:
        parts = [self._instruments.recognizers(part) for part in crops.split(_BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in (*SERVING_ORACLES, *AUDITOR_ORACLES)}

    def _detector_distance(self, faces: Tensor) -> Tensor:
        rng = torch.Generator().manual_seed(5)
        read = [self._instruments.detector(faces, self.crops, rng) for _ in range(_WINDOWS)]
        return torch.stack(read).mean(0)


def _slices(count: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, count, _BATCH)]


def _to_others(codes: Tensor) -> Tensor:
    """Mean cosine of each unit embedding (n, d) to all others, (n,)."""
    return (codes @ codes.sum(0) - 1) / (len(codes) - 1)
