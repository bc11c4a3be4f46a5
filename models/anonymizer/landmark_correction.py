"""Moves a drawn face so that its landmarks lie where the attribute code told the generator to put them.

A generator of few steps draws eyes, nose and mouth a pixel or two beside the places that it was told. The landmark
network reads where they came to lie, and a smooth warp inside the face mask takes them back. The target is the sampled
code, never the source: the released face knows no more of the source than its generator was told.

The displacement is the mean of a Gaussian process given the displacements of the landmarks: an affine part with a weak
prior, and a smooth part with a squared-exponential kernel (Rasmussen & Williams, Gaussian Processes for Machine
Learning, 2006, eq. 2.25 and section 2.7), with noise for what the code and the network err.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from models.anonymizer.interfaces import Generator, LandmarkEstimator
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_CHANNELS, LANDMARK_SCALE, from_sheets
from models.faces.alignment import CROP_SIZE, face_mask

_PASSES: Final = 2  # readings; the second also sees what the network misread in the unmoved face
_SMOOTH_STD: Final = 1.0  # crop pixels, of the smooth part
_SMOOTH_LENGTH: Final = 14.0  # crop pixels over which it changes
_AFFINE_STD: Final = (4.0, 2.0, 2.0)  # crop pixels: shift, and what the two linear terms do at `_AFFINE_REACH`
_AFFINE_REACH: Final = 32.0  # crop pixels from the middle of the crop
_NOISE_STD: Final = 2.0  # crop pixels, of the difference between a landmark told and a landmark read
_LARGEST: Final = 8.0  # crop pixels; no part of a face is moved further
_KNOT_STEP: Final = 4  # crop pixels between the knots at which the field is computed


class LandmarkCorrection:
    """A generator whose faces keep their landmarks."""

    def __init__(self, generator: Generator, landmarks: LandmarkEstimator, mean: Tensor) -> None:
        """Wrap a generator.

        Args:
            generator: Draws faces.
            landmarks: Reads the 68 landmarks of a crop.
            mean: Mean places of the 51 inner landmarks, from which the code tells offsets, (51, 2) in crop pixels.
        """
        self._generator = generator
        self._landmarks = landmarks
        self._mean = mean

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
        """Draw one face per row and move its parts to where its attribute code has them.

        Args:
            crops: Context, (n, 3, 128, 128) in [-1, 1].
            attribute_code: Sampled codes, (n, c, 8, 8); the last two channels tell the landmarks.
            identity_code: Unit codes, (n, d).
            steps: Denoising steps.
            guidance: Guidance weight on the identity code.
            generator: One random stream per row.

        Returns:
            Crops (n, 3, 128, 128) in [-1, 1], equal to the context outside the face mask. A row that is not finite, or
            whose landmarks are not, is returned as it was drawn.
        """
        drawn = self._generator.generate(
            crops, attribute_code, identity_code, steps=steps, guidance=guidance, generator=generator
        ).float()
        with torch.inference_mode():
            told = from_sheets(attribute_code[:, -LANDMARK_CHANNELS:].float()) * LANDMARK_SCALE + self._mean
            mask = torch.from_numpy(face_mask()).to(crops.device)
            moved, offsets = drawn, torch.zeros_like(told)
            for _ in range(_PASSES):
                offsets = offsets + self._landmarks(moved)[:, INNER_LANDMARKS] - told
                moved = warp(drawn, displacement_field(told, offsets)) * mask + crops * (1 - mask)
            is_sound = torch.isfinite(offsets).flatten(1).all(1) & torch.isfinite(drawn).flatten(1).all(1)
            return torch.where(is_sound[:, None, None, None], moved, drawn)


def displacement_field(points: Tensor, offsets: Tensor) -> Tensor:
    """Spread the displacements of some points smoothly over the crop.

    Args:
        points: (n, k, 2) in crop pixels.
        offsets: Displacements of the points with noise, (n, k, 2) in crop pixels; those that are not finite count as 0.

    Returns:
        Displacement of every pixel, (n, 2, 128, 128) in crop pixels, x before y, none beyond 8 pixels.
    """
    axis = torch.arange(0, CROP_SIZE, _KNOT_STEP, dtype=points.dtype, device=points.device) + (_KNOT_STEP - 1) / 2.0
    knots = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).flatten(0, 1)  # (m, 2)
    noise = _NOISE_STD**2 * torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
    weights = torch.linalg.solve(_covariance(points, points) + noise, torch.nan_to_num(offsets, 0.0, 0.0, 0.0))
    field = _covariance(knots.expand(len(points), -1, -1), points) @ weights  # (n, m, 2)
    coarse = field.mT.unflatten(2, (len(axis), len(axis)))
    return F.interpolate(coarse, size=CROP_SIZE, mode="bilinear", align_corners=False).clamp(-_LARGEST, _LARGEST)


def warp(crops: Tensor, field: Tensor) -> Tensor:
    """Fetch every pixel from where the field says.

    Args:
        crops: (n, 3, 128, 128) in [-1, 1].
        field: Displacements, (n, 2, 128, 128) in crop pixels, x before y.

    Returns:
        Crops (n, 3, 128, 128) in [-1, 1] whose pixel at p is that of `crops` at p + field(p), bicubic.
    """
    axis = torch.arange(CROP_SIZE, dtype=field.dtype, device=field.device)
    places = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1) + field.permute(0, 2, 3, 1)
    grid = (places + 0.5) * (2.0 / CROP_SIZE) - 1.0
    return F.grid_sample(crops, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1.0, 1.0)


def _covariance(first: Tensor, second: Tensor) -> Tensor:
    """Prior covariance of the displacements at two sets of points, (n, a, 2) and (n, b, 2) to (n, a, b)."""
    smooth = torch.exp(torch.cdist(first, second).square() / (-2.0 * _SMOOTH_LENGTH**2)) * _SMOOTH_STD**2
    return smooth + _affine(first) @ _affine(second).mT


def _affine(points: Tensor) -> Tensor:
    """Shift and linear terms of points (n, k, 2), scaled by their prior deviations, (n, k, 3)."""
    terms = torch.cat([torch.ones_like(points[..., :1]), (points - CROP_SIZE / 2.0) / _AFFINE_REACH], dim=-1)
    return terms * points.new_tensor(_AFFINE_STD)
