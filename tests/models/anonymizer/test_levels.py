"""The level of a policy limits the attribute code of that policy's faces, or the face is covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.source_encoding import attribute_noise
from models.anonymizer.verdict import Reason, Status
from models.encoder.landmark_code import LANDMARK_CHANNELS
from models.encoder.levels import LEVELS

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


def test_levels_share_noise_exactly_where_they_share_the_mean() -> None:
    noise = {level: attribute_noise((10, 8, 8), bytes(32), level) for level in LEVELS}
    learned = {level: value[:-LANDMARK_CHANNELS] for level, value in noise.items()}
    landmarks = {level: value[-LANDMARK_CHANNELS:] for level, value in noise.items()}

    assert torch.equal(learned["strict"], learned["balanced"])
    assert torch.equal(landmarks["balanced"], landmarks["faithful"])
    for parts, first, second in ((learned, "faithful", "balanced"), (landmarks, "strict", "balanced")):
        pair = torch.stack([parts[first].flatten(), parts[second].flatten()])
        # independent: the correlation of n draws has the standard error 1 / sqrt(n)
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 3 / pair.shape[1] ** 0.5


def test_the_noise_of_a_level_is_the_same_every_time_and_another_for_another_face() -> None:
    first, again, other = (attribute_noise((10, 8, 8), seed, "balanced") for seed in (bytes(32), bytes(32), b"x" * 32))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
