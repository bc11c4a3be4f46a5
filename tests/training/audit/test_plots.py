"""Plots of an audit show the shares that its estimates tell."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.plots import rank_panels, similarity_panels
from training.audit.probes import Probes


@pytest.fixture
def codes() -> dict[str, np.ndarray]:
    """Three people; the release of the first shows the person, that of the second looks like the third."""
    people = np.eye(3, dtype=np.float32)
    own, mask = people[[0, 2]], -people[[0, 1]]
    return {"own": own, "mask": mask, "source": people, "mate": people}


def test_the_rank_curve_begins_at_rank_1_and_ends_with_everybody(codes: dict[str, np.ndarray]) -> None:
    (panel,) = rank_panels({"r": codes}, Probes(np.array([0, 1]), 3))
    curves = {curve.label: list(curve.y) for curve in panel.series}
    assert curves["released, another photo"] == [0.5, 0.5, 1.0]
    assert curves["clean, another photo"] == [1.0, 1.0, 1.0]
    assert curves["covered, the very source"] == [0.0, 0.0, 1.0]
    assert curves["chance"] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert all(curve == sorted(curve) and curve[-1] == 1.0 for curve in curves.values())


def test_the_histogram_holds_every_face_once_and_the_threshold_stands_in_it(codes: dict[str, np.ndarray]) -> None:
    similarities = {"r": np.array([1.0, 0.31])}
    (panel,) = similarity_panels({"r": codes}, similarities, Probes(np.array([0, 1]), 3), lambda name: 0.4)
    released, *others, threshold = panel.series
    assert list(threshold.x) == [0.4, 0.4]
    for curve in (released, *others):
        assert sum(curve.y) / 2 == pytest.approx(1.0)
    middles = [(a + b) / 2 for a, b in zip(released.x[::2], released.x[1::2], strict=True)]
    assert [middle for middle, y in zip(middles, released.y[::2], strict=True) if y] == pytest.approx(
        [0.3, 0.98], abs=0.03
    )


def test_where_nothing_was_released_nothing_is_drawn(codes: dict[str, np.ndarray]) -> None:
    none = Probes(np.zeros(0, dtype=np.int64), 3)
    assert rank_panels({"r": codes}, none) == []
    assert similarity_panels({"r": codes}, {"r": np.zeros(0)}, none, lambda name: 0.4) == []
