"""An inversion network undoes what can be undone, and draws nobody where nothing is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.audit.inversion import fit_inversion, reconstruct
from training.audit.statistics import rank_k
from training.data.face_crops import to_tensor

SIDE, PUPILS, PROBES, STEPS = 32, 96, 60, 80
Pictures = np.ndarray


def draw_people(count: int, rng: np.random.Generator) -> Pictures:
    """One smooth colored pattern for each person, (count, 32, 32, 3) uint8."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 5, 5)))
    smooth = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic", align_corners=True).clamp(0, 255)
    return smooth.round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def hide(pictures: Pictures) -> Pictures:
    """A fixed change that anybody could undo who knew it: colors exchanged, one inverted, three rows down."""
    changed = np.roll(pictures[..., [2, 0, 1]], 3, axis=1)
    changed[..., 0] = 255 - changed[..., 0]
    return changed


def recognize(crops: Tensor) -> Tensor:
    """A recognizer of color and place: embeddings (n, 192)."""
    return F.normalize(F.adaptive_avg_pool2d(crops, 8).flatten(1), dim=1)


def found(pictures: Pictures, gallery: Pictures) -> float:
    codes, people = (recognize(to_tensor(part)).numpy() for part in (pictures, gallery))
    return float(rank_k(codes, people, np.arange(len(codes))).mean())


def test_an_invertible_change_stops_a_stock_recognizer_and_not_the_inversion(rng: np.random.Generator) -> None:
    pupils, probes = draw_people(PUPILS, rng), draw_people(PROBES, rng)
    network = fit_inversion(hide(pupils), pupils, [recognize], steps=STEPS, seed=1)
    assert found(hide(probes), probes) < 0.2
    assert found(reconstruct(network, hide(probes)), probes) > 0.9


def test_releases_that_tell_nothing_leave_the_inversion_at_chance(rng: np.random.Generator) -> None:
    pupils, probes = draw_people(PUPILS, rng), draw_people(PROBES, rng)
    network = fit_inversion(draw_people(PUPILS, rng), pupils, [recognize], steps=STEPS, seed=1)
    # chance is 1 in 60; six of sixty or more have probability 7e-4
    assert found(reconstruct(network, draw_people(PROBES, rng)), probes) < 0.1


def test_the_attacker_starts_from_the_release_itself_and_is_fixed_by_its_seed(rng: np.random.Generator) -> None:
    people = draw_people(12, rng)
    nets = []
    for seed in (1, 1, 2):
        torch.rand(5)  # whatever else the process draws
        nets.append(fit_inversion(hide(people), people, [], steps=12, seed=seed))
    first, again, other = nets
    assert np.array_equal(reconstruct(first, people), reconstruct(again, people))
    assert not np.array_equal(reconstruct(first, people), reconstruct(other, people))
    started = fit_inversion(hide(people), people, [], steps=1, seed=1)
    assert np.abs(reconstruct(started, people).astype(int) - people).mean() < 8


def test_pairs_that_do_not_match_and_no_steps_are_refused(rng: np.random.Generator) -> None:
    people = draw_people(4, rng)
    with pytest.raises(ValueError, match="matching pairs"):
        fit_inversion(people[:3], people, [], steps=1, seed=0)
    with pytest.raises(ValueError, match="matching pairs"):
        fit_inversion(people[:0], people[:0], [], steps=1, seed=0)
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        fit_inversion(people, people, [], steps=0, seed=0)
