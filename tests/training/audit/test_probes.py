"""Probes are compared with one photo of each person, whichever of their photos was released."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.probes import Probes


@pytest.fixture
def people(rng: np.random.Generator) -> np.ndarray:
    """Embeddings of two photos of each of five people: the first photos, then the second."""
    rows = rng.normal(size=(10, 64)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_probe_meets_the_gallery_of_its_own_half(people: np.ndarray) -> None:
    probes = Probes(np.array([1, 4, 6, 8]), 5)
    assert probes.people.tolist() == [1, 4, 1, 3]
    scores = probes.scores(people[probes.places], people)
    assert scores.shape == (4, 5)
    assert scores[0] == pytest.approx(people[1] @ people[:5].T)
    assert scores[2] == pytest.approx(people[6] @ people[5:].T)
    assert probes.found(people[probes.places], people).value == 1.0


def test_a_person_found_by_the_photo_of_the_other_half_is_not_found(people: np.ndarray) -> None:
    probes = Probes(np.array([0, 5]), 5)
    # what is shown of the first photo is the second one, which stands in the other gallery
    assert probes.found(np.stack([people[5], people[0]]), people).value < 1.0


def test_every_score_is_asked_for_one_half_at_a_time(people: np.ndarray) -> None:
    seen = []

    def score(shown: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        seen.append((len(shown), len(gallery)))
        return shown @ gallery.T

    Probes(np.array([0, 2, 7]), 5).scores(people[[0, 2, 7]], people, score)
    assert seen == [(2, 5), (1, 5)]


def test_couples_are_people_both_of_whose_photos_left_the_service() -> None:
    first, second = Probes(np.array([0, 1, 3, 6, 8, 9]), 5).couples()
    assert (first.tolist(), second.tolist()) == ([1, 2], [3, 4])
    assert [len(part) for part in Probes(np.array([0, 1]), 5).couples()] == [0, 0]


def test_no_probe_is_no_number_and_a_gallery_of_other_size_is_refused(people: np.ndarray) -> None:
    nobody = Probes(np.zeros(0, dtype=np.int64), 5)
    assert np.isnan(nobody.found(people[:0], people).value)
    with pytest.raises(ValueError, match="gallery of 5 people"):
        Probes(np.array([7]), 5).scores(people[7:8], people[:5])
