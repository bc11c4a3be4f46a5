"""Rows that other pages read off an audit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from training.audit.probes import Probes
from training.audit.regurgitation import training_set_similarity
from training.audit.statistics import Estimate
from training.audit.tables import criteria_table, floor_table, released_rates, service_table


def test_the_pair_attacker_stands_beside_the_plain_one_and_not_without_it() -> None:
    found = {
        f"A3 rank-1 source.{way} attacker": Estimate(value, 0.0, 1.0, 40)
        for way, value in (("ridge", 0.1), ("pairs", 0.2))
    }
    (row,) = service_table(found)
    assert (row["method"], row["without"], row["with"], row["n"]) == ("large_step_logistic", 0.1, 0.2, 40)
    assert service_table({}) == []


def test_a_reading_stands_beside_its_floors_and_one_without_a_floor_is_no_row() -> None:
    names = ("U5 eyes open agrees", "U5 eyes open agrees, autoencoder only", "U5 eyes open agrees, mirrored", "tries")
    table = floor_table({name: Estimate(0.1 * place, 0.0, 1.0, 40) for place, name in enumerate(names, start=1)})
    assert table == [
        {
            "measure": "U5 eyes open agrees",
            "released": "0.100 (0.000 .. 1.000)",
            "n": 40,
            "autoencoder only": "0.200 (0.000 .. 1.000)",
            "mirrored": "0.300 (0.000 .. 1.000)",
        }
    ]


def test_faces_that_were_not_replaced_are_counted_by_photo_and_by_face() -> None:
    def photo(*statuses: str) -> Any:
        faces = [SimpleNamespace(status=SimpleNamespace(value=status)) for status in statuses]
        release = SimpleNamespace(verdict=SimpleNamespace(faces=faces))
        is_replaced = statuses[0] == "anonymized"
        return SimpleNamespace(release=release, is_replaced=is_replaced, found=None, measures={"outside_equal": 1.0})

    photos = [photo("anonymized", "redacted"), photo("redacted"), photo("anonymized"), photo("anonymized")]
    rates = released_rates(photos, Probes(np.array([0, 2, 3]), 2))
    assert {name: (round(found.value, 3), found.count) for name, found in rates.items()} == {
        "main face not replaced": (0.25, 4),
        "all faces, not replaced": (0.4, 5),
        "U1 found again": (0.0, 3),
        "U8 outside equal": (1.0, 3),
    }


def test_a_repeated_training_face_is_the_largest_similarity() -> None:
    training, own = np.eye(4, dtype=np.float32), np.array([[1, 0, 0, 0], [0.6, 0.8, 0, 0]], np.float32)
    (row,) = training_set_similarity({"released": own}, training, 0.9)
    assert (row["n"], row["max"], row["at the threshold"]) == (2, 1.0, 0.5)


def test_an_attacker_singles_out_by_what_it_finds_beyond_itself_on_covered_faces() -> None:
    def found(value: float) -> Estimate:
        return Estimate(value, value - 0.005, value + 0.005, 400)

    privacy = {
        "P3 rank-1 mate.faceres": found(0.03),
        "A6 rank-1 mate.faceres": found(0.03),
        # reads surroundings well, faces not at all
        "A2 rank-1 mate.names attacker": found(0.50),
        "A6 named rank-1 mate.names attacker": found(0.50),
    }

    assert criteria_table(privacy, [], 400)[0]["passes"] is True
    privacy["A4 rank-1 mate.faceres"], privacy["A6 drawn rank-1 mate.faceres"] = found(0.06), found(0.02)
    singled_out = criteria_table(privacy, [], 400)[0]
    assert singled_out["passes"] is False
    assert str(singled_out["measured"]).startswith("A4 rank-1 mate.faceres")
