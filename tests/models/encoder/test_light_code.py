"""The light of a crop is what a smooth head shows of it: its colors and their slow change inside the mask, no more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.encoder.light_code import NUM_LIGHT, harmonic_basis, light_numbers


def inside_only(values: np.ndarray) -> torch.Tensor:
    """Crops (1, 3, 128, 128) with the values (3, p) inside the mask and zero outside."""
    inside, _ = harmonic_basis()
    crops = np.zeros((3, 128, 128), dtype=np.float32)
    crops[:, inside] = values
    return torch.from_numpy(crops)[None]


def without_harmonics(values: np.ndarray) -> np.ndarray:
    """What of rows (n, p) is orthogonal to every harmonic."""
    _, basis = harmonic_basis()
    return values - (values @ basis) @ basis.T


def test_the_basis_is_orthonormal_over_the_pixels_of_the_mask() -> None:
    inside, basis = harmonic_basis()
    assert inside.shape == (128, 128)
    assert basis.shape == (inside.sum(), 9)
    assert basis.T @ basis == pytest.approx(np.eye(9), abs=1e-12)
    # most of the face, nothing of the corners
    assert 0.25 < inside.mean() < 0.6
    assert not inside[[0, 0, -1, -1], [0, -1, 0, -1]].any()


def test_a_crop_of_one_color_has_that_color_as_its_one_harmonic_per_channel() -> None:
    color = torch.tensor([0.7, -0.2, 0.4])
    light = light_numbers(color[None, :, None, None].expand(2, 3, 128, 128))
    assert light.shape == (2, NUM_LIGHT)
    constant, others = light.unflatten(1, (3, 9)).split([1, 8], dim=2)
    sign = float(np.sign(harmonic_basis()[1][0, 0]))  # an orthonormal basis leaves it open
    assert torch.allclose(sign * constant[..., 0], color.expand(2, 3), atol=1e-4)
    assert float(others.abs().max()) < 1e-4


def test_a_shading_that_is_linear_over_the_crop_is_drawn_again_from_its_numbers() -> None:
    inside, basis = harmonic_basis()
    rows, columns = np.nonzero(inside)
    slopes = np.array([[0.004, 0.0, 0.1], [0.0, -0.003, -0.2], [0.002, 0.001, 0.0]])
    values = slopes @ np.stack([columns - 64.0, rows - 64.0, np.ones(len(rows))])
    light = light_numbers(inside_only(values)).numpy().reshape(3, 9)
    assert light @ basis.T * np.sqrt(len(basis)) == pytest.approx(values, abs=1e-5)


def test_the_numbers_are_root_mean_squares_over_the_mask(rng: np.random.Generator) -> None:
    _, basis = harmonic_basis()
    values = rng.normal(size=(3, 9)) @ basis.T * 10
    light = light_numbers(inside_only(values)).numpy().reshape(3, 9)
    assert np.square(light).sum(1) == pytest.approx(np.square(values).mean(1), rel=1e-5)


def test_detail_and_whatever_lies_outside_the_mask_tell_nothing(
    rng: np.random.Generator, generator: torch.Generator
) -> None:
    inside, _ = harmonic_basis()
    crops = torch.rand(4, 3, 128, 128, generator=generator) * 2 - 1
    light = light_numbers(crops)
    detail = inside_only(without_harmonics(rng.normal(size=(3, int(inside.sum())))))
    assert float(detail.abs().mean()) > 0.1
    assert torch.allclose(light_numbers(crops + detail), light, atol=1e-4)
    outside = torch.where(torch.from_numpy(inside), crops, torch.rand(crops.shape, generator=generator))
    assert not torch.equal(outside, crops)
    assert torch.equal(light_numbers(outside), light)


def test_light_that_changes_color_or_side_changes_the_numbers() -> None:
    rows = torch.linspace(-0.5, 0.5, 128)[None, None, None, :].expand(1, 3, 128, 128)
    assert float((light_numbers(rows) - light_numbers(rows.flip(3))).abs().max()) > 0.1
    reddish = rows + torch.tensor([0.2, 0.0, -0.2])[:, None, None]
    changed = (light_numbers(reddish) - light_numbers(rows)).abs().unflatten(1, (3, 9)).amax(2)[0]
    assert changed.tolist() == pytest.approx([0.2, 0.0, 0.2], abs=1e-5)
