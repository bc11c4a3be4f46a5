"""Search for scenes: captioned pictures, and how many of the nearest show the scene of the query."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.faces.detector import FaceDetector
from models.pictures import decode_picture
from retrieval.embedder import Embedder, find_boxes
from training.jobs.index_features import BLANKED, KEPT, NEAREST, Matrix, unit_rows
from training.runs.config import ConfigError

Labels = NDArray[np.int64]

_CAST: Final = ("no people", "one person", "group", "profile", "dark")
"""Tags that make, with the place, the kind of a scene."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """Captioned pictures: features (m, d) by what was done to faces, places (m,), kinds (m,), captions (m, d_text).

    The kind of a scene is its place, whether nobody, one or several people are seen, in profile or in the dark.
    """

    features: Mapping[str, Matrix]
    places: Labels
    kinds: Labels
    captions: Matrix

    def __post_init__(self) -> None:
        """Refuse scenes of which there is but one of a kind: a search among the others could not find it."""
        alone = int((np.unique(self.kinds, return_counts=True)[1] == 1).sum())
        if alone or len(self.kinds) <= NEAREST:
            raise ConfigError(
                f"need more than {NEAREST} scenes and two or more of a kind, got {len(self.kinds)}, {alone} alone"
            )


def read_scenes(folder: Path, detector: FaceDetector, embedder: Embedder) -> tuple[Scenes, Labels, Matrix]:
    """Embed a folder that the demo-corpus job drew, as the index does and once more without blanking faces.

    Args:
        folder: Pictures and `captions.csv` with the columns file, caption, tags; the first tag names the place.
        detector: Finds the faces that are blanked.
        embedder: Embeds pictures and texts.

    Returns:
        The scenes; and one text query for each kind of scene, the words of its place and kind: kinds (q,), and
        features (q, d_text).

    Raises:
        ConfigError: A column is missing, or there are too few scenes.
    """
    with (folder / "captions.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    try:
        listed = [(row["file"], row["caption"], row["tags"].split(";")) for row in rows]
    except KeyError as error:
        raise ConfigError(f"captions.csv has no column {error}") from None
    words = [(tags[0], *(tag for tag in _CAST if tag in tags[1:])) for _, _, tags in listed]
    names = sorted(set(words))
    features: dict[str, list[Matrix]] = {BLANKED: [], KEPT: []}
    for file, _, _ in listed:
        pixels = decode_picture((folder / file).read_bytes())
        for faces, boxes in ((BLANKED, find_boxes(detector, pixels)), (KEPT, [])):
            features[faces].append(embedder.embed_pictures([(pixels, boxes)])[0].astype(np.float64))
    scenes = Scenes(
        {faces: np.array(rows) for faces, rows in features.items()},
        _numbered([word[0] for word in words]),
        np.array([names.index(word) for word in words], dtype=np.int64),
        embedder.embed_texts([caption for _, caption, _ in listed]).astype(np.float64),
    )
    queries = embedder.embed_texts([", ".join(name) for name in names]).astype(np.float64)
    return scenes, np.arange(len(names)), queries


def found_scenes(
    scenes: Scenes, features: Matrix, center: Matrix, projection: Matrix
) -> dict[str, NDArray[np.float64]]:
    """Search by every picture among all the others, with the index's cosine.

    Args:
        scenes: The scenes.
        features: Theirs (m, d).
        center: Subtracted before (d,).
        projection: The map (d, d).

    Returns:
        Per query (m,): of the ten nearest the share that shows the kind of scene asked for, out of what can be found
        (scene recall@10), the same of places, and the mean cosine of their captions to the caption of the query.
    """
    views = unit_rows((features - center) @ projection)
    scores = views @ views.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :NEAREST]
    captions = np.take_along_axis(scenes.captions @ scenes.captions.T, nearest, axis=1).mean(1)
    return {
        "scene recall@10": _recall(scenes.kinds, nearest),
        "place recall@10": _recall(scenes.places, nearest),
        "caption cosine of 10": captions,
    }


def found_captions(scenes: Scenes, kinds: Labels, queries: Matrix) -> NDArray[np.float64]:
    """Search the captions by texts: share (q,) of the ten nearest, or of all there are, that are of the kind (q,)."""
    nearest = np.argsort(-(queries @ scenes.captions.T), axis=1, kind="stable")[:, :NEAREST]
    there = (scenes.kinds == kinds[:, None]).sum(1)
    return np.asarray((scenes.kinds[nearest] == kinds[:, None]).sum(1) / np.minimum(NEAREST, there))


def by_kind(scenes: Scenes, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of values (m,) over the scenes of each kind, for an interval: scenes of a kind are much alike."""
    return np.array([values[scenes.kinds == kind].mean() for kind in np.unique(scenes.kinds)])


def _numbered(names: Sequence[str]) -> Labels:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def _recall(labels: Labels, nearest: NDArray[np.int64]) -> NDArray[np.float64]:
    there = (labels == labels[:, None]).sum(1) - 1
    return np.asarray((labels[nearest] == labels[:, None]).sum(1) / np.minimum(NEAREST, there))
