"""The level of a policy limits the attribute code of that policy's faces, or the face is covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.verdict import Reason, Status

TWO_FACES = (((10, 10), (150, 20)), (300, 180))
MARKS = {"strict": 3.0, "balanced": 0.0, "faithful": -3.0}


@pytest.fixture(autouse=True)
def one_scale(rig: Any) -> None:
    rig.plan = DetectionPlan(scales=(1.0,), mirrored=False)


def requests(rig: Any, studio: Any, *levels: str) -> list[PictureRequest]:
    """One request per level; the second picture has two faces."""
    pictures = [studio.draw_picture(3), studio.draw_picture(5, *TWO_FACES), studio.draw_picture(2)]
    return [rig.request(picture.encoded(), level=level) for picture, level in zip(pictures, levels, strict=False)]


def test_pictures_of_one_level_are_limited_together_and_others_apart(rig: Any, studio: Any) -> None:
    releases = rig.build().anonymize(requests(rig, studio, "strict", "faithful", "strict"))
    assert [release.status for release in releases] == 3 * [Status.ANONYMIZED]
    assert sorted(rig.levels.asked) == [("faithful", 2), ("strict", 2)]


def test_a_policy_that_names_no_level_asks_for_balanced(rig: Any, studio: Any) -> None:
    rig.run(studio.draw_picture(3))
    assert rig.levels.asked == [("balanced", 1)]


def test_covered_faces_are_not_encoded(rig: Any, studio: Any) -> None:
    rig.run(studio.draw_picture(3), mode="redact")
    assert rig.levels.asked == []


def test_what_a_level_gives_is_the_mean_of_the_code_of_its_own_faces(rig: Any, studio: Any) -> None:
    rig.levels = lambda level, crops, mean: torch.full_like(mean, MARKS[level])
    rig.build().anonymize(requests(rig, studio, "strict", "faithful", "balanced"))
    codes = torch.stack(rig.generator.attribute_codes)
    # 512 numbers with noise of 0.3: the standard error of a mean is 0.013
    assert codes.mean((1, 2, 3)).tolist() == pytest.approx([3.0, -3.0, -3.0, 0.0], abs=0.06)
    assert codes.std((1, 2, 3)).tolist() == pytest.approx(4 * [0.3], abs=0.04)


def test_a_level_sees_the_very_crops_of_the_codes_it_limits(rig: Any, studio: Any) -> None:
    seen = []

    def limit(level: str, crops: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        seen.append(torch.equal(rig.attribute_encoder(crops)[0], mean))
        return mean

    rig.levels = limit
    rig.build().anonymize(requests(rig, studio, "strict", "faithful", "strict"))
    assert seen == [True, True]


def fails(*_: Any) -> Any:
    raise RuntimeError("map")


@pytest.mark.parametrize(
    "answer",
    [fails, lambda level, crops, mean: mean * torch.nan, lambda level, crops, mean: mean[:1]],
    ids=["raises", "gives NaN", "gives one row for two faces"],
)
def test_a_face_whose_level_fails_is_covered_and_other_levels_go_on(
    answer: Callable[..., Any], rig: Any, studio: Any
) -> None:
    asked = rig.levels
    rig.levels = lambda level, *arguments: (answer if level == "strict" else asked)(level, *arguments)
    releases = rig.build().anonymize(requests(rig, studio, "balanced", "strict", "faithful"))
    assert [release.status for release in releases] == [Status.ANONYMIZED, Status.REDACTED, Status.ANONYMIZED]
    assert [face.reason for face in releases[1].verdict.faces] == 2 * [Reason.ENCODER_FAILED]
    studio.assert_no_source_face(releases[1], studio.draw_picture(5, *TWO_FACES))


def test_a_face_whose_level_fails_withholds_its_picture_where_the_policy_says_so(rig: Any, studio: Any) -> None:
    rig.levels = fails
    (release,) = rig.run(studio.draw_picture(3), on_failure="withhold")
    assert (release.status, release.reason) == (Status.WITHHELD, Reason.ENCODER_FAILED)
    assert release.image_bytes() is None
