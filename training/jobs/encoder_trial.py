"""Short trainings of the attribute encoder on faces read once, for comparisons between options."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.anonymizer.assembly import load_network
from models.encoder.attributes import DEGRADED_SIZE, AttributeEncoder, degrade
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_SCALE, NUM_LANDMARKS, to_sheets
from models.encoder.variational import IdentityEncoder
from models.faces.alignment import face_mask
from models.oracles.networks.landmarks68 import LandmarkNet, load_landmarks
from models.registry.store import ArtifactStore
from training.data.face_crops import CropSet, load_crop_set, to_tensor
from training.data.face_embeddings import cached_embeddings
from training.jobs.train_encoder import encoder_optimizer, jitter_color, last_layers
from training.objectives.disentanglement import IdentityProbe, LowResolutionDecoder
from training.objectives.disentangling_terms import NO_TERMS, DisentanglingTerms, EncodedFaces, TermWeights
from training.objectives.encoder_loss import LossWeights, encoder_terms
from training.objectives.gradient_independence import PictureReader
from training.optimizers.games.step_watch import StepWatch
from training.schedules import set_cosine_learning_rate, update_average

HAND_SET = LossWeights(rate=1e-4, leak=0.2)
_WARM_UP = 10


@dataclass(frozen=True, slots=True)
class TrialFaces:
    """Faces as the encoder's training sees them, without augmentation.

    Attributes:
        degraded: (n, 3, 32, 32) float32 in [-1, 1].
        landmarks: Mean landmark sheets, (n, 2, 8, 8).
        codes: Unit identity codes, (n, 128).
        held: Whether a face is kept for evaluation, (n,).
        people: Number of the person of each face, (n,) int64; nobody is on both sides.
        landmark_mean: Mean inner landmarks in crop pixels, (51, 2).
    """

    degraded: Tensor
    landmarks: Tensor
    codes: Tensor
    held: Tensor
    people: Tensor
    landmark_mean: Tensor


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """One training; ``clamp`` bounds the last layers' moves; ``damping`` and ``certify_every`` are the watch's.

    ``extra`` weighs the optional terms, which count from the adversary's start on; ``recognizer`` and ``landmarks`` are
    the frozen networks that some of them need.
    """

    steps: int
    seed: int = 0
    batch_size: int = 8
    optimizer: Literal["adam", "muon"] = "adam"
    learning_rate: float = 1e-3
    matrix_ratio: float = 10.0
    weights: LossWeights = HAND_SET
    adversary_start: float = 0.2
    adversary_steps: int = 2
    certify_every: int = 0
    damping: float = 0.0
    clamp: bool = False
    extra: TermWeights = NO_TERMS
    recognizer: PictureReader | None = None
    landmarks: PictureReader | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished training: networks, encoder averages (exponential, and uniform over the last half), time, looks."""

    model: AttributeEncoder
    average: AttributeEncoder
    tail: AttributeEncoder
    decoder: LowResolutionDecoder
    probe: IdentityProbe
    seconds_per_step: float
    looks: tuple[dict[str, float], ...]


@torch.no_grad()
def read_faces(crop_set: CropSet, codes: Tensor, landmark_net: LandmarkNet) -> TrialFaces:
    """Degrade crops and find their landmarks, once.

    Args:
        crop_set: Aligned crops.
        codes: Their unit identity codes, (n, 128).
        landmark_net: Finds 68 landmarks.

    Returns:
        The faces; groups are held out as `CropSet.held_out` decides.
    """
    degraded, points = [], []
    for start in range(0, len(crop_set), 64):
        crops = to_tensor(crop_set.crops[start : start + 64])
        degraded.append(degrade(crops))
        points.append(landmark_net(crops)[:, INNER_LANDMARKS])
    found = torch.cat(points)
    mean = found.mean(0)
    sheets = to_sheets((found - mean) / LANDMARK_SCALE)
    people = torch.from_numpy(np.unique(crop_set.groups, return_inverse=True)[1].astype(np.int64))
    return TrialFaces(torch.cat(degraded), sheets, codes, torch.from_numpy(crop_set.held_out()), people, mean)


def trial_faces(folder: Path | None, max_faces: int, seed: int, store: ArtifactStore) -> TrialFaces:
    """Faces of a crop set, or drawn pictures where there is none.

    Args:
        folder: Crop set written by prepare-faces; None draws pictures.
        max_faces: Largest number of faces; every k-th is taken.
        seed: Of drawn pictures.
        store: Store with `face-encoder`, whose identity codes are used, and the landmark network.

    Returns:
        The faces.
    """
    if folder is None:
        return drawn_faces(max_faces, seed)
    people = load_crop_set(folder)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    codes = identity(cached_embeddings(folder, people, store))
    keep = np.zeros(len(people), dtype=np.bool_)
    keep[:: -(-len(people) // max_faces)] = True
    return read_faces(people.where(keep), codes[torch.from_numpy(keep)], load_landmarks(store))


def drawn_faces(count: int, seed: int) -> TrialFaces:
    """Smooth random pictures with random codes, for runs without data: nothing in them is a face.

    Args:
        count: Number of pictures; every fourth is held out.
        seed: Decides everything.

    Returns:
        The pictures.
    """
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 6, 6, generator=rng)
    pictures = torch.tanh(F.interpolate(coarse, size=DEGRADED_SIZE, mode="bicubic"))
    reading = torch.randn(108, 128, generator=rng) / 10  # so that pictures tell of identity
    codes = F.normalize(coarse.flatten(1) @ reading + 0.3 * torch.randn(count, 128, generator=rng), dim=1)
    sheets = to_sheets(0.5 * torch.randn(count, NUM_LANDMARKS, 2, generator=rng))
    mean = 32 + 64 * torch.rand(NUM_LANDMARKS, 2, generator=rng)
    return TrialFaces(pictures, sheets, codes, torch.arange(count) % 4 == 0, torch.arange(count), mean)


def train_trial(faces: TrialFaces, settings: TrialSettings, *, clock: Callable[[], float] = time.process_time) -> Trial:
    """Train encoder, decoder and probe as train-encoder does, on faces without augmentation.

    Args:
        faces: What to train on.
        settings: Options of the training.
        clock: Seconds of processor time; replaced in tests.

    Returns:
        The trained networks.
    """
    torch.manual_seed(settings.seed)
    rng = torch.Generator().manual_seed(settings.seed)
    model, decoder, probe = AttributeEncoder(), LowResolutionDecoder(), IdentityProbe()
    model = model.to(memory_format=torch.channels_last)
    decoder.landmark_mean.copy_(faces.landmark_mean)
    average, tail = (copy.deepcopy(model).requires_grad_(False) for _ in range(2))
    parameters = [*model.parameters(), *decoder.parameters()]
    optimizer = encoder_optimizer(settings.optimizer, parameters, settings.learning_rate, settings.matrix_ratio)
    probe_optimizer = torch.optim.AdamW(probe.parameters(), 2e-3)
    watch = StepWatch(last_layers(model, probe), damping=settings.damping, seed=settings.seed)
    mask, weight = trial_mask()
    rows = torch.nonzero(~faces.held)[:, 0]
    extra = DisentanglingTerms(
        settings.extra, seed=settings.seed, recognizer=settings.recognizer, landmarks=settings.landmarks
    )
    looks: list[dict[str, float]] = []
    seconds = 0.0
    half = settings.steps // 2
    for step in range(settings.steps):
        begin = clock()
        set_cosine_learning_rate(optimizer, settings.learning_rate, step, settings.steps, warmup=_WARM_UP)
        index = rows[torch.randint(len(rows), (settings.batch_size,), generator=rng)]
        target, wanted = faces.degraded[index], faces.codes[index]
        learned = model(jitter_color(target, rng))
        mean, std = with_landmarks(model, learned, faces.landmarks[index])
        code = mean + std * torch.randn(mean.shape, generator=rng)
        playing = step >= settings.adversary_start * settings.steps
        around = target * (1 - mask)
        decoded = decoder(code, wanted, around, mask)
        terms = encoder_terms(decoded, target, weight, learned, code, wanted, probe if playing else None)
        loss = settings.weights.total(terms)
        encoded = EncodedFaces(code, mean, std, wanted, around, mask)
        if playing and not settings.extra.is_zero:
            loss = loss + extra.total(extra(step, model, decoder, probe, encoded))
        if settings.certify_every and playing and step % settings.certify_every == 0:
            looks.append({"step": float(step), **watch.look([loss, 1 - (probe(code) * wanted).sum(1).mean()])})
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with watch.bounded(0) if settings.clamp else nullcontext():
            optimizer.step()
        extra.fit(step, encoded)
        for _ in range(settings.adversary_steps):
            noisy = (mean + std * torch.randn(mean.shape, generator=rng)).detach()
            guess = 1 - (probe(noisy) * wanted).sum(1).mean()
            probe_optimizer.zero_grad()
            guess.backward()
            with watch.bounded(1) if settings.clamp else nullcontext():
                probe_optimizer.step()
        seconds += clock() - begin
        update_average(average, model, 0.99, step)
        if step >= half:
            _add_to_mean(tail, model, step - half + 1)
    return Trial(model, average, tail, decoder, probe, seconds / settings.steps, tuple(looks))


def trial_mask() -> tuple[Tensor, Tensor]:
    """Face mask at 32x32 and the weight of each pixel, of mean 1; both (1, 1, 32, 32)."""
    mask = F.avg_pool2d(torch.from_numpy(face_mask())[None, None], 128 // DEGRADED_SIZE)
    weight = 0.2 + mask
    return mask, weight / weight.mean()


def with_landmarks(model: AttributeEncoder, learned: tuple[Tensor, Tensor], sheets: Tensor) -> tuple[Tensor, Tensor]:
    """Append landmark sheets (n, 2, 8, 8) and their noise to mean and standard deviation of the learned part."""
    noise = torch.full_like(sheets, model.landmark_noise / LANDMARK_SCALE)
    return torch.cat([learned[0], sheets], dim=1), torch.cat([learned[1], noise], dim=1)


@torch.no_grad()
def _add_to_mean(mean: AttributeEncoder, model: AttributeEncoder, count: int) -> None:
    for target, source in zip(mean.parameters(), model.parameters(), strict=True):
        target.lerp_(source, 1 / count)
