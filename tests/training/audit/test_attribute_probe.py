"""A probe finds people by their codes when these carry identity, and is at chance when they do not."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.attribute_probe import CodeProbe
from training.audit.statistics import top_scored

CODE, EMBEDDING, PEOPLE = 80, 48, 150


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def success(codes: np.ndarray, embeddings: np.ndarray) -> float:
    """Rank-1 among people the probe was not fitted on."""
    probe = CodeProbe.fit(codes[:PEOPLE], embeddings[:PEOPLE])
    scores = probe.scores(codes[PEOPLE:], embeddings[PEOPLE:])
    return float(top_scored(scores, np.arange(PEOPLE)).mean())


def test_a_code_that_carries_six_traits_gives_people_away(rng: np.random.Generator) -> None:
    traits = rng.normal(size=(2 * PEOPLE, 6))
    embeddings = unit(traits @ rng.normal(size=(6, EMBEDDING)) + 0.3 * rng.normal(size=(2 * PEOPLE, EMBEDDING)))
    codes = 5 + traits @ rng.normal(size=(6, CODE)) + rng.normal(size=(2 * PEOPLE, CODE))
    assert success(codes.astype(np.float32), embeddings) > 0.3
    # the same codes given to other people
    assert success(codes[rng.permutation(len(codes))].astype(np.float32), embeddings) < 0.04


def test_a_code_of_circumstances_alone_is_at_chance(rng: np.random.Generator) -> None:
    embeddings = unit(rng.normal(size=(2 * PEOPLE, EMBEDDING)))
    codes = rng.normal(size=(2 * PEOPLE, CODE)).astype(np.float32)
    # chance is 1 in 150; six or more have probability 6e-4
    assert success(codes, embeddings) < 0.04


def test_a_noisier_code_gets_a_larger_penalty(rng: np.random.Generator) -> None:
    traits = rng.normal(size=(PEOPLE, EMBEDDING))
    clear = np.concatenate([traits, traits], axis=1).astype(np.float32)
    noisy = (clear + 20 * rng.normal(size=clear.shape)).astype(np.float32)
    assert CodeProbe.fit(noisy, unit(traits)).penalty > CodeProbe.fit(clear, unit(traits)).penalty


def test_one_person_is_too_few(rng: np.random.Generator) -> None:
    one = rng.normal(size=(1, 4)).astype(np.float32)
    with pytest.raises(ValueError, match="two people"):
        CodeProbe.fit(one, one)
