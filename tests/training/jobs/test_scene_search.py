"""Search for scenes: what counts as found, and what is blanked before features are taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from models.faces.boxes import Face
from models.pictures import encode_picture
from training.jobs.index_features import BLANKED, KEPT
from training.jobs.scene_search import Scenes, by_kind, found_captions, found_scenes, read_scenes
from training.runs.config import ConfigError

Pixels = NDArray[np.uint8]


class SquareDetector:
    """Sees a face in the upper left corner of every picture that is bright there."""

    name = "square"

    def detect(self, pixels: Pixels) -> list[Face]:
        return [Face((0.0, 0.0, 8.0, 8.0), 1.0, None, "square")] if pixels[:8, :8].mean() > 200 else []


class ColorEmbedder:
    """Mean colors with a count of boxes as features, and words as axes of texts."""

    text_dim, image_dim, version = 8, 4, "colors"
    words = ("sea", "wood", "no people", "one person", "dark", "woman", "tree", "cave")

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.array([[float(word in text) for word in self.words] for text in texts], np.float32) + 1e-3
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    def embed_pictures(
        self, pictures: Sequence[tuple[Pixels, Sequence[tuple[float, float, float, float]]]]
    ) -> NDArray[np.float32]:
        rows = [[*pixels.mean((0, 1)) / 255, float(len(boxes))] for pixels, boxes in pictures]
        vectors = np.array(rows, np.float32) + 1e-3
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


SHOTS = (
    ("sea", "no people", ""),
    ("sea", "one person", ""),
    ("wood", "one person", ""),
    ("wood", "one person", "dark"),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = ["file,caption,tags"]
    for number in range(16):
        place, people, dark = SHOTS[number % 4]
        pixels = np.full((32, 32, 3), 20 if dark else 90, np.uint8)
        pixels[16:, :, 2 if place == "sea" else 1] += 60
        if people == "one person":
            pixels[:8, :8] = 255
        (tmp_path / f"{number}.png").write_bytes(encode_picture(pixels, "png", 90))
        tags = ";".join(tag for tag in (place, "outdoor", people, dark) if tag)
        lines.append(f'{number}.png,"{place}, {people} {dark}",{tags}')
    (tmp_path / "captions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def scenes_of(kinds: Sequence[int], places: Sequence[int] | None = None) -> Scenes:
    labels = np.array(kinds, dtype=np.int64)
    return Scenes({}, labels if places is None else np.array(places, dtype=np.int64), labels, np.eye(12)[labels])


def test_a_kind_is_the_place_and_who_is_seen_how(folder: Path) -> None:
    scenes, kinds, queries = read_scenes(folder, SquareDetector(), ColorEmbedder())
    assert len(np.unique(scenes.kinds)) == 4
    assert len(np.unique(scenes.places)) == 2
    assert (scenes.kinds[:4] == scenes.kinds[4:8]).all()
    assert queries.shape == (4, 8)
    # the words of a kind find its captions, the only other captions being fillers
    assert found_captions(scenes, kinds, queries) == pytest.approx(np.ones(4))


def test_boxes_of_faces_reach_the_embedder_unless_they_are_to_be_kept(folder: Path) -> None:
    scenes, _, _ = read_scenes(folder, SquareDetector(), ColorEmbedder())
    boxed = scenes.features[BLANKED][:4, 3] > 0.1
    assert boxed.tolist() == [False, True, True, True]
    assert (scenes.features[KEPT][:, 3] < 0.1).all()


def test_a_folder_of_scenes_needs_its_columns_and_mates(folder: Path) -> None:
    text = (folder / "captions.csv").read_text(encoding="utf-8")
    (folder / "captions.csv").write_text(text.replace("tags", "words", 1), encoding="utf-8")
    with pytest.raises(ConfigError, match="no column 'tags'"):
        read_scenes(folder, SquareDetector(), ColorEmbedder())
    (folder / "captions.csv").write_text("\n".join(text.splitlines()[:12]), encoding="utf-8")
    assert len(read_scenes(folder, SquareDetector(), ColorEmbedder())[0].kinds) == 11
    (folder / "captions.csv").write_text(text + "15.png,desert,desert;no people\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="got 17, 1 alone"):
        read_scenes(folder, SquareDetector(), ColorEmbedder())
    with pytest.raises(ConfigError, match="more than 10 scenes"):
        scenes_of([0] * 5 + [1] * 5)


def test_every_scene_is_found_by_a_feature_that_names_it_and_none_by_chance_alone() -> None:
    kinds = np.repeat(np.arange(4), 11)
    scenes = scenes_of(kinds.tolist(), (kinds // 2).tolist())
    rng = np.random.default_rng(0)
    named = np.eye(4)[kinds] + 0.01 * rng.normal(size=(44, 4))
    found = found_scenes(scenes, named, np.zeros(4), np.eye(4))
    assert all(values == pytest.approx(np.ones(44)) for values in found.values())
    cut = found_scenes(scenes, named, np.zeros(4), np.diag([1.0, 1.0, 0.0, 0.0]))["scene recall@10"]
    assert cut[:22].mean() > 0.9
    assert cut[22:].mean() < 0.7
    means = [
        found_scenes(scenes, rng.normal(size=(44, 30)), np.zeros(30), np.eye(30))["scene recall@10"].mean()
        for _ in range(20)
    ]
    assert np.mean(means) == pytest.approx(10 / 43, abs=0.02)


def test_a_query_is_not_among_its_own_hits_and_few_mates_are_all_there_is_to_find() -> None:
    kinds = [0, 0, 0, *[1] * 12]
    scenes = scenes_of(kinds)
    features = np.eye(2)[kinds] + 0.01 * np.random.default_rng(0).normal(size=(15, 2))
    assert found_scenes(scenes, features, np.zeros(2), np.eye(2))["scene recall@10"] == pytest.approx(np.ones(15))
    assert by_kind(scenes, np.arange(15.0)) == pytest.approx([1.0, 8.5])
