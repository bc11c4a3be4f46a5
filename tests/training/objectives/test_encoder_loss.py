"""The encoder's loss: what its terms are, how weights add them up, and how weights travel as an artifact."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from models.registry.store import ArtifactStore
from training.objectives.disentanglement import IdentityProbe
from training.objectives.encoder_loss import (
    ARTIFACT_NAME,
    FILE_NAME,
    EncoderTerms,
    LossWeights,
    LossWeightsError,
    encoder_terms,
    load_loss_weights,
)


def test_the_total_is_reconstruction_plus_weighted_rate_plus_weighted_leak() -> None:
    terms = EncoderTerms(torch.tensor(0.2), torch.tensor(50.0), torch.tensor(0.4))
    assert float(LossWeights(1e-3, 0.5).total(terms)) == pytest.approx(0.2 + 0.05 + 0.2)
    assert set(terms.as_dict()) == {"reconstruction", "rate", "leak"}


def test_before_the_probe_counts_there_is_no_leak_to_pay_for() -> None:
    target = torch.zeros(2, 3, 4, 4)
    learned = (torch.zeros(2, 8, 8, 8), torch.ones(2, 8, 8, 8))
    code, wanted = torch.randn(2, 10, 8, 8), torch.nn.functional.normalize(torch.randn(2, 128), dim=1)
    without = encoder_terms(target + 0.5, target, torch.ones(1, 1, 4, 4), learned, code, wanted, None)
    assert without.leak is None
    assert float(without.reconstruction) == pytest.approx(0.5)
    assert float(without.rate) == pytest.approx(0.0)
    assert float(LossWeights(1.0, 1.0).total(without)) == pytest.approx(0.5)
    with_probe = encoder_terms(target, target, torch.ones(1, 1, 4, 4), learned, code, wanted, IdentityProbe())
    assert with_probe.leak is not None


def test_published_weights_come_back_as_they_were(tmp_path: Path) -> None:
    weights = LossWeights(2.5e-5, 0.31)
    store = ArtifactStore(tmp_path)
    manifest = store.publish(ARTIFACT_NAME, "loss-weights", {FILE_NAME: weights.to_json()})
    assert load_loss_weights(store, manifest.version) == weights


@pytest.mark.parametrize("data", [b"no json", b"[1, 2]", b'{"rate": 1.0}', b'{"rate": 1.0, "leak": 1.0, "more": 1}'])
def test_a_file_that_is_not_a_table_of_the_two_weights_is_refused(data: bytes) -> None:
    with pytest.raises(LossWeightsError, match="unreadable"):
        LossWeights.from_json(data)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_weights_must_be_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(LossWeightsError, match="leak"):
        LossWeights(1.0, bad)
