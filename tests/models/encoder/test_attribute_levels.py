"""A level lets a code tell what its map is a function of: light, pose and expression, and nothing beside."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from models.encoder.attribute_levels import ARTIFACT_NAME, TENSORS_FILE, AttributeLevels, load_attribute_levels
from models.encoder.landmark_code import from_sheets, to_sheets
from models.encoder.levels import LEVELS
from models.encoder.light_code import harmonic_basis, light_numbers
from models.registry.manifest import ArtifactError
from models.registry.store import ArtifactStore

CHANNELS, DROPPED = 3, 60
TENSORS = ("light_weights", "light_bias", "landmark_mean", "landmark_map")


@pytest.fixture
def levels(generator: torch.Generator) -> AttributeLevels:
    """Random maps; that of the landmarks drops the first 60 directions of a basis, and is not symmetric."""
    taken, given = (torch.linalg.qr(torch.randn(102, 102, generator=generator))[0] for _ in range(2))
    gains = torch.cat([torch.zeros(DROPPED), torch.rand(102 - DROPPED, generator=generator) + 0.5])
    return AttributeLevels(
        torch.randn(27, CHANNELS * 64, generator=generator),
        torch.randn(CHANNELS * 64, generator=generator),
        torch.randn(102, generator=generator),
        (taken * gains) @ given.T,
    )


@pytest.fixture
def crops(generator: torch.Generator) -> Tensor:
    return torch.rand(4, 3, 128, 128, generator=generator) * 2 - 1


def code(generator: torch.Generator, landmarks: Tensor | None = None, count: int = 4) -> Tensor:
    """Means of codes (n, c + 2, 8, 8), as an encoder gives them; landmarks (n, 102) random where none are told."""
    offsets = torch.randn(count, 102, generator=generator) if landmarks is None else landmarks
    learned = torch.randn(len(offsets), CHANNELS, 8, 8, generator=generator)
    return torch.cat([learned, to_sheets(offsets.unflatten(1, (51, 2)))], dim=1)


def landmarks_of(mean: Tensor) -> Tensor:
    return from_sheets(mean[:, CHANNELS:]).flatten(1)


def in_the_same_light(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Other faces and surroundings whose colors have the same harmonics."""
    inside, basis = harmonic_basis()
    matrix = torch.from_numpy(basis).float()
    detail = torch.randn(*crops.shape[:2], len(basis), generator=generator)
    others = torch.rand(crops.shape, generator=generator)
    others[..., torch.from_numpy(inside)] = crops[..., torch.from_numpy(inside)] + detail - (detail @ matrix) @ matrix.T
    return others


def test_faithful_gives_the_code_as_it_is(levels: AttributeLevels, crops: Tensor, generator: torch.Generator) -> None:
    mean = code(generator)
    assert torch.equal(levels("faithful", crops, mean), mean)


@pytest.mark.parametrize("level", ["balanced", "strict"])
def test_the_learned_part_tells_the_light_and_nothing_else(
    level: str, levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    others = in_the_same_light(crops, generator)
    assert float((others - crops).abs().mean()) > 0.5
    one, other = (levels(level, rows, code(generator))[:, :CHANNELS] for rows in (crops, others))  # type: ignore[arg-type]
    assert torch.allclose(one, other, atol=1e-4)
    assert torch.allclose(one.flatten(1), light_numbers(crops) @ levels.light_weights + levels.light_bias, atol=1e-5)
    darker = levels(level, crops - 0.3, code(generator))[:, :CHANNELS]  # type: ignore[arg-type]
    assert float((darker - one).abs().mean()) > 0.1


def test_balanced_leaves_the_landmarks_alone(
    levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    mean = code(generator)
    limited = levels("balanced", crops, mean)
    assert limited.shape == mean.shape
    assert torch.equal(limited[:, CHANNELS:], mean[:, CHANNELS:])


def test_strict_landmarks_are_the_affine_map_and_its_mean_stays(
    levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    mean = code(generator)
    limited = levels("strict", crops, mean)
    offsets = landmarks_of(mean).double()
    center, matrix = levels.landmark_mean.double(), levels.landmark_map.double()
    expected = torch.stack([center + sum((row - center)[i] * matrix[i] for i in range(102)) for row in offsets])
    assert torch.allclose(landmarks_of(limited).double(), expected, atol=1e-4)
    assert torch.equal(limited[:, CHANNELS:], to_sheets(landmarks_of(limited).unflatten(1, (51, 2))))
    still = code(generator, levels.landmark_mean.expand(4, -1))
    assert torch.allclose(landmarks_of(levels("strict", crops, still)), levels.landmark_mean.expand(4, -1), atol=1e-6)


def test_people_who_differ_in_what_the_map_drops_get_one_strict_code(
    levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    dropped = torch.linalg.svd(levels.landmark_map)[0][:, -DROPPED:].T  # rows v with v M = 0
    landmarks = torch.randn(4, 102, generator=generator)
    others = landmarks + 5 * torch.randn(4, DROPPED, generator=generator) @ dropped
    first, second = (code(generator, rows) for rows in (landmarks, others))
    assert torch.allclose(levels("strict", crops, first), levels("strict", crops, second), atol=1e-4)
    assert not torch.allclose(levels("balanced", crops, first), levels("balanced", crops, second), atol=0.1)
    kept = code(generator, landmarks + 5 * torch.linalg.svd(levels.landmark_map)[0][:, 0])
    assert not torch.allclose(levels("strict", crops, first), levels("strict", crops, kept), atol=0.1)


def test_every_code_is_limited_by_its_own_crop(
    levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    mean = code(generator)
    for level in LEVELS:
        together = levels(level, crops, mean)
        alone = torch.cat([levels(level, crops[i : i + 1], mean[i : i + 1]) for i in range(4)])
        assert torch.allclose(together, alone, atol=1e-5)


def test_the_files_give_the_same_levels_back(levels: AttributeLevels) -> None:
    again = AttributeLevels.from_files(replace(levels, landmark_map=levels.landmark_map.T.contiguous().T).to_files())
    for name in TENSORS:
        assert torch.equal(getattr(again, name), getattr(levels, name))


@pytest.mark.parametrize("name", TENSORS)
def test_a_missing_tensor_is_refused_by_name(name: str, levels: AttributeLevels) -> None:
    tensors = load(levels.to_files()[TENSORS_FILE])
    del tensors[name]
    with pytest.raises(ValueError, match=f"lack .*{name}"):
        AttributeLevels.from_files({TENSORS_FILE: save(tensors)})


@pytest.mark.parametrize("name", TENSORS)
def test_misshapen_or_non_finite_tensors_are_refused_by_name(name: str, levels: AttributeLevels) -> None:
    good = getattr(levels, name)
    poisoned = good.clone()
    poisoned.view(-1)[-1] = torch.nan
    for bad in (good[..., :-1], good[None], good[..., :0], poisoned, poisoned.nan_to_num(nan=torch.inf)):
        with pytest.raises(ValueError, match=f"^{name} "):
            replace(levels, **{name: bad})


def test_unknown_levels_and_codes_of_another_shape_are_refused(
    levels: AttributeLevels, crops: Tensor, generator: torch.Generator
) -> None:
    mean = code(generator)
    for level in ("none", "Strict", ""):
        with pytest.raises(ValueError, match="level must be one of strict, balanced, faithful"):
            levels(level, crops, mean)  # type: ignore[arg-type]
    for level in LEVELS:
        for bad in (mean[:, 1:], mean[..., :4], mean[:3], mean[0]):
            with pytest.raises(ValueError, match="expected codes of 3 channels"):
                levels(level, crops, bad)


def test_the_shipped_levels_fit_the_shipped_code_and_drop_more_identity_than_state(
    artifacts_root: Path, crops: Tensor
) -> None:
    store = ArtifactStore(artifacts_root)
    shipped = load_attribute_levels(store)
    mean = torch.zeros(4, 10, 8, 8)
    limited = [shipped(level, crops, mean) for level in LEVELS]
    assert all(one.shape == mean.shape and bool(one.isfinite().all()) for one in limited)
    manifest = store.resolve(ARTIFACT_NAME).manifest
    assert manifest.metrics["identity_kept"] < manifest.metrics["state_kept"]
    assert manifest.parents["face-encoder"] == store.promoted("face-encoder")


def test_a_damaged_artifact_is_refused(artifacts_root: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts_root / ARTIFACT_NAME, tmp_path / ARTIFACT_NAME)
    store = ArtifactStore(tmp_path)
    load_attribute_levels(store)
    path = next((tmp_path / ARTIFACT_NAME).glob(f"*/{TENSORS_FILE}"))
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="sha256"):
        load_attribute_levels(store)


def test_an_artifact_that_is_missing_or_holds_something_else_is_refused(
    levels: AttributeLevels, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match=ARTIFACT_NAME):
        load_attribute_levels(store)
    misshapen = {name: getattr(levels, name) for name in TENSORS} | {"landmark_mean": torch.zeros(51)}
    for content in (b"no tensors", save({"other": torch.zeros(2)}), save(misshapen)):
        store.set_promoted(ARTIFACT_NAME, store.publish(ARTIFACT_NAME, "affine", {TENSORS_FILE: content}).version)
        with pytest.raises(ArtifactError, match="does not fit this code"):
            load_attribute_levels(store)
    store.set_promoted(ARTIFACT_NAME, store.publish(ARTIFACT_NAME, "affine", {"other.bin": b"x"}).version)
    with pytest.raises(ArtifactError, match=TENSORS_FILE):
        load_attribute_levels(store)
