"""Trained attackers find what is hidden by a fixed linear change, and nothing where nothing is."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.attackers import PairAttacker, RidgeAttacker, _strangers
from training.audit.label_attacker import LabelAttacker
from training.audit.statistics import top_scored

DIM, PEOPLE, SPLITS = 48, 300, (0, 24, 48)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def world(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """People of six latent traits; a release turns their embedding by a fixed rotation and adds noise."""
    traits = rng.normal(size=(2 * PEOPLE, 6)) @ rng.normal(size=(6, DIM))
    turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    clean = unit(traits + 0.3 * rng.normal(size=traits.shape))
    hidden = unit(traits @ turn + 0.3 * rng.normal(size=traits.shape))
    # light and pose: large, shared directions that say nothing of the person
    nuisance = rng.normal(size=(8, DIM))
    lit = [unit(traits + 3.0 * rng.normal(size=(len(traits), 8)) @ nuisance) for _ in range(2)]
    nothing = unit(rng.normal(size=traits.shape))
    return {"clean": clean, "hidden": hidden, "lit": lit[0], "lit again": lit[1], "nothing": nothing}


def success(attacker: RidgeAttacker | PairAttacker | LabelAttacker, released: np.ndarray, clean: np.ndarray) -> float:
    return float(top_scored(attacker.scores(released[PEOPLE:], clean[PEOPLE:]), np.arange(PEOPLE)).mean())


def test_a_ridge_attacker_undoes_a_rotation_that_a_stock_recognizer_cannot(world: dict[str, np.ndarray]) -> None:
    stock = float(top_scored(world["hidden"][PEOPLE:] @ world["clean"][PEOPLE:].T, np.arange(PEOPLE)).mean())
    trained = RidgeAttacker.fit(world["hidden"][:PEOPLE], world["clean"][:PEOPLE], penalty=0.1)
    assert stock < 0.03
    assert success(trained, world["hidden"], world["clean"]) > 0.3


def test_a_pair_attacker_weighs_the_directions_that_identity_survives_in(
    world: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    stock = float(top_scored(world["lit"][PEOPLE:] @ world["lit again"][PEOPLE:].T, np.arange(PEOPLE)).mean())
    trained = PairAttacker.fit(world["lit"][:PEOPLE], world["lit again"][:PEOPLE], SPLITS, rng)
    assert success(trained, world["lit"], world["lit again"]) > stock + 0.1


def test_a_pair_scores_what_its_features_weigh(world: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    trained = PairAttacker.fit(world["lit"][:40], world["lit again"][:40], SPLITS, rng, steps=5)
    probes, gallery = world["lit"][40:44], world["lit again"][40:47]
    scores = trained.scores(probes, gallery)
    for row, probe in enumerate(probes):
        paired = trained.features(np.broadcast_to(probe, gallery.shape), gallery)
        assert scores[row] == pytest.approx(paired @ trained.weights, rel=1e-6)


def test_two_photos_of_one_person_are_no_wrong_pair(rng: np.random.Generator) -> None:
    people = np.arange(60) % 30
    for _ in range(20):
        assert (people[_strangers(people, rng)] != people).all()


def test_a_recognizer_learned_from_names_sees_past_what_moves_every_release(world: dict[str, np.ndarray]) -> None:
    people = np.arange(PEOPLE)
    stock = float(top_scored(world["lit"][PEOPLE:] @ world["lit again"][PEOPLE:].T, people).mean())
    trained = LabelAttacker.fit(world["lit"][:PEOPLE], world["lit again"][:PEOPLE], people, people)
    assert success(trained, world["lit"], world["lit again"]) > stock + 0.1
    untaught = LabelAttacker.fit(world["nothing"][:PEOPLE], world["clean"][:PEOPLE], people, people)
    assert success(untaught, world["nothing"], world["clean"]) < 0.03


def test_a_recognizer_needs_names_and_somebody_to_tell_apart(world: dict[str, np.ndarray]) -> None:
    some, one = world["lit"][:4], np.zeros(4, dtype=np.int64)
    with pytest.raises(ValueError, match="two people"):
        LabelAttacker.fit(some, some, one, one)
    with pytest.raises(ValueError, match="name"):
        LabelAttacker.fit(some, some, one[:3], one)


def test_both_stay_at_chance_when_releases_tell_nothing(world: dict[str, np.ndarray], rng: np.random.Generator) -> None:
    ridge = RidgeAttacker.fit(world["nothing"][:PEOPLE], world["clean"][:PEOPLE])
    pairs = PairAttacker.fit(world["nothing"][:PEOPLE], world["clean"][:PEOPLE], SPLITS, rng)
    assert success(ridge, world["nothing"], world["clean"]) < 0.03
    assert success(pairs, world["nothing"], world["clean"]) < 0.03
