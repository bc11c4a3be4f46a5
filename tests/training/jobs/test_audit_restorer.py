"""The tables of the restorer's audit, and photos read for it."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from models.faces.boxes import Face
from models.pictures import encode_picture
from training.audit.utility import MEASURES
from training.jobs.audit_restorer import BARE, RESTORER, Comparisons, compare, comparison_table, service_rows
from training.jobs.released_ways import read_sources
from training.runs.methods_table import SERVICE_COLUMNS


def comparisons() -> Comparisons:
    """Forty photos: the restorer halves errors under noise, loses replaced faces, and does nothing to the rest."""
    rng = np.random.default_rng(0)
    bare = {name: rng.uniform(0.2, 0.4, 40) for name in MEASURES}
    restored = {name: values / 2 if "error" in name else values for name, values in bare.items()}
    restored["main face replaced"] = bare["main face replaced"] - 0.1
    peer = {name: values + 0.01 for name, values in restored.items()}
    readings = {
        ("noise 25", BARE): bare,
        ("noise 25", RESTORER): restored,
        ("noise 25", "peer"): peer,
    }
    return compare(readings, rng)


def test_every_measure_is_compared_on_every_damage_and_gains_and_losses_are_called_so() -> None:
    rows = comparison_table(comparisons())
    assert {row["damage"] for row in rows} == {"noise 25"}
    assert len(rows) == 2 * len(MEASURES)
    found = {row["measure"]: row["the restorer is"] for row in rows if row["against"] == BARE}
    assert {name for name, outcome in found.items() if outcome == "better"} == {n for n in MEASURES if "error" in n}
    assert [name for name, outcome in found.items() if outcome == "worse"] == ["main face replaced"]


def test_rows_for_the_service_name_the_plain_way_and_hold_losses_too() -> None:
    rows = service_rows(comparisons())
    assert all(set(row) == set(SERVICE_COLUMNS) and row["method"] == "maid" and row["n"] == 40 for row in rows)
    jobs = {row["job"] for row in rows}
    assert jobs == {
        "restores crops before encoding, noise 25, against none",
        "restores crops before encoding, noise 25, against tuned peer",
    }
    (loss,) = [row for row in rows if "replaced" in str(row["measure"]) and str(row["job"]).endswith("none")]
    assert float(loss["with"]) == pytest.approx(float(loss["without"]) - 0.1)
    for protocol in ("U1", "U2", "U3", "U4", "U5", "U6"):
        assert any(protocol in str(row["measure"]) for row in rows)


class Finder:
    """Finds a face in every picture that is not black."""

    name = "finder"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        height, width = pixels.shape[:2]
        points = np.array([[0.35, 0.4], [0.65, 0.4], [0.5, 0.6], [0.4, 0.75], [0.6, 0.75]]) * [width, height]
        box = (0.2 * width, 0.2 * height, 0.8 * width, 0.9 * height)
        return [Face(box, 0.9, points, "finder")] if pixels.any() else []


def test_photos_are_read_as_they_are_asked_for_and_those_without_a_face_are_passed_over(tmp_path: Path) -> None:
    paths = []
    for number, gray in enumerate((0, 90, 0, 120, 150)):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(encode_picture(np.full((64, 64, 3), gray, np.uint8), "png"))
    rest = iter(paths)
    sources = read_sources(rest, Finder())
    found = list(itertools.islice(sources, 2))
    assert [int(photo.original[0, 0, 0]) for photo in found] == [90, 120]
    assert all(photo.source.crop.shape == (128, 128, 3) for photo in found)
    assert [int(photo.original[0, 0, 0]) for photo in sources] == [150]
