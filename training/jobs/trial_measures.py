"""What a short training of the encoder reaches on held-out faces, face by face."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.encoder.attributes import AttributeEncoder
from models.encoder.landmark_code import LANDMARK_CHANNELS
from training.jobs.encoder_trial import Trial, TrialFaces, trial_mask, with_landmarks
from training.objectives.disentanglement import IdentityProbe, attribute_rate


@torch.no_grad()
def measure_faces(
    faces: TrialFaces, model: AttributeEncoder, trial: Trial, *, probe_steps: int
) -> dict[str, NDArray[np.float64]]:
    """Measure an encoder of a trial on each of the m held-out faces.

    Args:
        faces: The faces of the trial.
        model: The trial's model, average or tail.
        trial: Holds decoder and probe.
        probe_steps: Steps of a fresh probe; 0 for none.

    Returns:
        By name, each (m,): ``reconstruction`` (mean absolute error inside the mask, of [-1, 1]), ``adversary`` and
        ``fresh_probe`` (cosine to the identity code that the trial's probe and a fresh one reach), ``rate`` (nats).
    """
    mask, _ = trial_mask()
    held = faces.held
    means, stds = trial_codes(faces, held, model)
    code = means + stds * torch.randn(means.shape, generator=torch.Generator().manual_seed(0))
    target, wanted = faces.degraded[held], faces.codes[held]
    decoded = trial.decoder(code, wanted, target * (1 - mask), mask)
    learned = zip(means[:, :-LANDMARK_CHANNELS], stds[:, :-LANDMARK_CHANNELS], strict=True)
    found = {
        "reconstruction": ((decoded - target).abs() * mask).sum((1, 2, 3)) / (3 * mask.sum()),
        "adversary": (trial.probe(code) * wanted).sum(1),
        "rate": torch.stack([attribute_rate(mean[None], std[None]) for mean, std in learned]),
    }
    if probe_steps:
        found["fresh_probe"] = (_fresh_probe(faces, model, probe_steps)(code) * wanted).sum(1)
    return {name: values.double().numpy() for name, values in found.items()}


def evaluate_trial(faces: TrialFaces, model: AttributeEncoder, trial: Trial, *, probe_steps: int) -> dict[str, float]:
    """Means of `measure_faces` over the held-out faces, by name."""
    measured = measure_faces(faces, model, trial, probe_steps=probe_steps)
    return {name: float(values.mean()) for name, values in measured.items()}


@torch.no_grad()
def trial_codes(faces: TrialFaces, rows: Tensor, model: AttributeEncoder) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the whole code of the m faces that a mask (n,) chooses, each (m, c + 2, 8, 8)."""
    parts = [
        with_landmarks(model, model(pictures), sheets)
        for pictures, sheets in zip(faces.degraded[rows].split(64), faces.landmarks[rows].split(64), strict=True)
    ]
    return torch.cat([mean for mean, _ in parts]), torch.cat([std for _, std in parts])


def _fresh_probe(faces: TrialFaces, model: AttributeEncoder, steps: int) -> IdentityProbe:
    """A probe trained on the finished codes of the training faces."""
    means, stds = trial_codes(faces, ~faces.held, model)
    codes = faces.codes[~faces.held]
    torch.manual_seed(1)
    rng = torch.Generator().manual_seed(1)
    probe = IdentityProbe()
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=1e-2)
    for _ in range(steps):
        index = torch.randint(len(means), (64,), generator=rng)
        noisy = means[index] + stds[index] * torch.randn(means[index].shape, generator=rng)
        with torch.enable_grad():
            loss = 1 - (probe(noisy) * codes[index]).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    return probe
