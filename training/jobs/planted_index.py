"""A drawn stand-in for the features of the search index, in which a few directions say who it is."""

from __future__ import annotations

import numpy as np

from training.jobs.index_features import BLANKED, Features, Matrix
from training.jobs.scene_search import Scenes


def planted_index(
    people: int, *, seed: int, dim: int = 96, planted: int = 6, kinds: int = 12, each: int = 15
) -> tuple[Features, Scenes]:
    """Draw features in which a few directions say who it is and the others what else is in the picture.

    Args:
        people: n of either half.
        seed: Of the draws.
        dim: d.
        planted: Directions of identity.
        kinds: Kinds of scenes, each a place of its own.
        each: Scenes of each kind.

    Returns:
        Features whose crops differ from the photo by little noise; scenes with somebody else in each, and one
        caption per kind.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spread = 1.6 * 0.93 ** np.arange(dim - planted)

    def draw() -> Matrix:
        person = 1.2 * rng.normal(size=(people, 1, planted)) + 0.45 * rng.normal(size=(people, 2, planted))
        scene = spread * rng.normal(size=(people, 2, dim - planted))
        two = np.concatenate([person, scene], axis=-1) @ axes.T
        crop = two[:, :1] + 0.35 * rng.normal(size=(people, 1, dim))
        return _unit(np.concatenate([two, crop], axis=1) + 1.0)

    features = Features(draw()[:, :2], draw())
    person = 1.2 * rng.normal(size=(kinds, each, planted))
    place = 0.6 * rng.normal(size=(kinds, 1, dim - planted)) + 0.8 * rng.normal(size=(kinds, each, dim - planted))
    drawn = np.concatenate([person, spread * place], axis=-1) @ axes.T + 1.0
    labels = np.repeat(np.arange(kinds, dtype=np.int64), each)
    return features, Scenes({BLANKED: _unit(drawn.reshape(-1, dim))}, labels, labels, np.eye(kinds)[labels])


def _unit(vectors: Matrix) -> Matrix:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))
