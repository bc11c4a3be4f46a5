"""Networks that have learned nothing and heads that are drawn on the spot, for trainings without store and data.

A smoke run of a training that needs other networks goes through the same lines with these. What comes out is no face.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.autoencoder import LatentAutoencoder
from models.encoder.attributes import AttributeEncoder, FaceAttributes
from models.encoder.landmark_code import INNER_LANDMARKS
from models.encoder.variational import IdentityEncoder
from models.oracles.networks.landmarks68 import LandmarkNet
from training.data.drawn_faces import drawn_crop_set
from training.data.face_crops import to_tensor
from training.jobs.generator_inputs import FaceNetworks, TrainingFaces

ORACLE_DIMS: Final[Mapping[str, int]] = {"fr_feature": 24, "mfn": 16, "dlib": 8}

_CELLS = 8
_CIRCLE = (64.0, 76.0, 26.0)  # center and radius of the landmarks, px of a 128 px crop


class CoarseOracles(nn.Module):
    """Oracles that look at the means of 8x8 cells through a fixed random matrix."""

    def __init__(self, dims: Mapping[str, int], rng: torch.Generator) -> None:
        """Draw the matrices.

        Args:
            dims: Length of the embeddings of each oracle.
            rng: Draws them, in this order.
        """
        super().__init__()
        self._names = tuple(dims)
        for name, dim in dims.items():
            self.register_buffer(name, torch.randn(3 * _CELLS**2, dim, generator=rng))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Embed crops (n, 3, s, s): oracle to unit vectors (n, d_k)."""
        seen = F.adaptive_avg_pool2d(crops, _CELLS).flatten(1)
        return {name: F.normalize(seen @ self.get_buffer(name), dim=1) for name in self._names}


class CircleLandmarks(nn.Module):
    """Sixty-eight points on a circle that goes with the light, so that gradients flow."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.linspace(0.0, 2 * torch.pi, 68)
        x, y, radius = _CIRCLE
        points = torch.tensor([x, y]) + radius * torch.stack([angles.cos(), angles.sin()], dim=1)
        self.register_buffer("points", points)

    def forward(self, crops: Tensor) -> Tensor:
        """Points (n, 68, 2) in pixels of crops (n, 3, 128, 128)."""
        return self.get_buffer("points") + 4 * crops.mean((1, 2, 3))[:, None, None]


def untrained_inputs(
    count: int, size: int, seed: int, device: torch.device
) -> tuple[FaceNetworks, TrainingFaces, CoarseOracles]:
    """Draw heads, and make narrow networks for them.

    Args:
        count: Heads, one per person; every third is held out.
        size: Side of the crops, pixels.
        seed: Decides the heads and the matrices; the networks start from torch's own random state.
        device: Where the networks run.

    Returns:
        Networks, faces, and the oracles that made the embeddings. The autoencoder has 16 channels, as the large one.
    """
    people = drawn_crop_set(count, 1, seed, size)
    crops = to_tensor(people.crops)
    small = to_tensor(people.reduced().crops)
    autoencoder = LatentAutoencoder(16, (8, 8, 16), (8, 8, 16), (1, 1, 1), (1, 1, 1), crop_size=size)
    autoencoder = autoencoder.requires_grad_(False).eval()
    autoencoder.fit_normalization(crops)
    oracles = CoarseOracles(ORACLE_DIMS, torch.Generator().manual_seed(seed))
    embeddings = oracles(small)
    identity = IdentityEncoder(tuple(ORACLE_DIMS), tuple(ORACLE_DIMS.values()))
    identity.projection.normal_(generator=torch.Generator().manual_seed(seed))
    landmarks = CircleLandmarks()
    encoder = AttributeEncoder().requires_grad_(False).eval()
    encoder.landmark_mean.copy_(landmarks(small)[:, INNER_LANDMARKS].mean(0))
    attributes = FaceAttributes(encoder, cast(LandmarkNet, landmarks))
    networks = FaceNetworks(autoencoder.to(device), identity.to(device), attributes.to(device))
    return networks, TrainingFaces(people, embeddings, np.arange(count) % 3 == 0), oracles.to(device)
