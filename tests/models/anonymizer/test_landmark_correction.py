"""What the landmark correction does to drawn faces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.anonymizer.landmark_correction import LandmarkCorrection, displacement_field, warp
from models.encoder.landmark_code import LANDMARK_SCALE, to_sheets
from models.faces.alignment import CROP_SIZE, face_mask

MEAN = torch.rand(51, 2, generator=torch.Generator().manual_seed(5)) * 36 + 46  # crop pixels, where the mask is full
CONTEXT = torch.full((2, 3, CROP_SIZE, CROP_SIZE), -1.0)


def coordinates(rows: int) -> Tensor:
    """Pictures whose first two channels tell where each pixel was drawn, and the third that it was."""
    axis = (torch.arange(CROP_SIZE) + 0.5) / (CROP_SIZE / 2) - 1
    columns, lines = torch.meshgrid(axis, axis, indexing="xy")
    return torch.stack([columns, lines, torch.ones_like(lines)]).expand(rows, -1, -1, -1).clone()


class CoordinateGenerator:
    """Draws the coordinates, whatever it is told."""

    def __init__(self, spoiled: int | None = None) -> None:
        self.spoiled = spoiled

    def generate(self, crops: Tensor, attribute_code: Tensor, identity_code: Tensor, **_: object) -> Tensor:
        drawn = coordinates(len(crops)) * torch.from_numpy(face_mask()) + crops * (1 - torch.from_numpy(face_mask()))
        if self.spoiled is not None:
            drawn[self.spoiled, 0, 60, 60] = torch.nan
        return drawn


class CoordinateReader:
    """Finds where the pixels that were drawn at the mean places have gone, to half a pixel."""

    def __call__(self, crops: Tensor) -> Tensor:
        wanted = (MEAN + 0.5) / (CROP_SIZE / 2) - 1  # (51, 2)
        drawn = torch.cat([wanted, torch.ones(51, 1)], dim=1)
        distance = (crops[:, None] - drawn[None, :, :, None, None]).square().sum(2).flatten(2)  # (n, 51, pixels)
        best = distance.argmin(2)
        inner = torch.stack([best % CROP_SIZE, best // CROP_SIZE], dim=2).float()
        inner = torch.where(torch.isfinite(distance.sum(2, keepdim=True)), inner, torch.nan)
        return torch.cat([torch.zeros(len(crops), 17, 2), inner], dim=1)


def told(offsets: Tensor) -> Tensor:
    """Attribute codes (n, 10, 8, 8) that tell offsets (n, 51, 2) in crop pixels."""
    return torch.cat([torch.zeros(len(offsets), 8, 8, 8), to_sheets(offsets / LANDMARK_SCALE)], dim=1)


def smooth_offsets(rows: int) -> Tensor:
    """A shift, a stretch and a local part of 2 to 4 pixels, another one for each row."""
    direction = torch.linspace(-1, 1, rows)[:, None, None]
    local = torch.exp(-(MEAN - 64).square().sum(1) / (2 * 12.0**2))[None, :, None]
    return direction * torch.tensor([2.5, -2.0]) + direction * (MEAN - 64)[None] * 0.06 + 1.5 * direction * local


def corrected(offsets: Tensor, spoiled: int | None = None) -> Tensor:
    model = LandmarkCorrection(CoordinateGenerator(spoiled), CoordinateReader(), MEAN)
    streams = [torch.Generator() for _ in offsets]
    context = CONTEXT[:1].expand(len(offsets), -1, -1, -1)
    return model.generate(
        context, told(offsets), torch.zeros(len(offsets), 4), steps=1, guidance=1.0, generator=streams
    )


def test_landmarks_come_to_lie_where_the_code_tells_them() -> None:
    offsets = smooth_offsets(4)
    found = CoordinateReader()(corrected(offsets))[:, 17:]
    before = (offsets).norm(dim=2).mean()
    after = (found - MEAN - offsets).norm(dim=2).mean()
    assert before > 2.0
    assert after < 0.25 * before


def test_outside_the_mask_the_context_stays() -> None:
    faces = corrected(smooth_offsets(2))
    outside = torch.from_numpy(face_mask()) == 0
    assert torch.equal(faces[..., outside], CONTEXT[..., outside])


def test_a_face_told_what_was_drawn_stays_as_it_was_drawn() -> None:
    faces = corrected(torch.zeros(1, 51, 2))
    inner = slice(44, 84)
    assert (faces - coordinates(1))[:, :2, inner, inner].abs().max() * (CROP_SIZE / 2) < 0.5


@pytest.mark.parametrize("other", [0, 1])
def test_a_row_that_is_not_finite_is_returned_and_spoils_no_other(other: int) -> None:
    offsets = smooth_offsets(2)
    faces = corrected(offsets, spoiled=1 - other)
    assert torch.isnan(faces[1 - other]).any()
    assert torch.allclose(faces[other], corrected(offsets)[other], atol=1e-4)


def test_a_row_does_not_depend_on_its_company() -> None:
    offsets = smooth_offsets(3)
    assert torch.allclose(corrected(offsets)[2:], corrected(offsets[2:]), atol=1e-4)


def test_the_field_is_the_posterior_mean_of_the_process_that_the_module_describes() -> None:
    rng = torch.Generator().manual_seed(1)
    points = torch.rand(1, 51, 2, generator=rng).double() * 60 + 34
    offsets = torch.randn(1, 51, 2, generator=rng).double()

    def covariance(a: Tensor, b: Tensor) -> Tensor:
        smooth = torch.exp(-torch.cdist(a, b).square() / (2 * 14.0**2))
        linear = 4.0**2 + (2.0 / 32.0) ** 2 * ((a - 64) @ (b - 64).T)
        return smooth + linear

    # between four knots, where the field is computed
    place = torch.tensor([[57.5, 69.5]]).double()
    gram = covariance(points[0], points[0]) + 4.0 * torch.eye(51).double()
    expected = covariance(place, points[0]) @ torch.linalg.inv(gram) @ offsets[0]
    field = displacement_field(points, offsets)
    shown = field[0, :, 68:72, 56:60].mean((1, 2))
    assert torch.allclose(shown, expected[0], atol=0.05 * float(expected.norm()))  # what bilinear knots cost


def test_no_part_is_moved_further_than_eight_pixels_and_no_bad_number_spreads() -> None:
    points = MEAN[None]
    offsets = torch.full((1, 51, 2), 40.0)
    assert displacement_field(points, offsets).abs().max() == 8.0
    assert displacement_field(points, torch.full((1, 51, 2), torch.nan)).abs().max() == 0.0


def test_a_constant_field_shifts_a_picture() -> None:
    picture = coordinates(1)
    field = torch.zeros(1, 2, CROP_SIZE, CROP_SIZE)
    field[:, 0], field[:, 1] = 3.0, -2.0
    moved = warp(picture, field)
    assert torch.allclose(moved[..., 10:110, 10:110], picture[..., 8:108, 13:113], atol=1e-4)
