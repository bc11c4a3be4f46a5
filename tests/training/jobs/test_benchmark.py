"""Times of a call with several pictures are counted once, whoever reports them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from training.jobs.benchmark import _Doppel


class Calls:
    """An anonymizer whose joint stages take as long as the call and whose others are each picture's own."""

    def anonymize(self, requests: list[Any]) -> list[Any]:
        verdict = SimpleNamespace(faces=[SimpleNamespace(attempts=2)])
        times = [{"detect": 0.1 * (1 + i), "synthesize": 4.0 - i, "verify": 0.5, "total": 9.0} for i in range(3)]
        return [SimpleNamespace(verdict=verdict, timings_s=times[index]) for index in range(len(requests))]


def test_joint_stages_count_once_and_others_for_each_picture() -> None:
    doppel = _Doppel(SimpleNamespace(anonymizer=Calls()), steps=4, seed=0)  # type: ignore[arg-type]

    assert doppel.send([b"a", b"b", b"c"]) == 3

    assert doppel.stages == pytest.approx({"detect": 0.6, "synthesize": 4.0, "verify": 1.5})
    assert doppel.after_detection == pytest.approx(4.0)
    assert (doppel.faces, doppel.attempts, doppel.pictures) == (3, 6, 3)
