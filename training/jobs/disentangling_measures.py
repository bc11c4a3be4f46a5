"""How far a short training parted identity and attributes, face by face: bounds from above and below, and overlap."""

from __future__ import annotations

from functools import partial
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.encoder.attributes import AttributeEncoder
from models.encoder.landmark_code import LANDMARK_CHANNELS
from training.jobs.encoder_trial import Trial, TrialFaces, trial_mask
from training.jobs.trial_measures import measure_faces, trial_codes
from training.objectives.disentanglement import IdentityProbe
from training.objectives.gradient_independence import random_response, squared_cosines
from training.objectives.mutual_information import contrastive_bound, leave_one_out_bound

MEASURES: Final = {
    "reconstruction": "held-out reconstruction error",
    "rate": "rate, nats",
    "upper": "upper bound of I(face; code), nats",
    "lower": "lower bound of I(identity; code), nats",
    "learned_probe": "fresh probe cosine, learned part",
    "fresh_probe": "fresh probe cosine, with landmarks",
    "overlap": "G1, overlap of the decoder's answers",
}
"""Of all of them less is better; the bounds and the first probe see the learned part alone."""

_SHARPNESS: Final = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_FIRST_SHARPNESS: Final = 8.0
_ASIDE: Final = 7  # every so many people choose the sharpness


def measure_disentangling(
    faces: TrialFaces, model: AttributeEncoder, trial: Trial, *, probe_steps: int
) -> dict[str, NDArray[np.float64]]:
    """Measure an encoder of a trial on each of the m held-out faces.

    Args:
        faces: The faces of the trial.
        model: The trial's model, average or tail.
        trial: Holds the decoder.
        probe_steps: Steps of each fresh probe, at least 1.

    Returns:
        By the names of `MEASURES`, each (m,). The means of ``upper`` and ``lower`` over faces are the bounds; the lower
        one is at most log m, and never above the upper one but for sampling error. ``overlap`` is the squared cosine of
        the decoder's answers to one random move of each code.
    """
    found = measure_faces(faces, model, trial, probe_steps=probe_steps)
    del found["adversary"]
    rng = torch.Generator().manual_seed(0)
    mean, std = trial_codes(faces, faces.held, model)
    code = mean + std * torch.randn(mean.shape, generator=rng)
    learned = [part[:, :-LANDMARK_CHANNELS] for part in (mean, std, code)]
    probe, sharpness = _contrastive_probe(faces, model, probe_steps)
    with torch.no_grad():
        cosines = probe(learned[2]) @ faces.codes[faces.held].T
    measured = {
        "upper": leave_one_out_bound(*learned),
        "lower": contrastive_bound(sharpness * cosines),
        "learned_probe": cosines.diagonal(),
        "overlap": _overlap(faces, trial, code, rng),
    }
    return found | {name: values.double().numpy() for name, values in measured.items()}


def _contrastive_probe(faces: TrialFaces, model: AttributeEncoder, steps: int) -> tuple[IdentityProbe, float]:
    """A probe of the learned part, trained to tell people apart; people set aside choose how sharp its critic is."""
    rows = ~faces.held
    mean, std = (part[:, :-LANDMARK_CHANNELS] for part in trial_codes(faces, rows, model))
    identity, aside = faces.codes[rows], faces.people[rows] % _ASIDE == 0
    rng = torch.Generator().manual_seed(1)
    torch.manual_seed(1)
    probe = IdentityProbe(attribute_channels=mean.shape[1])
    sharpness = nn.Parameter(torch.tensor(_FIRST_SHARPNESS).log())
    optimizer = torch.optim.AdamW([*probe.parameters(), sharpness], 2e-3, weight_decay=1e-2)
    learning = torch.nonzero(~aside)[:, 0]
    for _ in range(steps):
        index = learning[torch.randint(len(learning), (64,), generator=rng)]
        guess = probe(mean[index] + std[index] * torch.randn(mean[index].shape, generator=rng))
        loss = F.cross_entropy(sharpness.exp() * guess @ identity[index].T, torch.arange(len(index)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        noisy = mean[aside] + std[aside] * torch.randn(mean[aside].shape, generator=rng)
        cosines = probe(noisy) @ identity[aside].T
    return probe, max(_SHARPNESS, key=lambda scale: float(contrastive_bound(scale * cosines).mean()))


@torch.no_grad()
def _overlap(faces: TrialFaces, trial: Trial, code: Tensor, rng: torch.Generator) -> Tensor:
    mask, _ = trial_mask()
    found = []
    batches = zip(faces.degraded[faces.held].split(32), faces.codes[faces.held].split(32), code.split(32), strict=True)
    for pictures, identity, attributes in batches:
        decode = partial(trial.decoder, context=pictures * (1 - mask), mask=mask)
        by_attributes = random_response(partial(decode, identity=identity), attributes, rng)[1]
        by_identity = random_response(partial(decode, attributes), identity, rng)[1]
        found.append(squared_cosines(by_identity, by_attributes))
    return torch.cat(found)
