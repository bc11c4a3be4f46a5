"""Crop sets are stored without loss, split by person, and cleaned of sheet borders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.data.drawn_faces import drawn_crop_set
from training.data.face_crops import (
    CropSet,
    augment,
    border_share,
    contact_sheet,
    join_crop_sets,
    load_crop_set,
    reduce_crops,
    save_crop_set,
    to_tensor,
)


@pytest.fixture
def crop_set(rng: np.random.Generator) -> CropSet:
    crops = rng.integers(0, 256, (40, 128, 128, 3), dtype=np.uint8)
    return CropSet(crops, np.array([f"person-{i // 2}" for i in range(40)], dtype=np.str_))


def test_a_crop_set_survives_storage(crop_set: CropSet, tmp_path: Path) -> None:
    save_crop_set(tmp_path / "faces", crop_set)
    loaded = load_crop_set(tmp_path / "faces")
    assert np.array_equal(loaded.crops, crop_set.crops)
    assert np.array_equal(loaded.groups, crop_set.groups)


def test_a_missing_crop_set_names_the_job_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="prepare-faces"):
        load_crop_set(tmp_path)


def test_no_person_is_in_both_parts_and_the_order_does_not_matter(crop_set: CropSet) -> None:
    train, held = crop_set.split(0.3)
    assert len(train) + len(held) == 40
    assert not set(train.groups) & set(held.groups)
    order = np.random.default_rng(0).permutation(40)
    shuffled = CropSet(crop_set.crops[order], crop_set.groups[order]).split(0.3)[1]
    assert set(shuffled.groups) == set(held.groups)
    assert len(join_crop_sets(train, held)) == 40


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_an_impossible_share_is_refused(crop_set: CropSet, share: float) -> None:
    with pytest.raises(ValueError, match=str(share)):
        crop_set.split(share)


def test_a_black_frame_is_told_from_a_face(crop_set: CropSet) -> None:
    framed = crop_set.crops[:2].copy()
    framed[0, :6] = 0
    shares = border_share(framed)
    assert shares[0] > 0.2
    assert shares[1] < 0.01


def test_augmentation_keeps_range_and_shape_and_depends_on_its_generator_only(crop_set: CropSet) -> None:
    crops = to_tensor(crop_set.crops[:6])
    state = torch.get_rng_state()
    first = augment(crops, torch.Generator().manual_seed(1))
    second = augment(crops, torch.Generator().manual_seed(1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, second)
    assert first.shape == crops.shape
    assert float(first.abs().max()) <= 1.0
    assert not torch.equal(first, augment(crops, torch.Generator().manual_seed(2)))


def test_a_sheet_shows_every_crop_once(crop_set: CropSet) -> None:
    crops = to_tensor(crop_set.crops[:5])
    sheet = contact_sheet([crops, crops], columns=3)
    assert sheet.shape == (4 * 128, 3 * 128, 3)
    assert np.array_equal(sheet[:128, :128], crop_set.crops[0])
    assert np.array_equal(sheet[128:256, 128:256], crop_set.crops[1])
    assert np.array_equal(sheet[256:384, :128], crop_set.crops[3])


def test_crops_beyond_the_border_repeat_it_and_keep_the_features_of_the_face(generator: torch.Generator) -> None:
    crops = torch.rand(40, 3, 128, 128, generator=generator) * 1.6 - 0.8
    plain = augment(crops, torch.Generator().manual_seed(5), soften=False, borders=0.0)
    cut = augment(crops, torch.Generator().manual_seed(5), soften=False, borders=1.0)
    assert torch.equal(cut[:, :, 28:108, 30:98], plain[:, :, 28:108, 30:98])
    repeats = (cut[:, :, 1, 40:80] == cut[:, :, 0, 40:80]).all(2).all(1)
    assert 0.25 < float(repeats.float().mean()) < 0.75
    assert not bool((plain[:, :, 1] == plain[:, :, 0]).all(2).all(1).any())


def test_a_reduced_crop_has_at_every_pixel_what_the_large_one_has_at_twice_the_place() -> None:
    places = torch.arange(256.0)
    ramps = torch.stack([places.expand(256, 256), places[:, None].expand(256, 256), places + 3 * places[:, None]])
    reduced = reduce_crops(ramps[None])
    assert reduced.shape == (1, 3, 128, 128)
    torch.testing.assert_close(reduced[..., 1:, 1:], ramps[None, :, 2::2, 2::2], atol=1e-4, rtol=0)


def test_crops_of_the_networks_side_stay_the_very_same_and_other_sides_are_refused() -> None:
    crops = torch.zeros(1, 3, 128, 128)
    assert reduce_crops(crops) is crops
    with pytest.raises(ValueError, match="got 192"):
        reduce_crops(torch.zeros(1, 3, 192, 192))


def test_a_head_drawn_large_and_reduced_lies_where_the_head_drawn_small_lies() -> None:
    small, large = drawn_crop_set(2, 1, 5), drawn_crop_set(2, 1, 5, 256)
    assert large.crops.shape == (2, 256, 256, 3)

    found, wanted = (crops[:, 40:110, 40:110].astype(float) for crops in (large.reduced().crops, small.crops))
    for axis in (1, 2):
        slope = np.gradient(found, axis=axis)
        # least squares: how far along the axis the reduced head would have to move
        assert abs(float(((wanted - found) * slope).sum() / np.square(slope).sum())) < 0.1
    assert small.reduced() is small


def test_crops_of_256_px_are_augmented_framed_and_stored_as_the_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    large = CropSet(rng.integers(0, 256, (6, 256, 256, 3), dtype=np.uint8), np.array([f"p{k}" for k in range(6)]))
    assert augment(to_tensor(large.crops), torch.Generator().manual_seed(1)).shape == (6, 3, 256, 256)
    framed = large.crops[:1].copy()
    framed[0, :12] = 0
    assert border_share(framed)[0] == pytest.approx(12 * 256 / (256**2 - 232**2), abs=0.01)
    save_crop_set(tmp_path, large)
    assert load_crop_set(tmp_path, 256).crops.shape == large.crops.shape
    with pytest.raises(ValueError, match="wanted are 128 px"):
        load_crop_set(tmp_path)
