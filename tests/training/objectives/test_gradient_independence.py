"""Random-sign estimates against explicit Jacobians, and zeros where codes really are independent mechanisms."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jacrev

from models.oracles.ensemble import load_oracle
from models.oracles.networks.landmarks68 import load_landmarks
from models.registry.store import ArtifactStore
from training.objectives.gradient_independence import (
    DerivativeError,
    PictureReader,
    drift,
    landmark_reader,
    oracle_reader,
    overlap,
    probe_gradient,
    random_response,
    random_signs,
    squared_cosines,
)

Decode = Callable[[Tensor, Tensor], Tensor]
COUNT = 3000


@pytest.fixture
def decode() -> Decode:
    """A small smooth decoder of attributes (n, 6) and identity (n, 4) to pictures (n, 3, 4, 4)."""
    rng = torch.Generator().manual_seed(3)
    first, second = torch.randn(10, 12, generator=rng) / 3, torch.randn(12, 48, generator=rng) / 3

    def apply(attributes: Tensor, identity: Tensor) -> Tensor:
        return (torch.tanh(torch.cat([attributes, identity], dim=1) @ first) @ second).view(-1, 3, 4, 4)

    return apply


def jacobian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    return jacrev(lambda row: function(row[None]).flatten())(at[0])


def test_the_overlap_is_that_of_the_explicit_jacobians(decode: Decode, generator: torch.Generator) -> None:
    attributes, identity = torch.randn(1, 6, generator=generator), torch.randn(1, 4, generator=generator)
    of_attributes = jacobian(lambda at: decode(at, identity), attributes)
    of_identity = jacobian(lambda at: decode(attributes, at), identity)
    exact = float((of_identity.T @ of_attributes).square().sum())
    exact /= float(of_identity.square().sum() * of_attributes.square().sum())
    many, same = attributes.expand(COUNT, -1), identity.expand(COUNT, -1)
    moved = random_response(lambda at: decode(many, at), same, generator)[1]
    answers = random_response(lambda at: decode(at, same), many, generator)[1]
    # one pair of moves has a relative deviation of about 1.4
    assert float(overlap(moved, answers)) == pytest.approx(exact, rel=3 * 1.4 / COUNT**0.5)
    cosines = squared_cosines(moved, answers)
    assert cosines.shape == (COUNT,)
    assert bool((cosines >= 0).all())
    assert float(cosines.max()) <= 1 + 1e-6


def test_codes_that_paint_different_pixels_do_not_overlap(generator: torch.Generator) -> None:
    def parts(attributes: Tensor, identity: Tensor) -> Tensor:
        return torch.cat([torch.sin(attributes), identity.square()], dim=1)

    attributes, identity = torch.randn(8, 5, generator=generator), torch.randn(8, 5, generator=generator)
    moved = random_response(lambda at: parts(attributes, at), identity, generator)[1]
    answers = random_response(lambda at: parts(at, identity), attributes, generator)[1]
    assert float(overlap(moved, answers)) == 0.0
    assert not squared_cosines(moved, answers).any()


def test_codes_with_one_and_the_same_effect_overlap_fully(generator: torch.Generator) -> None:
    direction = torch.randn(1, 7, generator=generator)
    answers = torch.randn(5, 1, generator=generator) * direction
    assert float(overlap(2 * answers, -answers)) == pytest.approx(1.0)


def test_a_decoder_that_ignores_a_code_overlaps_with_nothing_and_gives_no_division_by_zero() -> None:
    assert float(overlap(torch.zeros(3, 4), torch.ones(3, 4))) == 0.0


def test_the_drift_is_the_squared_norm_of_the_whole_derivative(decode: Decode, generator: torch.Generator) -> None:
    mixing = torch.randn(3 * 8 * 8, 5, generator=generator) / 10
    # sampling on a fixed grid, as the readers of faces do: forward mode alone could not pass it
    grid = F.affine_grid(torch.tensor([[[0.7, 0.1, 0.0], [0.0, 0.9, 0.1]]]), [1, 3, 8, 8], align_corners=False)
    reader = PictureReader(
        lambda x: F.grid_sample(x, grid.expand(len(x), -1, -1, -1), align_corners=False) + 0.5,
        lambda seen: F.normalize(torch.tanh(seen.flatten(1) @ mixing), dim=1),
    )
    attributes, identity = torch.randn(1, 6, generator=generator), torch.randn(1, 4, generator=generator)
    exact = jacobian(lambda at: reader.read(reader.view(decode(at, identity))), attributes).square().sum()
    many, same = attributes.expand(COUNT, -1), identity.expand(COUNT, -1)
    drawn, moves = random_response(lambda at: decode(at, same), many, generator)
    found = drift(reader, drawn, moves)
    assert float(found.mean()) == pytest.approx(float(exact), abs=4 * float(found.std()) / COUNT**0.5)


def test_a_reader_that_sees_only_what_does_not_move_does_not_drift(generator: torch.Generator) -> None:
    reader = PictureReader(lambda x: x[:, :, :2], lambda seen: torch.tanh(seen.flatten(1)))
    moves = torch.randn(2, 3, 4, 4, generator=generator)
    moves[:, :, :2] = 0
    assert not drift(reader, torch.randn(2, 3, 4, 4, generator=generator), moves).any()


def test_every_term_trains_the_networks_in_it(decode: Decode, generator: torch.Generator) -> None:
    attributes = torch.randn(4, 6, generator=generator, requires_grad=True)
    identity = torch.randn(4, 4, generator=generator, requires_grad=True)
    reader = PictureReader(lambda x: x, lambda seen: torch.tanh(seen.flatten(1)))
    drawn, answers = random_response(lambda at: decode(at, identity), attributes, generator)
    _, moved = random_response(lambda at: decode(attributes, at), identity, generator)
    for term in (overlap(moved, answers), drift(reader, drawn, answers).mean()):
        for gradient in torch.autograd.grad(term, (attributes, identity), retain_graph=True):
            assert bool(gradient.any())


def test_the_gradient_of_a_linear_probe_is_its_projection_on_what_the_cosine_can_still_win() -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))

        def forward(self, codes: Tensor) -> Tensor:
            return F.normalize(codes @ self.weight, dim=1)

    probe = Linear()
    codes = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    wanted = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = probe_gradient(probe, codes, wanted)
    # at the best answer nothing can be won; at a right angle the whole change of angle, 1 / |code|
    assert found.tolist() == pytest.approx([0.0, 1.0])
    found.sum().backward()
    assert probe.weight.grad is None
    assert codes.grad is not None


def test_signs_are_signs_with_equal_chance(generator: torch.Generator) -> None:
    signs = random_signs(torch.zeros(100, 100, dtype=torch.float64), generator)
    assert signs.dtype == torch.float64
    assert bool((signs.abs() == 1).all())
    assert abs(float(signs.mean())) < 4 / 100


def test_answers_of_different_shapes_are_refused() -> None:
    for function in (overlap, squared_cosines):
        with pytest.raises(DerivativeError, match="shape"):
            function(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(DerivativeError, match="shape"):
        drift(PictureReader(lambda x: x, lambda x: x), torch.zeros(2, 3), torch.zeros(2, 4))


def test_the_readers_answer_as_their_networks_and_their_drift_is_a_finite_difference(
    upstream_store: Path, generator: torch.Generator
) -> None:
    store = ArtifactStore(upstream_store)
    oracle, network = load_oracle(store, "dlib"), load_landmarks(store)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    crops = F.interpolate(coarse, size=(128, 128), mode="bicubic").clamp(0, 1) * 2 - 1
    moves = torch.randn(1, 3, 8, 8, generator=generator)
    moves = F.interpolate(moves, size=(128, 128), mode="bilinear")
    for reader, answer in (
        (oracle_reader(oracle), oracle),
        (landmark_reader(network), lambda x: network(x).flatten(1)),
    ):
        with torch.no_grad():
            assert torch.allclose(reader.read(reader.view(crops)), answer(crops), atol=1e-4)
            step = 1e-3
            ahead, behind = (answer(crops + sign * step * moves).double() for sign in (1, -1))
        expected = float(((ahead - behind) / (2 * step)).square().sum())
        # rectifiers bend between the two, and single precision rounds
        assert float(drift(reader, crops, moves)) == pytest.approx(expected, rel=0.1)
