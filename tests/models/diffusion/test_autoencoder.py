"""The autoencoder's shapes, its normalization and its file format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models.diffusion.autoencoder import LatentAutoencoder


@pytest.fixture
def autoencoder() -> LatentAutoencoder:
    torch.manual_seed(0)
    return LatentAutoencoder(encoder_widths=(8, 8, 16), decoder_widths=(8, 8, 16)).eval()


def test_a_crop_becomes_sixteen_by_sixteen_latents_and_a_crop_again(autoencoder: LatentAutoencoder) -> None:
    crops = torch.rand(2, 3, 128, 128) * 2 - 1
    latents = autoencoder.encode(crops)
    assert latents.shape == (2, 8, 16, 16)
    assert autoencoder.decode(latents).shape == crops.shape


def test_fitted_normalization_gives_each_latent_channel_zero_mean_and_unit_variance(
    autoencoder: LatentAutoencoder, generator: torch.Generator
) -> None:
    crops = torch.rand(24, 3, 128, 128, generator=generator) * 2 - 1
    autoencoder.fit_normalization(crops)
    latents = autoencoder.encode(crops)
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(8), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(8), atol=1e-3)


def test_decoding_undoes_the_normalization(autoencoder: LatentAutoencoder, generator: torch.Generator) -> None:
    crops = torch.rand(4, 3, 128, 128, generator=generator) * 2 - 1
    autoencoder.fit_normalization(crops)
    raw = autoencoder.posterior(crops)[0]
    assert torch.allclose(autoencoder.decode(autoencoder.encode(crops)), autoencoder.decode_raw(raw), atol=1e-4)


def test_saved_weights_load_to_the_same_function(autoencoder: LatentAutoencoder, tmp_path: Path) -> None:
    crops = torch.rand(2, 3, 128, 128) * 2 - 1
    autoencoder.fit_normalization(crops)
    autoencoder.save_pretrained(tmp_path, safe_serialization=True)
    loaded = LatentAutoencoder.from_pretrained(tmp_path, local_files_only=True).eval()
    assert not list(tmp_path.glob("*.bin"))
    assert torch.allclose(loaded.decode(loaded.encode(crops)), autoencoder.decode(autoencoder.encode(crops)), atol=1e-5)


def test_the_side_of_its_crops_is_stored_and_is_that_of_the_service_where_nothing_is_stored(tmp_path: Path) -> None:
    large = LatentAutoencoder(4, (8, 8, 8), (8, 8, 8), crop_size=256)
    large.save_pretrained(tmp_path, safe_serialization=True)
    assert LatentAutoencoder.from_pretrained(tmp_path, local_files_only=True).crop_size == 256
    assert large.decode(large.encode(torch.zeros(1, 3, 256, 256))).shape == (1, 3, 256, 256)
    settings = json.loads((tmp_path / "config.json").read_text())
    del settings["crop_size"]  # as in artifacts from before there was a choice
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert LatentAutoencoder.from_pretrained(tmp_path, local_files_only=True).crop_size == 128
