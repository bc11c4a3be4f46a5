"""The watch over two networks that train against each other: when it certifies, and how far it lets them move."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.optimizers.games.step_watch import StepWatch


def players() -> tuple[Tensor, Tensor]:
    return torch.full((4,), 2.0, requires_grad=True), torch.full((3,), -1.0, requires_grad=True)


def losses(x: Tensor, y: Tensor, *, curvature: float) -> list[Tensor]:
    meeting = x.sum() * y.sum() / 10
    return [curvature * x.square().sum() + meeting, curvature * y.square().sum() - meeting]


def test_a_strongly_convex_game_is_certified_and_counted() -> None:
    x, y = players()
    watch = StepWatch([[x], [y]])
    record = watch.look(losses(x, y, curvature=1.0))
    assert record["certified"] == 1.0
    assert watch.step == pytest.approx(record["certified_step"])
    assert record["coupling_01"] == pytest.approx(12**0.5 / 10, rel=1e-4)
    assert (watch.looks, watch.certified) == (1, 1)


def test_a_concave_game_is_certified_only_with_damping_above_what_it_says_it_needs() -> None:
    x, y = players()
    needed = StepWatch([[x], [y]]).look(losses(x, y, curvature=-1.0))["damping_needed"]
    assert needed > 2.0
    for factor, certified in ((0.9, 0.0), (1.1, 1.0)):
        watch = StepWatch([[x], [y]], damping=factor * needed)
        assert watch.look(losses(x, y, curvature=-1.0))["certified"] == certified


def test_a_long_move_is_shortened_to_the_certified_length_in_its_own_direction() -> None:
    x, y = players()
    watch = StepWatch([[x], [y]])
    game = losses(x, y, curvature=1.0)
    watch.look(game)
    game[0].backward()
    gradient = x.grad
    assert gradient is not None
    assert watch.step is not None
    reach = watch.step * float(gradient.norm())
    before = x.detach().clone()
    with watch.bounded(0), torch.no_grad():
        x.add_(torch.tensor([3.0, 4.0, 0.0, 0.0]))
    move = x.detach() - before
    assert float(move.norm()) == pytest.approx(reach, rel=1e-5)
    assert torch.allclose(move / move.norm(), torch.tensor([0.6, 0.8, 0.0, 0.0]), atol=1e-5)


def test_short_moves_and_moves_without_a_certificate_are_left_alone() -> None:
    x, y = players()
    watch = StepWatch([[x], [y]])
    with watch.bounded(0), torch.no_grad():
        x.add_(100.0)
    assert float(x.detach()[0]) == 102.0
    game = losses(x, y, curvature=1.0)
    watch.look(game)
    game[0].backward()
    with watch.bounded(0), torch.no_grad():
        x.sub_(0.5)
    assert float(x.detach()[0]) == 101.5


def test_the_damping_that_is_granted_pulls_towards_the_last_look() -> None:
    x, y = players()
    watch = StepWatch([[x], [y]], damping=5.0)
    game = losses(x, y, curvature=1.0)
    watch.look(game)
    game[0].backward()
    assert x.grad is not None
    plain = x.grad.clone()
    with torch.no_grad():
        x.add_(1.0)
    with watch.bounded(0):
        assert torch.allclose(x.grad, plain + 5.0)


def test_players_without_parameters_and_negative_damping_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        StepWatch([[], [torch.zeros(1)]])
    with pytest.raises(ValueError, match="damping"):
        StepWatch([[torch.zeros(1)]], damping=-1.0)
