"""What a student generator is distilled from and judged by: networks, faces and oracles, loaded once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.anonymizer.assembly import load_attributes, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.variational import IdentityEncoder
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import SERVING_ORACLES, load_ensemble
from models.oracles.thresholds import load_thresholds
from models.registry.store import ArtifactStore
from training.data.face_crops import load_crop_set, to_tensor
from training.data.face_embeddings import cached_embeddings
from training.data.latent_cache import LatentCache, build_latent_cache
from training.objectives.consistency import student_of
from training.objectives.detector_landmarks import DetectorLandmarks
from training.objectives.patch_adversary import PatchDiscriminator
from training.objectives.swap_judge import SwapJudge


@dataclass(frozen=True, slots=True)
class DistillationTask:
    """Networks and faces of a distillation.

    Attributes:
        teacher: Undistilled generator.
        student: Guided denoiser to start from.
        adversary: Patch adversary to start from.
        judge: Reads drawn faces of swapped identities.
        detector_landmarks: Reads their landmarks as the detector does, see `DetectorLandmarks`.
        cache: Latents, contexts and attribute codes of the training faces.
        codes: Identity codes of the training faces, (m, d).
        held_crops: Crops of people who are held out, (k, 3, 128, 128).
        held_codes: Their identity codes, (k, d).
    """

    teacher: FaceGenerator
    student: FaceDenoiser
    adversary: PatchDiscriminator
    judge: SwapJudge
    detector_landmarks: nn.Module
    cache: LatentCache
    codes: Tensor
    held_crops: Tensor
    held_codes: Tensor


def load_distillation_task(
    store: ArtifactStore,
    faces: Path,
    rng: torch.Generator,
    *,
    teacher: str | None,
    start_from: str | None,
    views: int,
    hinge_margin: float,
    autocast: bool,
) -> DistillationTask:
    """Load networks and faces, and encode the faces that are trained on.

    Args:
        store: Store with the networks, the oracles and their calibration.
        faces: Folder of the crop set.
        rng: Source of the augmentation.
        teacher: Version of the undistilled face-generator; the promoted one by default.
        start_from: Version of an earlier student to start from, not the teacher.
        views: Augmented views per crop; 0 encodes each crop once as it is.
        hinge_margin: Distance of the hinge from the thresholds, in deviations of different people's similarity.
        autocast: Run the oracles in bfloat16.

    Returns:
        The task.
    """
    autoencoder = load_network(store, "face-autoencoder", LatentAutoencoder)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    attributes = load_attributes(store)
    denoiser = load_network(store, "face-generator", FaceDenoiser, version=teacher)
    generator = FaceGenerator(autoencoder, denoiser).eval()
    student = student_of(denoiser)
    if start_from is not None:
        earlier = load_network(store, "face-generator", FaceDenoiser, version=start_from)
        student.load_state_dict(earlier.state_dict())
    people = load_crop_set(faces)
    embeddings = cached_embeddings(faces, people, store)
    codes = identity(embeddings)
    held = people.held_out()
    seen, unseen = torch.from_numpy(~held), torch.from_numpy(held)
    thresholds = load_thresholds(store)
    judge = SwapJudge(
        load_ensemble(store, centers=thresholds.centers),
        thresholds.at(1e-3, SERVING_ORACLES),
        attributes,
        identity,
        {name: table[seen] for name, table in embeddings.items()},
        margin=hinge_margin,
        autocast=autocast,
    )
    return DistillationTask(
        teacher=generator,
        student=student.to(memory_format=torch.channels_last),
        judge=judge,
        cache=build_latent_cache(people.where(~held), generator, attributes, rng, views=views),
        adversary=PatchDiscriminator(),
        detector_landmarks=DetectorLandmarks(MtcnnDetector().landmark_network),
        codes=codes[seen],
        held_crops=to_tensor(people.where(held).crops),
        held_codes=codes[unseen],
    )
