"""The restorer of degraded crops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.faces.alignment import AlignedFace, sample_crop
from models.faces.degradation import Degradation, estimate_degradation
from models.faces.restoration import (
    ARTIFACT_NAME,
    COLORS,
    SMOOTHING,
    TENSORS_FILE,
    CropRestorer,
    Field,
    Grade,
    RestorationError,
    load_crop_restorer,
    restore_crop,
)
from models.registry.store import ArtifactStore

MATRIX = np.array([[1.0, 0.0, -16.0], [0.0, 1.0, -16.0]])


def variation(weight: float) -> Field:
    filters = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]])
    return Field(torch.full((2,), weight), filters)


def grade(level: float = 10.0, weight: float = 0.04, kind: str = "noise") -> Grade:
    return Grade(kind, level, variation(weight), variation(2 * weight))  # type: ignore[arg-type]


def picture() -> NDArray[np.uint8]:
    y, x = np.mgrid[:160, :160] / 160
    shade = 120 + 70 * np.sin(6 * x) * np.cos(5 * y)
    shade[np.hypot(x - 0.5, y - 0.5) < 0.2] += 30
    return np.stack([shade, 0.9 * shade, 0.8 * shade], axis=2).clip(0, 255).astype(np.uint8)


def noisy(pixels: NDArray[np.uint8], deviation: float = 20.0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return (pixels + rng.normal(0, deviation, pixels.shape)).clip(0, 255).round().astype(np.uint8)


def garbage() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(2)
    board = np.indices((128, 128)).sum(0)[..., None] % 2 * np.array([255, 0, 255])
    return [
        rng.integers(0, 256, (128, 128, 3)).astype(np.uint8),
        (rng.integers(0, 2, (128, 128, 3)) * 255).astype(np.uint8),
        board.astype(np.uint8),
        np.zeros((128, 128, 3), np.uint8),
        np.full((128, 128, 3), 255, np.uint8),
    ]


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b).mean()))


@pytest.fixture
def restorer() -> CropRestorer:
    grades = [grade(3, 0.02), grade(10), grade(2, 0.01, "blocks"), grade(5, 0.03, "blocks")]
    return CropRestorer(grades, noise_gate=2.0, blockiness_gate=1.2)


def test_a_clean_crop_comes_back_as_the_same_array(restorer: CropRestorer) -> None:
    pixels = picture()
    aligned = AlignedFace(sample_crop(pixels, MATRIX), MATRIX)
    before = aligned.crop.copy()
    restored = restorer.restore_face(pixels, aligned)
    assert restored.crop is aligned.crop
    assert np.array_equal(aligned.crop, before)


def test_a_noisy_crop_comes_nearer_to_the_clean_one_and_the_input_is_kept(restorer: CropRestorer) -> None:
    pixels = noisy(picture())
    aligned = AlignedFace(sample_crop(pixels, MATRIX), MATRIX)
    before = aligned.crop.copy()
    restored = restorer.restore_face(pixels, aligned)
    clean = sample_crop(picture(), MATRIX)
    assert error(restored.crop, clean) < 0.6 * error(aligned.crop, clean)
    assert np.array_equal(aligned.crop, before)
    assert restored.matrix is aligned.matrix


@pytest.mark.parametrize(
    ("degradation", "expected"),
    [
        (Degradation(0.0, 0.0), None),
        (Degradation(1.99, 1.19), None),
        (Degradation(2.0, 0.0), ("noise", 3)),
        (Degradation(5.0, 9.0), ("noise", 3)),
        (Degradation(6.0, 0.0), ("noise", 10)),
        (Degradation(0.0, 1.2), ("blocks", 2)),
        (Degradation(1.0, 4.0), ("blocks", 5)),
    ],
)
def test_the_grade_is_the_nearest_one_of_the_damage_that_passes_its_gate(
    restorer: CropRestorer, degradation: Degradation, expected: tuple[str, float] | None
) -> None:
    chosen = restorer.grade_for(degradation)
    assert (None if chosen is None else (chosen.kind, chosen.level)) == expected


def test_damage_without_a_grade_of_its_kind_is_left_alone() -> None:
    restorer = CropRestorer([grade()], noise_gate=2.0, blockiness_gate=1.2)
    assert restorer.grade_for(Degradation(0.0, 50.0)) is None


@pytest.mark.parametrize("tolerance", [4.0, 1.0, 0.25])
def test_the_certified_error_holds_against_a_solve_in_double_precision(tolerance: float) -> None:
    crop = noisy(picture())[16:144, 16:144]
    wanted = grade()
    restored = restore_crop(crop, wanted, tolerance=tolerance)
    data = torch.einsum("ck,hwk->chw", torch.from_numpy(COLORS), torch.from_numpy(crop).double() / 255)[:, None]
    exact = torch.cat([minimizer(data[:1], wanted.luma), minimizer(data[1:], wanted.chroma)])
    pixels = torch.einsum("ck,chw->hwk", torch.from_numpy(COLORS), exact[:, 0]).clamp(0, 1) * 255
    # rounding to whole gray levels adds .29 at most in the root mean square
    assert error(restored.crop, pixels.numpy()) <= restored.error_bound + 0.3
    assert restored.error_bound <= tolerance


def minimizer(data: torch.Tensor, field: Field) -> torch.Tensor:
    """Newton's direction is not needed: plain descent far beyond the tested accuracy."""
    filters = field.filters.double()[:, None]
    y, previous = data, data
    for _ in range(400):
        responses = torch.conv2d(y, filters)
        slopes = responses / (responses.square() + SMOOTHING**2).sqrt() * field.weights.double()[:, None, None]
        gradient = y - data + torch.conv_transpose2d(slopes, filters)
        current = y - gradient / (1 + field.smoothness(128))
        y, previous = current + 0.8 * (current - previous), current
    return y


def test_a_solve_that_runs_out_of_iterations_says_so() -> None:
    crop = noisy(picture())[16:144, 16:144]
    restored = restore_crop(crop, grade(), max_iterations=3)
    assert restored.iterations == 6
    assert restored.error_bound > 0.25


@pytest.mark.parametrize("number", range(5))
def test_garbage_comes_back_finite_and_within_the_reach_of_the_filters(number: int, restorer: CropRestorer) -> None:
    crop = garbage()[number]
    for one in restorer.grades:
        restored = restore_crop(crop, one)
        assert restored.crop.shape == crop.shape
        assert restored.crop.dtype == np.uint8
        assert math.isfinite(restored.error_bound)
        # every channel moves by its reach at most; the way back to colors adds them with factors below one
        reach = 255 * (one.luma.reach() + 2 * one.chroma.reach()) + 128 * restored.error_bound + 1
        assert np.abs(restored.crop.astype(float) - crop).max() <= reach
    estimate_degradation(crop, np.eye(2, 3))


def test_a_uniform_crop_stays_what_it_is() -> None:
    crop = np.full((128, 128, 3), (200, 30, 90), np.uint8)
    restored = restore_crop(crop, grade())
    assert np.array_equal(restored.crop, crop)
    assert restored.error_bound < 1e-3


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((128, 128, 3)),
        np.full((128, 128, 3), np.nan),
        np.zeros((128, 127, 3), np.uint8),
        np.zeros((128, 128), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
    ],
)
def test_what_is_no_crop_is_refused(crop: NDArray[np.uint8]) -> None:
    with pytest.raises(RestorationError, match="expected a square crop"):
        restore_crop(crop, grade())


def test_what_defines_no_restorer_is_refused() -> None:
    filters = torch.zeros(2, 3, 3)
    for weights, kernels in (
        (torch.ones(3), filters),
        (torch.tensor([1.0, -1.0]), filters),
        (torch.tensor([1.0, math.nan]), filters),
        (torch.ones(2), torch.full((2, 3, 3), math.inf)),
        (torch.ones(2), torch.zeros(2, 3, 4)),
    ):
        with pytest.raises(RestorationError, match="a field needs"):
            Field(weights, kernels)
    for level, kind in ((0.0, "noise"), (math.nan, "noise"), (1.0, "blur")):
        with pytest.raises(RestorationError, match="a grade needs"):
            grade(level, kind=kind)
    with pytest.raises(RestorationError, match="at least one grade"):
        CropRestorer([], noise_gate=1, blockiness_gate=1)
    for gate in (0.0, math.nan, math.inf):
        with pytest.raises(RestorationError, match="noise_gate must be"):
            CropRestorer([grade()], noise_gate=gate, blockiness_gate=1)


def test_a_published_restorer_restores_alike(restorer: CropRestorer, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    manifest = store.publish(ARTIFACT_NAME, "filters", restorer.to_files(), license="Apache-2.0")
    read = load_crop_restorer(store, manifest.version)
    assert (read.noise_gate, read.blockiness_gate) == (2.0, 1.2)
    crop = noisy(picture())[16:144, 16:144]
    for one, other in zip(restorer.grades, read.grades, strict=True):
        assert (one.kind, one.level) == (other.kind, other.level)
        assert np.array_equal(restore_crop(crop, one).crop, restore_crop(crop, other).crop)


def test_a_damaged_file_is_refused(restorer: CropRestorer) -> None:
    data = restorer.to_files()[TENSORS_FILE]
    for broken in ({}, {TENSORS_FILE: data[:40]}, {TENSORS_FILE: data.replace(b"levels", b"levelz")}):
        with pytest.raises(RestorationError, match="no readable restorer"):
            CropRestorer.from_files(broken)


def test_a_restorer_of_one_kind_leaves_the_other_damage_alone() -> None:
    both = CropRestorer([grade(), grade(kind="blocks")], noise_gate=5.0, blockiness_gate=5.0)
    noise = both.of_kind("noise")
    assert noise.grade_for(Degradation(noise=20.0, blockiness=20.0)) is both.grades[0]
    assert noise.grade_for(Degradation(noise=1.0, blockiness=20.0)) is None
    with pytest.raises(RestorationError, match="at least one grade"):
        noise.of_kind("blocks")
