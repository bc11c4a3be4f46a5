"""The optional terms: absent by default, evaluated when wanted, and without influence on anybody's random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from models.encoder.attributes import AttributeEncoder
from training.jobs.ablate_encoder import drawn_readers
from training.objectives.disentanglement import IdentityProbe, LowResolutionDecoder
from training.objectives.disentangling_terms import EVERY, NO_TERMS, DisentanglingTerms, EncodedFaces, TermWeights
from training.objectives.encoder_loss import LossWeightsError
from training.objectives.swap_cycle import swap_cycle

ALL = TermWeights(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
Batch = tuple[AttributeEncoder, LowResolutionDecoder, IdentityProbe, EncodedFaces]


@pytest.fixture
def batch(generator: torch.Generator) -> Batch:
    torch.manual_seed(0)
    model, decoder, probe = AttributeEncoder(), LowResolutionDecoder(), IdentityProbe()
    small = torch.rand(3, 3, 32, 32, generator=generator) * 2 - 1
    learned = model(small)
    landmarks = torch.zeros(3, 2, 8, 8)
    mean, std = torch.cat([learned[0], landmarks], dim=1), torch.cat([learned[1], landmarks + 0.1], dim=1)
    code = mean + std * torch.randn(mean.shape, generator=generator)
    identity = F.normalize(torch.randn(3, 128, generator=generator), dim=1)
    return model, decoder, probe, EncodedFaces(code, mean, std, identity, small, torch.ones(1, 1, 32, 32))


def terms(weights: TermWeights) -> DisentanglingTerms:
    recognizer, landmarks = drawn_readers()
    return DisentanglingTerms(weights, seed=1, recognizer=recognizer, landmarks=landmarks)


def test_no_term_is_wanted_by_default(batch: Batch) -> None:
    before = torch.get_rng_state()
    nothing = terms(NO_TERMS)
    assert NO_TERMS.is_zero
    assert nothing(0, *batch) == {}
    nothing.fit(0, batch[-1])
    assert nothing.modules == {}
    assert nothing.optimizers == {}
    assert float(nothing.total({})) == 0.0
    assert torch.equal(torch.get_rng_state(), before)


def test_every_wanted_term_is_there_trains_the_encoder_and_leaves_global_randomness_alone(batch: Batch) -> None:
    before = torch.get_rng_state()
    wanted = terms(ALL)
    wanted.fit(0, batch[-1])
    found = wanted(0, *batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(found) == set(asdict(ALL))
    first = next(batch[0].parameters())
    for name, term in found.items():
        assert math.isfinite(float(term.detach())), name
        if name == "landmark_drift":  # moves with the identity code alone, at the codes of the encoder
            continue
        if float(term.detach()) > 0:
            (gradient,) = torch.autograd.grad(term, first, retain_graph=True, allow_unused=False)
            assert bool(torch.isfinite(gradient).all()), name


def test_derivatives_are_taken_at_every_fourth_step_with_four_times_the_weight(batch: Batch) -> None:
    wanted = terms(TermWeights(overlap=0.5, cycle=0.5))
    assert set(wanted(EVERY, *batch)) == {"overlap", "cycle"}
    assert set(wanted(EVERY + 1, *batch)) == {"cycle"}
    one = torch.ones(())
    assert float(wanted.total({"overlap": one, "cycle": one})) == pytest.approx(0.5 * EVERY + 0.5)


def test_the_signs_of_a_step_are_those_of_its_number(batch: Batch) -> None:
    first, again = (terms(TermWeights(overlap=1.0))(EVERY, *batch)["overlap"] for _ in range(2))
    later = terms(TermWeights(overlap=1.0))(2 * EVERY, *batch)["overlap"]
    assert float(first.detach()) == float(again.detach())
    assert float(first.detach()) != float(later.detach())


def test_a_term_without_its_network_is_refused() -> None:
    for weights in (TermWeights(identity_drift=1.0), TermWeights(landmark_drift=1.0)):
        with pytest.raises(LossWeightsError, match="drift"):
            DisentanglingTerms(weights, seed=0)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_must_be_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(LossWeightsError, match="cycle"):
        TermWeights(cycle=bad)


def test_a_code_that_survives_the_swap_costs_nothing_and_the_wanted_code_is_not_pulled() -> None:
    mean, std = torch.randn(2, 8, 8, 8, requires_grad=True), torch.full((2, 8, 8, 8), 2.0, requires_grad=True)
    assert float(swap_cycle(mean.detach(), mean, std)) == 0.0
    again = (mean.detach() + 2.0).requires_grad_()
    cost = swap_cycle(again, mean, std)
    assert float(cost.detach()) == pytest.approx(1.0)  # one standard deviation everywhere
    cost.backward()
    assert again.grad is not None
    assert mean.grad is None
    assert std.grad is None


def test_readers_of_drawn_pictures_answer_for_every_picture(
    generator: torch.Generator,
) -> None:
    readers: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = tuple(
        lambda x, r=reader: r.read(r.view(x)) for reader in drawn_readers()
    )
    pictures = torch.rand(2, 3, 32, 32, generator=generator)
    assert [tuple(read(pictures).shape) for read in readers] == [(2, 32), (2, 136)]
