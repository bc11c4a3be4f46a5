"""The search that all ways begin with is made once."""

from __future__ import annotations

import numpy as np

from models.faces.boxes import Face
from training.audit.remembering_detector import RememberingDetector


class Counting:
    """Finds one face whose score is the number of the call."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, pixels: np.ndarray) -> list[Face]:
        self.calls += 1
        return [Face((0.0, 0.0, 9.0, 9.0), float(self.calls), None, "counting")]


def test_equal_pictures_are_searched_once_and_any_other_anew() -> None:
    inner = Counting()
    detector = RememberingDetector(inner)
    picture = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    first = detector.detect(picture)
    assert detector.detect(picture.copy()) == first
    assert detector.detect(np.ascontiguousarray(picture[:, ::-1])) != first
    assert detector.detect(picture.reshape(4, 16, 3)) != first
    assert inner.calls == 3


def test_nobody_can_spoil_a_remembered_answer_and_forgetting_asks_again() -> None:
    inner = Counting()
    detector = RememberingDetector(inner)
    picture = np.zeros((8, 8, 3), np.uint8)
    detector.detect(picture).clear()
    assert len(detector.detect(picture)) == 1
    detector.forget()
    detector.detect(picture)
    assert inner.calls == 2
