"""Training the encoder: which weights it adds its loss with, and what it says about certificates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.data.face_crops import CropSet, save_crop_set
from training.jobs import train_encoder as module
from training.jobs.train_encoder import TrainEncoderConfig, run
from training.objectives.encoder_loss import ARTIFACT_NAME, FILE_NAME, LossWeights
from training.runs.context import RunContext
from training.runs.report import Report

Train = Callable[..., tuple[Report, list[Mapping[str, float]]]]


class Landmarks(nn.Module):
    """Sixty-eight points on a circle, moved by the brightness of the crop."""

    def forward(self, crops: Tensor) -> Tensor:
        angles = torch.linspace(0, 6.28, 68)
        circle = 64 + 30 * torch.stack([angles.cos(), angles.sin()], dim=1)
        return circle + 40 * crops.mean((1, 2, 3))[:, None, None]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_run_context: Callable[[Path], RunContext]) -> Train:
    """Train a few steps on noise, with random embeddings: nothing in it is a face."""
    rng = np.random.default_rng(3)
    crops = rng.integers(0, 256, (150, 1, 1, 3)) // 2 + rng.integers(0, 128, (150, 128, 128, 3))
    save_crop_set(tmp_path / "faces", CropSet(crops.astype(np.uint8), np.array([f"p{k}" for k in range(150)])))
    dims = {"fr_feature": 512, "mfn": 192, "dlib": 128}
    embeddings = {
        name: nn.functional.normalize(torch.from_numpy(rng.standard_normal((150, d))).float(), dim=1)
        for name, d in dims.items()
    }
    monkeypatch.setattr(module, "cached_embeddings", lambda *arguments: embeddings)
    monkeypatch.setattr(module, "load_landmarks", lambda store: Landmarks())
    monkeypatch.setattr(module, "fresh_probe_cosine", lambda *arguments: 0.1)
    counter = iter(range(100))

    def start(**settings: Any) -> tuple[Report, list[Mapping[str, float]]]:
        directory = tmp_path / f"run-{next(counter)}"
        directory.mkdir()
        lines: list[Mapping[str, float]] = []
        context = replace(make_run_context(directory), log=lines.append, store=make_run_context(tmp_path).store)
        config = {"faces": tmp_path / "faces", "steps": 5, "batch_size": 2, "adversary_start": 0.0, "publish": False}
        return run(TrainEncoderConfig.model_validate({**config, **settings}), context), lines

    return start


def test_certificates_are_logged_while_it_trains_and_change_nothing(train: Train) -> None:
    watched, lines = train(certify_every=2)
    looks = [line for line in lines if "damping_needed" in line]
    assert [look["step"] for look in looks] == [0, 2, 4]
    assert watched.tables["certificates"] == looks
    assert {"certified", "certified_step", "curvature_0", "coupling_01"} <= set(looks[0])
    # the probe ignores the scale of its last layer, so without damping there is none
    assert (watched.metrics["looks"], watched.metrics["share_certified"]) == (3.0, 0.0)
    assert watched.metrics["damping_needed"] > 0
    alone, lines = train(certify_every=0)
    assert not [line for line in lines if "damping_needed" in line]
    assert "certificates" not in alone.tables
    assert alone.metrics["held_out_reconstruction"] == watched.metrics["held_out_reconstruction"]


def test_with_damping_there_are_certificates_and_moves_that_keep_to_them(train: Train) -> None:
    free, _ = train(certify_every=1, certificate_damping=200.0)
    bounded, _ = train(certify_every=1, certificate_damping=200.0, clamp_steps=True)
    assert free.metrics["share_certified"] == 1.0
    assert free.metrics["certified_step"] > 0
    assert bounded.metrics["held_out_reconstruction"] != free.metrics["held_out_reconstruction"]


def test_certificates_are_on_by_default_and_a_clamp_without_any_is_refused() -> None:
    assert TrainEncoderConfig().certify_every > 0
    assert not TrainEncoderConfig().clamp_steps
    for missing in ({"certificate_damping": 0.0}, {"certify_every": 0}):
        with pytest.raises(ValueError, match="clamp_steps needs"):
            TrainEncoderConfig.model_validate({"clamp_steps": True, "certificate_damping": 8.0, **missing})


def test_published_weights_replace_the_two_of_the_settings(
    train: Train, tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    files = {FILE_NAME: LossWeights(0.01, 3.0).to_json()}
    version = make_run_context(tmp_path).store.publish(ARTIFACT_NAME, "loss-weights", files).version
    read, _ = train(loss_weights=version, certify_every=0)
    told, _ = train(rate_weight=0.01, adversary_weight=3.0, certify_every=0)
    other, _ = train(certify_every=0)
    assert read.metrics["held_out_reconstruction"] == told.metrics["held_out_reconstruction"]
    assert read.metrics["held_out_reconstruction"] != other.metrics["held_out_reconstruction"]


def test_optional_terms_are_logged_where_they_are_wanted_and_change_the_training(train: Train) -> None:
    wanted = {"mutual_information": 0.005, "overlap": 1.0, "probe_gradient": 20.0, "cycle": 0.4}
    plain, plain_lines = train(certify_every=0, steps=20)
    settings = {f"{name}_weight": weight for name, weight in wanted.items()}
    changed, lines = train(certify_every=0, steps=20, adversary_start=0.95, **settings)
    (shown,) = (line for line in lines if "reconstruction" in line)
    # the one step that counts is no fourth one, so no derivative of the decoder was taken
    assert set(wanted) & set(shown) == {"mutual_information", "probe_gradient", "cycle"}
    assert not any(set(wanted) & set(line) for line in plain_lines)
    assert changed.metrics["held_out_reconstruction"] != plain.metrics["held_out_reconstruction"]


def test_a_stopped_training_goes_on_with_the_posterior_it_had(train: Train, tmp_path: Path) -> None:
    settings = {"certify_every": 0, "steps": 2, "mutual_information_weight": 0.01}
    saved: dict[str, torch.Tensor] = {}

    def keep(directory: Path, step: int, modules: Mapping[str, nn.Module], *rest: Any) -> None:
        saved.update(modules["posterior"].state_dict())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save_training_state", keep)
        train(**settings)
    assert saved
    train(**{**settings, "mutual_information_weight": 0.0})  # nothing to save, and nothing missing
