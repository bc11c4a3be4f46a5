"""Tuning the loss weights: the hand-set weights set their own limit, and the plain search finds what obeys it."""

from __future__ import annotations

import pytest
import torch

from training.jobs.tune_loss_weights import TuneLossWeightsConfig, _grid, _hand_set, _search
from training.problems.loss_weight_proxy import LossWeightProxy


def proxy() -> LossWeightProxy:
    rng = torch.Generator().manual_seed(0)
    worth, leak = 0.05 * torch.rand(2, 10, generator=rng, dtype=torch.float64) + 0.002
    return LossWeightProxy(worth, leak, leak, torch.ones(10, dtype=torch.float64))


def test_without_a_limit_it_is_the_leak_that_hand_set_weights_lead_to() -> None:
    found = proxy()
    weights, limit = _hand_set(TuneLossWeightsConfig(), found)
    assert float(found.leak @ found.lower_solution(weights)) == pytest.approx(limit, rel=1e-6)
    assert float(weights[1]) == pytest.approx(0.2 / (2 * limit**0.5), rel=1e-6)


def test_the_search_solves_the_lower_level_and_keeps_the_best_pair_that_obeys_the_limit() -> None:
    found = proxy()
    _, limit = _hand_set(TuneLossWeightsConfig(), found)
    pairs = _grid(49)
    choice = _search(found, limit, pairs, 49 * 200)
    exact = {
        tuple(pair.tolist()): float(found.validation(shares))
        for pair in pairs
        for shares in [found.lower_solution(pair)]
        if float(found.leak @ shares) <= limit
    }
    assert exact[tuple(choice.weights.tolist())] == pytest.approx(min(exact.values()))
    assert choice.gradients == 49 * 200
    assert choice.violation > 0  # it had to visit pairs that leak
