"""The losses on swapped faces are silent where nothing is wrong and point the right way where something is."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from training.objectives.privacy import identity_transfer, landmark_distance, oracle_excess, privacy_hinge


def test_below_every_threshold_the_hinge_and_its_gradient_are_exactly_zero(generator: torch.Generator) -> None:
    source = {name: F.normalize(torch.randn(6, 32, generator=generator), dim=1) for name in ("a", "b")}
    drawn = {name: -vectors.clone() for name, vectors in source.items()}
    for vectors in drawn.values():
        vectors.requires_grad_()
    loss = privacy_hinge(drawn, source, {"a": 0.3, "b": 0.4})
    loss.sum().backward()
    assert not loss.any()
    assert all(vectors.grad is not None and not vectors.grad.any() for vectors in drawn.values())


def test_above_a_threshold_the_hinge_is_the_excess_of_the_oracles_that_recognize(generator: torch.Generator) -> None:
    same = F.normalize(torch.randn(3, 16, generator=generator), dim=1)
    source = {"a": same, "b": same}
    loss = privacy_hinge({"a": same, "b": -same}, source, {"a": 0.3, "b": 0.4})
    assert torch.allclose(loss, torch.full((3,), 0.7), atol=1e-6)


def test_weights_scale_the_part_of_their_oracle_and_weights_of_one_change_nothing(generator: torch.Generator) -> None:
    source = {name: F.normalize(torch.randn(5, 8, generator=generator), dim=1) for name in ("a", "b", "c")}
    drawn = {name: F.normalize(torch.randn(5, 8, generator=generator), dim=1) for name in source}
    limits = {"a": -0.5, "b": -0.2, "c": 0.0}
    parts = oracle_excess(drawn, source, limits)
    weighted = privacy_hinge(drawn, source, limits, {"a": 0.0, "b": 3.0, "c": 0.5})
    assert torch.allclose(weighted, 3 * parts["b"] + 0.5 * parts["c"])
    plain = privacy_hinge(drawn, source, limits)
    assert torch.equal(plain, privacy_hinge(drawn, source, limits, dict.fromkeys(limits, 1.0)))
    assert torch.allclose(plain, parts["a"] + parts["b"] + parts["c"])
    with pytest.raises(ValueError, match="no weight of b, c"):
        privacy_hinge(drawn, source, limits, {"a": 1.0})


def test_a_step_down_the_transfer_loss_brings_the_code_nearer_to_the_wanted_person(generator: torch.Generator) -> None:
    wanted = F.normalize(torch.randn(4, 16, generator=generator), dim=1)
    raw = torch.randn(4, 16, generator=generator, requires_grad=True)
    before = identity_transfer(F.normalize(raw, dim=1), wanted)
    before.sum().backward()
    assert raw.grad is not None
    after = identity_transfer(F.normalize(raw.detach() - 0.1 * raw.grad, dim=1), wanted)
    assert bool((after < before).all())


def test_the_landmark_distance_is_the_mean_euclidean_distance(generator: torch.Generator) -> None:
    points = torch.randn(2, 51, 2, generator=generator)
    shift = torch.tensor([3.0, 4.0])
    assert landmark_distance(points + shift, points).tolist() == pytest.approx([5.0, 5.0], rel=1e-4)
