"""Coded faces: where a drawn person shows, and components that held-out pictures have no part in."""

import numpy as np
import pytest

from training.jobs.coded_faces import PLANTED, CodedFaces, draw_faces


def test_people_show_in_the_planted_channels_and_nowhere_else():
    faces = draw_faces(150, 4, seed=0)
    by_person = faces.codes.reshape(150, 4, 10, -1).mean(1)
    # four pictures of pure noise average to a variance of a quarter
    spread = by_person.var(0).mean(1)
    assert set(np.flatnonzero(spread > 0.5)) == set(PLANTED)
    others = np.delete(spread, PLANTED)
    assert others == pytest.approx(np.full(8, 0.25), abs=0.04)
    assert np.linalg.norm(faces.embeddings, axis=1) == pytest.approx(np.ones(600))


def test_components_are_standard_on_the_fitted_pictures_and_do_not_depend_on_the_others():
    faces = draw_faces(40, 3, seed=1)
    held = faces.people % 2 == 1
    scores = faces.components(held, 3)
    assert scores.shape == (120, 3)
    assert scores[~held].mean(0) == pytest.approx(np.zeros(3), abs=1e-12)
    assert np.cov(scores[~held].T, bias=True) == pytest.approx(np.eye(3), abs=1e-9)
    changed = faces.embeddings.copy()
    changed[held] = np.roll(changed[held], 5, axis=0)
    again = CodedFaces(faces.codes, changed, faces.people).components(held, 3)
    assert again[~held] == pytest.approx(scores[~held])
