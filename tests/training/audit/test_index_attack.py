"""The index attack counts what a real store answers to the attacker's photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from training.audit.index_attack import index_attacks


class MeanColor:
    """Embeds the colors of the four quarters of a picture."""

    text_dim = 3
    image_dim = 12
    version = "quarters"

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.array([1.0, 0.0, 0.0], np.float32), (len(texts), 1))

    def embed_pictures(self, pictures: Sequence[tuple[np.ndarray, object]]) -> np.ndarray:
        rows = [
            np.concatenate([part.mean((0, 1)) for half in np.split(p, 2) for part in np.split(half, 2, axis=1)])
            for p, _ in pictures
        ]
        centered = np.stack(rows) - 127.0
        return (centered / np.linalg.norm(centered, axis=1, keepdims=True)).astype(np.float32)


class Nobody:
    """Finds no face; a black picture breaks it."""

    def detect(self, pixels: np.ndarray) -> list[object]:
        if not pixels.any():
            raise RuntimeError("no")
        return []


@pytest.fixture
def places(rng: np.random.Generator) -> list[np.ndarray]:
    """Twelve places, each of four colors."""
    colors = rng.integers(0, 256, (12, 2, 2, 3))
    return [np.kron(color, np.ones((8, 8, 1))).astype(np.uint8) for color in colors]


def noisy(pictures: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    return [np.clip(p + rng.normal(0, 6, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def test_surroundings_find_a_picture_and_tell_that_it_is_there(
    places: list[np.ndarray], rng: np.random.Generator, tmp_path: Path
) -> None:
    members, strangers = places[:6], places[6:]
    queries = {"another photo": (noisy(members, rng), noisy(strangers, rng)), "the very photo": (members, strangers)}
    table = index_attacks({"originals": members}, queries, MeanColor(), Nobody(), tmp_path / "store")
    assert [row["query"] for row in table] == ["another photo", "the very photo"]
    for row in table:
        assert str(row["precision@1"]).startswith("1.000")
        assert (row["precision@5"], row["chance@1"], row["pictures"]) == (0.2, 0.1667, 6)
        assert float(str(row["membership F1"])) > 0.9
        assert row["F1 of always yes"] == 0.667


def test_photos_of_somewhere_else_are_at_chance(
    places: list[np.ndarray], rng: np.random.Generator, tmp_path: Path
) -> None:
    elsewhere = [rng.integers(0, 256, p.shape).astype(np.uint8) for p in places]
    queries = {"elsewhere": (elsewhere[:6], elsewhere[6:])}
    (row,) = index_attacks({"originals": places[:6]}, queries, MeanColor(), Nobody(), tmp_path / "store")
    assert float(str(row["precision@1"])[:5]) <= 0.5
    assert float(str(row["membership AUC"])) == pytest.approx(0.5, abs=0.45)


def test_a_query_that_the_index_refuses_finds_nothing(places: list[np.ndarray], tmp_path: Path) -> None:
    black = [np.zeros_like(places[0])] * 2
    (row,) = index_attacks({"o": places[:2]}, {"black": (black, [])}, MeanColor(), Nobody(), tmp_path / "store")
    assert str(row["precision@1"]).startswith("0.000")
    assert "membership F1" not in row
