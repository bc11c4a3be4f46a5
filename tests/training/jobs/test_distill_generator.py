"""What the student is judged on: pictures of its own few steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from training.jobs.distill_generator import DistillGeneratorConfig, few_step_estimate

_SHAPE = torch.Size((3, 8, 16, 16))


class _Straight(nn.Module):
    """Velocity toward a learned picture, exact at every level; notes the level and whether a gradient is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Parameter(torch.randn(_SHAPE, generator=torch.Generator().manual_seed(1)))
        self.calls: list[tuple[float, bool]] = []

    def forward(self, noisy: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        self.calls.append((float(t[0]), torch.is_grad_enabled()))
        return (noisy - self.picture) / t[:, None, None, None]


def _estimates(count: int) -> list[tuple[_Straight, Tensor]]:
    rng = torch.Generator().manual_seed(0)
    result = []
    for _ in range(count):
        student = _Straight()
        result.append((student, few_step_estimate(student, _SHAPE, (), rng)))  # type: ignore[arg-type]
    return result


def test_a_student_whose_velocity_is_exact_is_judged_on_its_picture() -> None:
    for student, estimate in _estimates(12):
        torch.testing.assert_close(estimate, student.picture, atol=1e-5, rtol=0)


def test_only_the_last_step_carries_a_gradient() -> None:
    for student, estimate in _estimates(12):
        assert [wants for _, wants in student.calls] == [False] * (len(student.calls) - 1) + [True]
        estimate.sum().backward()
        assert student.picture.grad is not None
        torch.testing.assert_close(student.picture.grad, torch.ones(_SHAPE), atol=1e-5, rtol=0)


def test_every_step_of_one_two_and_four_is_judged_sooner_or_later() -> None:
    levels = {tuple(level for level, _ in student.calls) for student, _ in _estimates(80)}
    assert levels == {(1.0,), (1.0, 0.5), (1.0, 0.75), (1.0, 0.75, 0.5), (1.0, 0.75, 0.5, 0.25)}


def test_one_judged_face_has_no_neighbor_and_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        DistillGeneratorConfig(drawn_rows=1)
