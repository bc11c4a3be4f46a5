"""Answers to the same questions are compared, and an answer that says nothing is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from training.audit.offline_answers import answer_photos, choose_nearest, head_turned, light_from
from training.audit.questions import QUESTIONS, UNANSWERED, Answered, agreement, identity_question, line_up
from training.audit.utility import Instruments


def answers(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_agreement_is_a_share_beside_what_chance_gives_and_leaves_unanswered_photos_out() -> None:
    found, chance = agreement(answers(0, 0, 0, 1, UNANSWERED), answers(0, 0, 1, 1, 1))
    assert (found.value, found.count) == (0.75, 4)
    assert chance == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)


def test_answers_that_have_no_bearing_agree_by_chance(rng: np.random.Generator) -> None:
    first, second = rng.choice(3, 4000, p=[0.7, 0.2, 0.1]), rng.choice(3, 4000, p=[0.1, 0.6, 0.3])
    found, chance = agreement(first, second)
    assert found.lower <= chance <= found.upper


def test_no_answer_has_no_agreement_and_answers_on_other_photos_are_refused() -> None:
    found, chance = agreement(answers(UNANSWERED), answers(1))
    assert np.isnan([found.value, chance]).all()
    with pytest.raises(ValueError, match="same photos"):
        agreement(answers(0), answers(0, 1))


def test_who_it_is_agrees_by_chance_at_one_in_the_choices() -> None:
    truth = answers(0, 1, 2, 3)
    each = Answered(identity_question(5), "r", truth, answers(0, 0, 0, 0), truth=truth, covered=answers(4, 4, 4, 4))
    row = each.row()
    assert (row["kind"], row["chance"], row["unanswered"]) == ("identity-seeking", 0.2, 0)
    assert str(row["right on the original"]).startswith("1.000")
    assert str(row["right on the release"]).startswith("0.250")
    assert str(row["right on the covered face"]).startswith("0.000")


def test_a_line_up_holds_the_person_once_and_at_every_place_alike(rng: np.random.Generator) -> None:
    rows, truth = line_up(range(2000), 5, rng)
    assert np.array_equal(rows[np.arange(2000), truth], np.arange(2000))
    assert all(len(set(row)) == 5 for row in rows.tolist())
    # each place is binomial(2000, .2), of deviation 18
    assert np.abs(np.bincount(truth, minlength=5) - 400).max() < 4 * 18
    assert line_up(range(2), 5, rng)[0].shape == (2, 2)
    with pytest.raises(ValueError, match="two people"):
        line_up(range(1), 5, rng)


def test_the_nearest_of_the_line_up_is_chosen_and_not_the_nearest_of_all() -> None:
    gallery = np.eye(4, dtype=np.float32)
    shown = np.array([[1.0, 0.5, 0.0, 0.2]], dtype=np.float32)
    assert choose_nearest(shown, gallery, np.array([[3, 2, 1]])).tolist() == [2]


def turned(yaw: float) -> np.ndarray:
    """A head whose nose points to the right of the picture by an angle."""
    return np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])


def test_the_head_is_turned_where_its_nose_points() -> None:
    rotations = np.stack([turned(np.deg2rad(angle)) for angle in (-30, -10, 0, 10, 30)])
    # the nose lies before the face: at a negative depth
    assert (rotations @ [0.0, 0.0, -1.0])[4, 0] > 0
    assert head_turned(rotations).tolist() == [0, 1, 1, 1, 2]


def test_light_is_seen_on_the_side_that_is_brighter() -> None:
    ramp = np.broadcast_to(np.linspace(60, 200, 128)[None, :, None], (128, 128, 3)).astype(np.uint8)
    even = np.full((128, 128, 3), 120, dtype=np.uint8)
    assert light_from(np.stack([ramp[:, ::-1], even, ramp])).tolist() == [0, 1, 2]


def test_every_question_is_answered_by_one_of_its_choices(rng: np.random.Generator) -> None:
    points = torch.from_numpy(rng.uniform(20, 108, (68, 2)))
    detector = SimpleNamespace(detect=lambda pixels: [None] * int(pixels[0, 0, 0]))
    instruments: Any = Instruments(
        detector,  # type: ignore[arg-type]
        lambda crops: points.repeat(len(crops), 1, 1),  # type: ignore[arg-type]
        lambda crops: np.array([[-0.5, 2.0], [0.5, 9.0]]),
    )
    photos = [np.full((8, 8, 3), count, dtype=np.uint8) for count in (1, 7)]
    crops = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    found = answer_photos(photos, crops, instruments)
    assert list(found) == [question.name for question in QUESTIONS]
    for question in QUESTIONS:
        assert all(0 <= answer < len(question.choices) for answer in found[question.name])
    assert (found["apparent sex"].tolist(), found["age group"].tolist()) == ([0, 1], [0, 3])
    assert found["faces"].tolist() == [1, 3]
    with pytest.raises(ValueError, match="as many crops"):
        answer_photos(photos, crops[:1], instruments)
