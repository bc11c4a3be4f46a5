"""Oracle weights: the plain hinge at the start, the multiplicative update, its regret bound, and the worst case."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.objectives.oracle_weights import OracleWeights
from training.objectives.privacy import oracle_excess, privacy_hinge
from training.optimizers.first_order.exponentiated_gradient import exponentiated_gradient
from training.problems import StochasticObjective

NAMES = ("first", "second", "third")
LIMITS = {"first": 0.1, "second": 0.2, "third": 0.0}


def embeddings(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: F.normalize(torch.randn(5, 4, generator=generator), dim=1) for name in NAMES}


def test_at_the_start_the_weighted_hinge_is_the_plain_one() -> None:
    drawn, source = embeddings(0), embeddings(1)
    weighted = OracleWeights(NAMES).hinge(drawn, source, LIMITS)
    assert torch.equal(weighted, privacy_hinge(drawn, source, LIMITS))
    assert float(weighted.sum()) > 0


def test_weights_stay_positive_and_keep_the_sum_of_the_plain_hinge() -> None:
    weights = OracleWeights(NAMES, step_size=3.0)
    for step in range(200):
        weights.update({"first": 0.3 * (step % 2), "second": 0.9, "third": -1.0})
        assert sum(weights.weights.values()) == pytest.approx(3.0)
        assert min(weights.weights.values()) >= 0.05
    assert weights.worst == "second"


def test_without_a_floor_the_update_is_exponentiated_gradient_on_the_simplex() -> None:
    excess = torch.tensor([0.02, 0.11, 0.05], dtype=torch.float64)
    method = exponentiated_gradient(StochasticObjective(lambda x, _: -excess), step_size=0.5 / 0.1)
    generator = torch.Generator()
    state = method.init(torch.ones(3, dtype=torch.float64), generator)
    weights = OracleWeights(NAMES, floor=0.0)
    for _ in range(4):
        state, _ = method.step(state, generator)
        weights.update(dict(zip(NAMES, excess, strict=True)))
    expected = 3 * state.x / state.x.sum()
    assert list(weights.weights.values()) == pytest.approx(expected.tolist(), rel=1e-6)


def test_the_worst_of_several_large_excesses_still_wins() -> None:
    weights = OracleWeights(NAMES, step_size=5.0)
    weights.update({"first": 1.2, "second": 1.5, "third": 1.4})
    assert weights.worst == "second"
    assert weights.weights["second"] > 2


def test_no_oracle_outdoes_the_weighted_excess_by_more_than_the_regret_bound() -> None:
    generator = torch.Generator().manual_seed(3)
    steps, rate = 400, 0.2
    weights = OracleWeights(NAMES, step_size=rate, unit=1.0, floor=0.0)
    totals, paid = torch.zeros(3), 0.0
    for step in range(steps):
        excess = torch.rand(3, generator=generator) * torch.tensor([1.0, 0.6, 0.9 if step > 200 else 0.1])
        now = torch.tensor(list(weights.weights.values())) / 3
        paid += float(now @ excess)
        totals += excess
        weights.update(dict(zip(NAMES, excess, strict=True)))
    assert float(totals.max()) - paid <= math.log(3) / rate + rate * steps / 8
    assert float(totals.max()) > paid  # the bound is not met by being far away


def test_the_floor_lets_a_silent_oracle_come_back_within_a_few_steps() -> None:
    weights = OracleWeights(NAMES)
    for _ in range(500):
        weights.update({"first": 0.2, "second": 0.0, "third": 0.0})
    for _ in range(8):
        weights.update({"first": 0.0, "second": 0.2, "third": 0.0})
    assert weights.worst == "second"


def test_descent_on_the_weighted_hinge_ends_with_a_smaller_worst_excess() -> None:
    """Two oracles share one direction and outvote the third: a step of fixed length can serve only one side."""
    targets = {
        "first": torch.tensor([0.6, 0.8]),
        "second": torch.tensor([0.6, 0.8]),
        "third": torch.tensor([0.8, -0.6]),
    }
    limits = dict.fromkeys(NAMES, 0.0)

    def worst_after(adapt: bool) -> float:
        weights = OracleWeights(NAMES, step_size=0.5)
        x = torch.tensor([1.0, 0.0])
        history = torch.zeros(3)
        for step in range(300):
            point = x.clone().requires_grad_()
            drawn = {name: F.normalize(point, dim=0)[None] for name in NAMES}
            source = {name: target[None] for name, target in targets.items()}
            loss = weights.hinge(drawn, source, limits).sum() + (point - torch.tensor([1.0, 0.0])).square().sum()
            (gradient,) = torch.autograd.grad(loss, point)
            x = x - 0.02 * gradient
            excess = {name: value.detach() for name, value in oracle_excess(drawn, source, limits).items()}
            history = (
                torch.cat(list(excess.values()))
                if step == 0
                else 0.98 * history + 0.02 * torch.cat(list(excess.values()))
            )
            if adapt:
                weights.update(excess)
        return float(history.max())

    assert worst_after(adapt=True) < worst_after(adapt=False) - 0.05


def test_restored_weights_go_on_as_if_they_had_never_been_away() -> None:
    excess = {"first": 0.02, "second": 0.11, "third": 0.05}
    kept, restored = OracleWeights(NAMES), OracleWeights(NAMES)
    kept.update(excess)
    restored.load_state_dict(kept.state_dict())
    for weights in (kept, restored):
        weights.update(excess)
    assert kept.weights == restored.weights
    assert kept.worst == "second"


def test_bad_settings_and_missing_or_infinite_excesses_are_refused() -> None:
    with pytest.raises(ValueError, match="step_size"):
        OracleWeights(NAMES, step_size=0.0)
    with pytest.raises(ValueError, match="floor"):
        OracleWeights(NAMES, floor=1.0)
    with pytest.raises(ValueError, match="distinct"):
        OracleWeights(("first", "first"))
    weights = OracleWeights(NAMES)
    with pytest.raises(ValueError, match="'third'"):
        weights.update({"first": 0.1, "second": 0.1})
    with pytest.raises(ValueError, match="finite"):
        weights.update({"first": math.nan, "second": 0.1, "third": 0.1})
