"""Short trainings of the encoder: drawn faces, averages, the watch, and the options of the trainers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.diffusion.denoiser import FaceDenoiser
from models.encoder.attributes import AttributeEncoder
from training.data.face_crops import CropSet
from training.jobs.certificates import summarize_looks
from training.jobs.encoder_trial import TrialSettings, drawn_faces, read_faces, train_trial
from training.jobs.train_encoder import TrainEncoderConfig, encoder_optimizer, last_layers
from training.jobs.train_generator import TrainGeneratorConfig, generator_optimizer
from training.jobs.trial_measures import evaluate_trial, measure_faces
from training.objectives.disentanglement import IdentityProbe
from training.optimizers.first_order.muon_for_networks import NetworkMuon


def test_a_trial_repeats_itself_and_its_tail_is_the_mean_of_the_second_half() -> None:
    faces = drawn_faces(16, 0)
    settings = TrialSettings(steps=2, batch_size=2)
    first, again = train_trial(faces, settings), train_trial(faces, settings)
    for left, right in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(left, right)
    # the second half of two steps is the last step
    for left, right in zip(first.tail.parameters(), first.model.parameters(), strict=True):
        assert torch.equal(left, right)
    found = evaluate_trial(faces, first.model, first, probe_steps=0)
    by_face = measure_faces(faces, first.model, first, probe_steps=0)
    assert set(found) == set(by_face) == {"reconstruction", "adversary", "rate"}
    assert all(values.shape == (4,) for values in by_face.values())
    assert {name: float(values.mean()) for name, values in by_face.items()} == pytest.approx(found)


def test_a_watched_trial_has_no_certificate_because_the_probe_ignores_the_scale_of_its_answer() -> None:
    settings = TrialSettings(steps=2, batch_size=2, adversary_start=0.0, certify_every=1)
    looks = train_trial(drawn_faces(16, 0), settings).looks
    assert [look["certified"] for look in looks] == [0.0, 0.0]
    assert min(look["damping_needed"] for look in looks) > 0


def test_looking_for_certificates_changes_nothing() -> None:
    faces = drawn_faces(16, 0)
    settings = TrialSettings(steps=3, batch_size=2, adversary_start=0.0)
    alone, watched = train_trial(faces, settings), train_trial(faces, replace(settings, certify_every=1))
    assert len(watched.looks) == 3
    for left, right in zip(alone.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(left, right)
    for left, right in zip(alone.probe.parameters(), watched.probe.parameters(), strict=True):
        assert torch.equal(left, right)


def test_looks_are_summed_up_by_the_share_that_is_certified_and_by_medians() -> None:
    looks = [
        {"certified": 0.0, "certified_step": 0.0, "damping_needed": 7.0},
        {"certified": 1.0, "certified_step": 0.2, "damping_needed": 3.0},
        {"certified": 1.0, "certified_step": 0.4, "damping_needed": 1.0},
    ]
    found = summarize_looks(looks)
    expected = {"looks": 3.0, "share_certified": 2 / 3, "certified_step": 0.3, "damping_needed": 3.0}
    assert found == pytest.approx(expected)
    nothing = summarize_looks([])
    assert nothing.pop("looks") == 0.0
    assert all(math.isnan(value) for value in nothing.values())


def test_faces_of_one_person_share_a_number_and_a_side() -> None:
    groups = np.array(["a", "b", "a", "c", "d"] * 8)
    crops = np.zeros((40, 128, 128, 3), np.uint8)
    faces = read_faces(CropSet(crops, groups), torch.zeros(40, 128), lambda x: torch.zeros(len(x), 68, 2))  # type: ignore[arg-type]
    assert len(faces.people.unique()) == 4
    for person in faces.people.unique():
        rows = faces.people == person
        assert len(set(groups[rows.numpy()])) == 1
        assert len(faces.held[rows].unique()) == 1


def test_both_trainers_take_muon_for_their_hidden_kernels_and_adam_by_default() -> None:
    encoder, denoiser = AttributeEncoder(), FaceDenoiser(width=48)
    assert TrainEncoderConfig().optimizer == "adam"
    assert TrainGeneratorConfig().optimizer == "adam"
    plain = encoder_optimizer("adam", list(encoder.parameters()), 1e-3, 10.0)
    assert isinstance(plain, torch.optim.AdamW)
    for mixed, network in (
        (encoder_optimizer("muon", list(encoder.parameters()), 1e-3, 10.0), encoder),
        (generator_optimizer("muon", denoiser, 1e-3, 10.0), denoiser),
    ):
        assert isinstance(mixed, NetworkMuon)
        kinds = {id(p): group["kind"] for group in mixed.param_groups for p in group["params"]}
        assert len(kinds) == len(list(network.parameters()))
    assert kinds[id(denoiser.middle[0].conv1.weight)] == "muon"
    assert kinds[id(denoiser.head[-1].weight)] == kinds[id(denoiser.null_identity)] == "adam"


def test_the_watched_layers_are_the_last_of_encoder_and_probe() -> None:
    model, probe = AttributeEncoder(), IdentityProbe()
    encoder_layers, probe_layers = last_layers(model, probe)
    assert [tuple(p.shape) for p in encoder_layers] == [(16, 128, 3, 3), (16,)]
    assert [tuple(p.shape) for p in probe_layers] == [(128, 512), (128,), (128, 256), (128,)]


@pytest.mark.parametrize("changes", [{"certify_every": -1}, {"optimizer": "sgd"}, {"matrix_ratio": 0.0}])
def test_options_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        TrainEncoderConfig.model_validate(changes)
