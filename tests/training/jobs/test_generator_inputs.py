"""What is trained at 256 px keeps to itself, and networks of another side are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from models.diffusion.autoencoder import LatentAutoencoder
from models.registry.store import ArtifactStore
from training.jobs.distill_generator import DistillGeneratorConfig
from training.jobs.generator_inputs import load_networks, sized_name
from training.jobs.train_generator import TrainGeneratorConfig
from training.jobs.untrained_networks import untrained_inputs


def test_artifacts_of_large_crops_have_a_name_that_the_service_does_not_read() -> None:
    assert sized_name("face-generator", 128) == "face-generator"
    assert sized_name("face-generator", 256) == "face-generator-256"


def test_an_autoencoder_of_another_side_is_refused(tmp_path: Path) -> None:
    small = LatentAutoencoder(encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8))
    small.save_pretrained(tmp_path / "files", safe_serialization=True)
    store = ArtifactStore(tmp_path / "artifacts")
    files = {path.name: path for path in (tmp_path / "files").iterdir()}
    store.set_promoted("face-autoencoder-256", store.publish("face-autoencoder-256", "weights", files).version)
    with pytest.raises(ValueError, match="crops of 128 px, not of 256 px"):
        load_networks(store, 256, torch.device("cpu"))


def test_codes_and_latents_of_untrained_networks_are_as_they_have_to_be() -> None:
    torch.manual_seed(0)
    networks, faces, oracles = untrained_inputs(6, 128, 3, torch.device("cpu"))
    codes = networks.codes(faces.embeddings)
    assert codes.shape == (6, 128)
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(6))
    assert faces.held.tolist() == [True, False, False] * 2
    assert networks.autoencoder.crop_size == 128
    crops = torch.from_numpy(faces.people.crops).permute(0, 3, 1, 2) / 127.5 - 1
    again = oracles(crops)
    for name, table in faces.embeddings.items():
        torch.testing.assert_close(again[name], table, atol=1e-5, rtol=0)
    latents = networks.autoencoder.encode(crops)
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(16), atol=1e-2, rtol=0)


def test_settings_that_drawn_heads_cannot_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="rendered needs faces"):
        TrainGeneratorConfig(faces=None, rendered=Path("data/rendered"))
    for setting in ({"teacher": "1" * 16}, {"start_from": "1" * 16}, {"publish": True}):
        with pytest.raises(ValueError, match="untrained teacher"):
            DistillGeneratorConfig.model_validate({"faces": None, "publish": False, **setting})
