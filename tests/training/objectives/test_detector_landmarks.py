"""The distance sees a face move, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.objectives.detector_landmarks import DetectorLandmarks


class _BrightSpot(nn.Module):
    """Says that all five landmarks are at the center of brightness."""

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        light = windows.mean(1).add(1)  # (n, 48, 48)
        places = (torch.arange(48) + 0.5) / 48
        total = light.sum((1, 2))
        x, y = (light.sum(1) * places).sum(1) / total, (light.sum(2) * places).sum(1) / total
        points = torch.cat([x[:, None].expand(-1, 5), y[:, None].expand(-1, 5)], dim=1)
        return torch.zeros(len(x), 4), points, torch.zeros(len(x), 2)


def _spot(x: int, y: int) -> Tensor:
    crops = torch.full((1, 3, 128, 128), -1.0)
    crops[..., y - 2 : y + 3, x - 2 : x + 3] = 1.0
    return crops


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_distance_in_crop_pixels_whatever_the_window(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    moved = DetectorLandmarks(_BrightSpot())(_spot(67, 76), _spot(64, 72), rng)
    assert moved.item() == pytest.approx(5.0, abs=0.25)


def test_equal_faces_have_no_distance_and_the_gradient_goes_to_the_drawn_one_only() -> None:
    distance = DetectorLandmarks(_BrightSpot())
    drawn, source = _spot(60, 70).requires_grad_(), _spot(64, 72).requires_grad_()
    assert distance(source.detach(), source.detach(), torch.Generator().manual_seed(0)).item() < 0.15
    distance(drawn, source, torch.Generator().manual_seed(0)).sum().backward()
    assert drawn.grad is not None
    assert bool(drawn.grad.any())
    assert source.grad is None
