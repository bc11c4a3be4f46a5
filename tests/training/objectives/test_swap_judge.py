"""The judge of swapped faces: with weights of one it is the plain sum to the bit, and its parts make up the whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoder.landmark_code import NUM_LANDMARKS
from models.encoder.variational import IdentityEncoder
from models.oracles.thresholds import OracleThreshold
from training.objectives.oracle_weights import OracleWeights
from training.objectives.swap_judge import SwapJudge

DIMS = {"first": 12, "second": 8, "third": 5}
FACES = 4


def _landmarks(crops: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(crops, (68, 2)).mean(1)


@pytest.fixture
def judge(generator: torch.Generator, blurred_ensemble: Any) -> SwapJudge:
    identity = IdentityEncoder(tuple(DIMS), tuple(DIMS.values()), code_dim=6)
    identity.projection.normal_(generator=generator)
    attributes = SimpleNamespace(
        landmark_net=_landmarks, encoder=SimpleNamespace(landmark_mean=torch.zeros(NUM_LANDMARKS, 2))
    )
    embeddings = {name: F.normalize(torch.randn(FACES, dim, generator=generator), dim=1) for name, dim in DIMS.items()}
    thresholds = {
        name: OracleThreshold(name, 1e-3, limit, 1e-3, limit, 0.95, 1, 1, 1, 0.0, 0.1)
        for name, limit in zip(DIMS, (-0.1, 0.0, 0.3), strict=True)
    }
    return SwapJudge(blurred_ensemble(DIMS), thresholds, attributes, identity, embeddings, margin=1.0, autocast=False)  # type: ignore[arg-type]


def _judged(judge: SwapJudge, weights: dict[str, float] | None) -> tuple[dict[str, Tensor], Tensor]:
    """Terms, and the gradient of the hinge in the faces."""
    rng = torch.Generator().manual_seed(5)
    faces = torch.randn(FACES, 3, 128, 128, generator=rng).requires_grad_()
    wanted = F.normalize(torch.randn(FACES, 6, generator=rng), dim=1)
    terms = judge(faces, torch.arange(FACES), wanted, torch.zeros(FACES, 10, 8, 8), weights)
    (gradient,) = torch.autograd.grad(terms["hinge"], faces)
    return {name: term.detach() for name, term in terms.items()}, gradient


def test_weights_that_have_not_moved_give_the_plain_loss_and_gradient_to_the_bit(judge: SwapJudge) -> None:
    plain, plain_gradient = _judged(judge, None)
    weighted, gradient = _judged(judge, OracleWeights(judge.oracles).weights)
    assert float(plain["hinge"]) > 0
    assert all(torch.equal(plain[name], weighted[name]) for name in plain)
    assert torch.equal(plain_gradient, gradient)


def test_the_hinge_is_the_weighted_sum_of_the_parts_that_each_oracle_has_in_it(judge: SwapJudge) -> None:
    weights = {"first": 0.2, "second": 2.5, "third": 0.3}
    terms, _ = _judged(judge, weights)
    parts = {name: float(terms[f"hinge_{name}"]) for name in judge.oracles}
    assert min(parts.values()) >= 0 < max(parts.values())
    assert float(terms["hinge"]) == pytest.approx(sum(weights[name] * part for name, part in parts.items()), rel=1e-5)


def test_other_terms_do_not_know_the_weights(judge: SwapJudge) -> None:
    plain, weighted = (_judged(judge, weights)[0] for weights in (None, {"first": 0.2, "second": 2.5, "third": 0.3}))
    assert all(torch.equal(plain[name], weighted[name]) for name in plain if name != "hinge")


def test_margins_are_negative_where_the_oracle_accepts_and_grow_with_likeness(
    judge: SwapJudge, generator: torch.Generator
) -> None:
    crops = torch.randn(FACES, 3, 128, 128, generator=generator)
    same, opposite = judge.margins(crops, crops), judge.margins(-crops, crops)
    limits = {"first": -0.2, "second": -0.1, "third": 0.2}  # threshold less one deviation
    for name, limit in limits.items():
        assert same[name].tolist() == pytest.approx([1 - limit] * FACES, abs=1e-5)
        assert opposite[name].tolist() == pytest.approx([-1 - limit] * FACES, abs=1e-5)
