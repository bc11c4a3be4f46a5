"""Test T1 on pictures: the cascade decides as asking about every view of every candidate would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from models.anonymizer.candidate_test import _DETECTOR_SHIFT, CandidateTest, five_points
from models.anonymizer.oracle_views import as_batch, embed, similarities, views
from models.anonymizer.policy import Policy
from models.encoder.levels import LEVELS
from models.faces.alignment import align_face, crop_template, invert_matrix, sample_crop, similarity_transform

SIDE = 128


class PooledOracles:
    """Two oracles that see coarse brightness, so that faces drawn from nearby patterns look alike to them."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self._maps = torch.randn(2, 256, 24, generator=torch.Generator().manual_seed(1))

    def __call__(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        self.rows.append(len(crops))
        pooled = torch.nn.functional.avg_pool2d(crops.mean(1, keepdim=True), 8).flatten(1)
        pooled = pooled - pooled.mean(1, keepdim=True)
        return {
            name: torch.nn.functional.normalize(pooled @ weights, dim=1)
            for name, weights in zip(("east", "west"), self._maps, strict=True)
        }


class Marks:
    """A landmark network that finds every face a few pixels from the template."""

    def __init__(self, studio: Any, shift: float) -> None:
        self._answer = studio.template_landmarks(shift)

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        return self._answer.expand(len(crops), -1, -1)


def draw(seed: int, count: int) -> tuple[list[Any], Any]:
    """Crops whose likeness to a source runs from none to nearly all, and the source."""
    rng = np.random.default_rng(seed)
    base, others = rng.normal(size=(16, 16)), rng.normal(size=(count, 16, 16))
    weights = rng.uniform(0.0, 1.0, size=(count, 1, 1))
    mixed = weights * base + np.sqrt(1 - weights**2) * others
    grown = np.concatenate([mixed, base[None]]).repeat(8, axis=1).repeat(8, axis=2)
    levels = np.clip(127.0 + 45.0 * grown, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=3)
    return list(levels[:count]), levels[count]


def make(studio: Any, ensemble: Any, shift: float | None = 3.0, limit: float = 0.5) -> tuple[CandidateTest, Any]:
    thresholds = {name: studio.FixedThreshold(limit, 0.1) for name in ("east", "west")}
    landmarks = None if shift is None else Marks(studio, shift)
    return CandidateTest(ensemble, thresholds, margin=0.0, landmarks=landmarks, device=torch.device("cpu")), thresholds


def judge(test: CandidateTest, crops: list[Any], source: Any, groups: Any = None) -> Any:
    embeddings = {name: rows[0] for name, rows in embed(PooledOracles(), as_batch([source]), ("east", "west")).items()}
    limits = test.limits(Policy())
    return test.judge(crops, [embeddings] * len(crops), [limits] * len(crops), groups)


def by_force(crops: list[Any], source: Any, shift: float) -> torch.Tensor:
    """Largest similarity over all oracles, all views: what the gate would see if nothing changed on the way."""
    own = [align_face(crop, crop_template() + shift + _DETECTOR_SHIFT).crop for crop in crops]
    seen = torch.cat([views(as_batch(crops)), as_batch(own)[None]])
    answers = embed(PooledOracles(), seen.flatten(0, 1), ("east", "west"))
    sources = embed(PooledOracles(), as_batch([source]), ("east", "west"))
    compared = similarities(
        {name: row.expand(len(crops), -1) for name, row in sources.items()},
        {name: rows.unflatten(0, seen.shape[:2]) for name, rows in answers.items()},
    )
    return torch.stack([values.amax(0) for values in compared.values()]).amax(0)


@pytest.mark.parametrize("seed", range(3))
def test_a_candidate_is_accepted_exactly_when_every_view_stays_below_every_limit(seed: int, studio: Any) -> None:
    crops, source = draw(seed, 40)
    judged = judge(make(studio, PooledOracles())[0], crops, source)
    likeness = by_force(crops, source, 3.0)
    expected = likeness < 0.5
    assert torch.equal(judged.is_accepted, expected)
    assert 5 < int(expected.sum()) < 35
    # what is reported decides the same
    largest = torch.stack(list(judged.similarity.values())).amax(0)
    assert torch.equal(largest < 0.5, expected)
    torch.testing.assert_close(largest[expected], likeness[expected], atol=1e-5, rtol=0.0)


def test_only_candidates_in_play_are_shown_in_other_views(studio: Any) -> None:
    crops, source = draw(0, 40)
    ensemble = PooledOracles()
    judge(make(studio, ensemble)[0], crops, source)
    plain = torch.stack(list(judge(make(studio, PooledOracles(), None)[0], crops, source).similarity.values()))
    assert ensemble.rows[0] == 40
    # mirrored, blurred, resampled, own landmarks
    assert sum(ensemble.rows[1:]) < 4 * 40
    assert sum(ensemble.rows[1:]) % 4 == 0
    assert sum(ensemble.rows[1:]) >= 4 * int((plain.amax(0) < 0.5).sum())


def test_the_first_accepted_candidate_of_a_group_is_that_of_a_one_by_one_sampler(studio: Any) -> None:
    crops, source = draw(1, 48)
    groups = [index // 4 for index in range(48)]
    ensemble, alone = PooledOracles(), PooledOracles()
    judged = judge(make(studio, ensemble)[0], crops, source, groups)
    every = judge(make(studio, alone)[0], crops, source)
    for group in range(12):
        rows = slice(4 * group, 4 * group + 4)
        wanted = every.is_accepted[rows].nonzero()[:1]
        assert torch.equal(judged.is_accepted[rows].nonzero(), wanted)
    assert sum(ensemble.rows) < sum(alone.rows)


@pytest.mark.parametrize("call", [0, 1])
def test_a_vector_that_is_none_refuses_the_candidate_and_shows(call: int, studio: Any) -> None:
    crops, _ = draw(2, 1)
    source = draw(3, 1)[1]
    broken = studio.Altered(
        PooledOracles(), lambda answer, *_: {**answer, "east": answer["east"] * torch.nan}, call, call + 1
    )
    assert bool(judge(make(studio, PooledOracles())[0], crops, source).is_accepted.all())
    judged = judge(make(studio, broken)[0], crops, source)
    assert not bool(judged.is_accepted.any())
    assert bool(judged.similarity["east"].isnan().all())


def test_a_likeness_that_only_the_own_landmarks_show_is_found_before_the_gate(studio: Any) -> None:
    """The candidate is the source moved by eight pixels, and the landmark network sees that."""
    _, source = draw(4, 1)
    shift = similarity_transform(crop_template() + 8.0 + _DETECTOR_SHIFT, crop_template())
    moved = sample_crop(source, invert_matrix(shift))
    blind, seeing = make(studio, PooledOracles(), None)[0], make(studio, PooledOracles(), 8.0)[0]
    assert bool(judge(blind, [moved], source).is_accepted.all())
    judged = judge(seeing, [moved], source)
    assert not bool(judged.is_accepted.any())
    assert float(judged.similarity["east"]) > 0.9


def test_limits_lie_the_margin_below_the_thresholds_of_the_policy(studio: Any) -> None:
    thresholds = {"east": studio.FixedThreshold(0.5, 0.1), "west": studio.FixedThreshold(0.3, 0.05)}
    test = CandidateTest(PooledOracles(), thresholds, margin=2.0, landmarks=None, device=torch.device("cpu"))
    assert test.limits(Policy()) == pytest.approx({"east": 0.3, "west": 0.2})
    assert test.limits(Policy(max_similarity=0.4)) == pytest.approx({"east": 0.2, "west": 0.2})


def test_strict_policies_keep_twice_the_margin_unless_one_is_set(studio: Any) -> None:
    thresholds = {"east": studio.FixedThreshold(0.5, 0.1)}
    test = CandidateTest(PooledOracles(), thresholds, margin=None, landmarks=None, device=torch.device("cpu"))
    assert [test.limits(Policy(level=level))["east"] for level in LEVELS] == pytest.approx([0.35, 0.425, 0.425])


def test_five_points_are_read_off_the_landmarks(studio: Any) -> None:
    np.testing.assert_allclose(
        five_points(studio.template_landmarks(2.0)[None])[0], crop_template() + 2.0 + _DETECTOR_SHIFT, atol=1e-4
    )
    with pytest.raises(ValueError, match="68"):
        five_points(torch.zeros(1, 5, 2))
    for broken in (torch.zeros(1, 68, 2), torch.full((1, 68, 2), torch.nan)):
        with pytest.raises(ValueError, match="apart"):
            five_points(broken)


def test_oracles_of_candidates_may_multiply_in_bfloat16_and_their_sources_did_not(studio: Any) -> None:
    seen: list[bool] = []

    class Watching(PooledOracles):
        def __call__(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
            seen.append(torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16)
            return super().__call__(crops)

    crops, source = draw(0, 8)
    _, thresholds = make(studio, PooledOracles())
    for dtype in (torch.float32, torch.bfloat16):
        test = CandidateTest(
            Watching(), thresholds, margin=0.0, landmarks=None, device=torch.device("cpu"), dtype=dtype
        )
        judge(test, crops, source)
        assert set(seen) == {dtype == torch.bfloat16}
        seen.clear()
    assert not torch.is_autocast_enabled("cpu")
