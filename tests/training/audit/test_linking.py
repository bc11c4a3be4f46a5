"""Everybody is linked whose two photos left the service, and others only after one more release."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.faces.detection import FaceDetector
from training.audit.linking import averaged_releases, linkage_table
from training.audit.probes import Probes
from training.audit.tables import RECOGNIZERS


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class Photo:
    """A photo whose crops are numbered by its person."""

    def __init__(self, person: int, *, is_out: bool = True) -> None:
        crop = np.full((128, 128, 3), 20 * person, np.uint8)
        self.person, self.source, self.is_out = person, SimpleNamespace(crop=crop), is_out
        self.pixels: np.ndarray | None = crop

    def mate_as_source(self) -> Photo:
        return Photo(self.person, is_out=self.is_out)

    again = mate_as_source

    def read_release(self, detector: object) -> None:
        self.pixels = self.source.crop if self.is_out else None

    def own_aligned(self) -> np.ndarray:
        return self.source.crop


DETECTOR = cast(FaceDetector, None)


def embed(name: str, crops: np.ndarray) -> np.ndarray:
    """One direction for each person."""
    return np.eye(13, dtype=np.float32)[crops[:, 0, 0, 0] // 20]


def refuse(photos: Any) -> None:
    raise AssertionError("nothing is to be released")


def test_both_photos_under_audit_are_linked_without_another_release(rng: np.random.Generator) -> None:
    people = unit(rng.normal(size=(8, 16)))
    twice = np.concatenate([people, people])
    book = {"own": twice, "mask": unit(rng.normal(size=(16, 16))), "source": twice}
    table = linkage_table([], Probes(np.arange(16), 8), {"dlib": book}, refuse, DETECTOR, embed, 1)
    assert [(row["recognizer"], row["people"], row["EER, released"]) for row in table] == [("dlib", 8, 0.0)]
    assert float(str(table[0]["EER, context alone"])) > 0.2
    assert linkage_table([], Probes(np.arange(16), 8), {"dlib": book}, refuse, DETECTOR, embed, 0) == []


def test_a_pair_whose_other_photo_is_not_released_is_left_out() -> None:
    photos: Any = [Photo(person, is_out=person != 2) for person in range(5)]
    told: list[int] = []
    table = linkage_table(
        photos, Probes(np.arange(5), 5), {}, lambda mates: told.append(len(mates)), DETECTOR, embed, 4
    )
    assert told == [4]
    assert [row["recognizer"] for row in table] == list(RECOGNIZERS)
    assert {row["people"] for row in table} == {3}


def test_averages_are_looked_for_among_first_photos() -> None:
    photos: Any = [Photo(person) for person in (*range(4), *range(4))]
    gallery = embed("faceres", np.stack([photo.source.crop for photo in photos]))
    found = averaged_releases(photos, Probes(np.arange(8), 4), gallery, lambda copies: None, DETECTOR, embed, 3, (1, 2))
    assert {name: (value.value, value.count) for name, value in found.items()} == {
        "A7 rank-1 source, 1 releases.faceres": (1.0, 3),
        "A7 rank-1 source, 2 releases.faceres": (1.0, 3),
    }
    nobody: Any = [Photo(person, is_out=False) for person in range(4)]
    assert averaged_releases(nobody, Probes(np.arange(4), 4), gallery, list, DETECTOR, embed, 2, (1,)) == {}


@pytest.mark.parametrize("name", RECOGNIZERS)
def test_people_of_one_direction_each_are_linked(name: str) -> None:
    photos: Any = [Photo(person) for person in range(4)]
    rows = linkage_table(photos, Probes(np.arange(4), 4), {}, lambda mates: None, DETECTOR, embed, 4)
    assert {row["recognizer"]: row["EER, clean"] for row in rows}[name] == 0.0
