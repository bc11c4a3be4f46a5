"""The job of the crop restorer: its plain ways, and what it publishes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.faces.alignment import AlignedFace, crop_template, similarity_transform
from models.faces.restoration import CropRestorer, load_crop_restorer, restore_crop
from models.registry.store import ArtifactStore
from training.data.degraded_faces import DegradedFace, add_noise, degrade_face, noise_of_level, psnr
from training.data.drawn_faces import drawn_crop_set
from training.jobs.fit_crop_restorer import JOB, FitCropRestorerConfig
from training.jobs.restored_photos import _service_rows
from training.jobs.restorer_peers import (
    WayRestorer,
    log_error,
    non_local_means,
    tuned_means,
    tuned_variation,
    tuned_ways,
)
from training.runs.config import resolve_config
from training.runs.execution import Place, execute
from training.runs.methods_table import SERVICE_COLUMNS, SERVICE_TABLE


def noisy(level: float, count: int = 2) -> list[DegradedFace]:
    rng = np.random.default_rng(0)
    return [degrade_face(crop, noise_of_level(level, rng), rng) for crop in drawn_crop_set(count, 1, 3).crops]


def test_tuned_plain_ways_bring_noisy_crops_nearer_and_grow_with_the_noise() -> None:
    weak, strong = noisy(4.0), noisy(14.0)
    variations = [tuned_variation(faces, "noise", 4.0) for faces in (weak, strong)]
    strengths = [tuned_means(faces) for faces in (weak, strong)]
    assert float(variations[0].luma.weights[0]) < float(variations[1].luma.weights[0])
    assert strengths[0] < strengths[1]
    untouched = log_error(strong, lambda crop: crop)
    assert log_error(strong, lambda crop: restore_crop(crop, variations[1]).crop) < untouched - 1
    assert log_error(strong, lambda crop: non_local_means(crop, strengths[1])) < untouched - 1


def test_non_local_means_treat_the_colors_in_their_order() -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([200, 40, 60], np.uint8)
    assert np.abs(non_local_means(red, 3.0).astype(int) - red).max() <= 2


def test_the_log_error_is_the_mean_ratio_in_other_words() -> None:
    faces = noisy(7.0)
    ratio = float(np.mean([psnr(face.damaged, face.clean) for face in faces]))
    assert ratio == pytest.approx(10 * (2 * np.log10(255) - log_error(faces, lambda crop: crop) / np.log(10)))


def test_rows_for_the_service_have_every_damage_against_none_and_every_peer_on_average() -> None:
    measures = ("PSNR, dB", "landmark error, % of eye distance", "similarity of embeddings to clean")
    damages = ("noise 10", "noise 25", "JPEG 20", "JPEG 10")
    worth = {"no restorer": 1.0, "peer": 2.0, "restorer": 3.0}
    details = [
        {"damage": damage, "way": way, "n": 7, **dict.fromkeys(measures, value + place)}
        for place, damage in enumerate(damages)
        for way, value in worth.items()
    ]
    rows = _service_rows(details, ["peer"])
    assert len(rows) == 15
    assert all(set(row) == set(SERVICE_COLUMNS) for row in rows)
    assert (rows[3]["without"], rows[3]["with"]) == (2.0, 4.0)
    assert (rows[-1]["without"], rows[-1]["with"], rows[-1]["n"]) == (3.5, 4.5, 7)


def test_a_plain_way_behind_the_gate_treats_what_the_restorer_treats_and_nothing_else() -> None:
    faces = noisy(7.0)
    learned = CropRestorer([tuned_variation(faces, "noise", 7.0)], noise_gate=2.0, blockiness_gate=1.2)
    inverted = WayRestorer(learned, lambda crop, grade: 255 - crop).of_kind("noise")
    matrix = similarity_transform(crop_template(), crop_template())
    clean = drawn_crop_set(1, 1, 3).crops[0]
    damaged = add_noise(clean, 20, np.random.default_rng(0))
    untouched = AlignedFace(clean, matrix)
    assert inverted.restore_face(clean, untouched) is untouched
    assert np.array_equal(inverted.restore_face(damaged, AlignedFace(damaged, matrix)).crop, 255 - damaged)


def test_the_plain_ways_are_tuned_grade_by_grade_and_need_a_quality_for_each() -> None:
    faces = noisy(7.0)
    grades = [tuned_variation(faces, "noise", level) for level in (3.5, 14.0)]
    crops, rng = drawn_crop_set(2, 1, 5).crops, np.random.default_rng(0)
    ways = tuned_ways(grades, crops, (), rng)
    assert set(ways) == {"total variation", "non-local means"}
    strong = noisy(14.0)
    for way in ways.values():
        errors = [log_error(strong, lambda crop, way=way, grade=grade: way(crop, grade)) for grade in grades]  # type: ignore[misc]
        assert errors[1] < errors[0] - 0.3
    with pytest.raises(ValueError, match="0 JPEG qualities"):
        tuned_ways(grades, crops, (20,), rng)


@pytest.mark.slow
def test_a_run_publishes_a_restorer_that_serves(tmp_path: Path) -> None:
    settings = {**JOB.presets["smoke"], "qualities": (), "publish": True, "budget": 120}
    config = resolve_config(FitCropRestorerConfig, preset=settings)
    report = execute(JOB, config, Place(runs=tmp_path / "runs", artifacts=tmp_path / "artifacts")).report
    restorer = load_crop_restorer(ArtifactStore(tmp_path / "artifacts"))
    (grade,) = restorer.grades
    assert report.artifacts
    assert (restorer.noise_gate, restorer.blockiness_gate) == (config.noise_gate, config.blockiness_gate)
    assert grade.kind == "noise"
    assert grade.level == pytest.approx(7.0, rel=0.2)
    face = noisy(7.0)[0]
    assert psnr(restore_crop(face.damaged, grade).crop, face.clean) > psnr(face.damaged, face.clean) + 1
    assert {row["method"] for row in report.tables[SERVICE_TABLE]} == {"maid"}
