"""What a student generator is distilled from and judged by: networks, faces and oracles, loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.anonymizer.assembly import load_network
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.faces.alignment import CROP_SIZE
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import SERVING_ORACLES, load_ensemble
from models.oracles.thresholds import OracleThreshold, load_thresholds
from models.registry.store import ArtifactStore
from training.data.face_crops import to_tensor
from training.data.latent_cache import LatentCache, build_latent_cache
from training.jobs.generator_inputs import FaceNetworks, TrainingFaces, load_faces, load_networks, sized_name
from training.jobs.untrained_networks import ORACLE_DIMS, untrained_inputs
from training.objectives.consistency import student_of
from training.objectives.detector_landmarks import DetectorLandmarks
from training.objectives.patch_adversary import PatchDiscriminator
from training.objectives.swap_judge import SwapJudge


@dataclass(frozen=True, slots=True)
class DistillationTask:
    """Networks of a distillation, on one device, and its faces, on the CPU.

    Attributes:
        teacher: Undistilled generator.
        student: Guided denoiser to start from.
        adversary: Patch adversary to start from.
        judge: Reads drawn faces of swapped identities.
        detector_landmarks: Reads their landmarks as the detector does, see `DetectorLandmarks`.
        cache: Latents, contexts and attribute codes of the training faces.
        codes: Identity codes of the training faces, (m, d).
        held_crops: Crops of people who are held out, (k, 3, s, s).
        held_codes: Their identity codes, (k, d).
        held_groups: Whom they show, (k,).
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
    held_groups: NDArray[np.str_]

    def one_per_person(self, count: int) -> tuple[Tensor, Tensor]:
        """The first crop of each of the first held-out people, so that no face is drawn with its own code.

        Args:
            count: Most people, at least 1.

        Returns:
            Crops (n, 3, 128, 128) and identity codes (n, d) with n at most `count`.
        """
        first = np.sort(np.unique(self.held_groups, return_index=True)[1])[:count]
        return self.held_crops[first], self.held_codes[first]


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
    size: int = CROP_SIZE,
    device: torch.device | None = None,
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
        size: Side of the crops, pixels.
        device: Where the networks run; the CPU by default.

    Returns:
        The task.
    """
    place = device or torch.device("cpu")
    networks = load_networks(store, size, place)
    name = sized_name("face-generator", size)
    denoiser = load_network(store, name, FaceDenoiser, version=teacher)
    student = student_of(denoiser)
    if start_from is not None:
        earlier = load_network(store, name, FaceDenoiser, version=start_from)
        student.load_state_dict(earlier.state_dict())
    thresholds = load_thresholds(store)
    oracles = load_ensemble(store, centers=thresholds.centers)
    limits = thresholds.at(1e-3, SERVING_ORACLES)
    shown = load_faces(faces, size, store)
    return _task(networks, denoiser, student, shown, oracles, limits, rng, views, hinge_margin, autocast)


def drawn_distillation_task(
    count: int,
    size: int,
    seed: int,
    rng: torch.Generator,
    *,
    views: int,
    hinge_margin: float,
    autocast: bool,
    device: torch.device,
) -> DistillationTask:
    """Make a task of drawn heads and networks that have learned nothing: the same lines, and no faces.

    Args:
        count: Heads, every third held out.
        size: Side of the crops, pixels.
        seed: Decides the heads.
        rng: Source of the augmentation.
        views: Augmented views per crop; 0 encodes each crop once as it is.
        hinge_margin: Distance of the hinge from the thresholds, in deviations of different people's similarity.
        autocast: Run the oracles in bfloat16.
        device: Where the networks run.

    Returns:
        The task.
    """
    networks, shown, oracles = untrained_inputs(count, size, seed, device)
    denoiser = FaceDenoiser(int(networks.autoencoder.config.latent_channels), width=16)
    nn.init.normal_(denoiser.head[-1].weight, std=0.05)  # else it draws the same at any number of steps
    denoiser = denoiser.requires_grad_(False).eval()
    denoiser.landmark_mean.copy_(networks.attributes.encoder.landmark_mean)
    limits = {name: OracleThreshold(name, 1e-3, 0.5, 1e-3, 0.5, 0.95, 1, 1, 1, 0.0, 0.2) for name in ORACLE_DIMS}
    student = student_of(denoiser)
    return _task(networks, denoiser, student, shown, oracles, limits, rng, views, hinge_margin, autocast)


def _task(
    networks: FaceNetworks,
    denoiser: FaceDenoiser,
    student: FaceDenoiser,
    faces: TrainingFaces,
    oracles: nn.Module,
    limits: Mapping[str, OracleThreshold],
    rng: torch.Generator,
    views: int,
    hinge_margin: float,
    autocast: bool,
) -> DistillationTask:
    """Encode the faces, and put everything where the autoencoder is."""
    place = networks.autoencoder.latent_mean.device
    generator = FaceGenerator(networks.autoencoder, denoiser.to(place)).eval().to(place)
    codes = networks.codes(faces.embeddings)
    seen, unseen = torch.from_numpy(~faces.held), torch.from_numpy(faces.held)
    judge = SwapJudge(
        oracles.to(place),
        limits,
        networks.attributes,
        networks.identity,
        {name: table[seen] for name, table in faces.embeddings.items()},
        margin=hinge_margin,
        autocast=autocast,
    )
    return DistillationTask(
        teacher=generator,
        student=student.to(place, memory_format=torch.channels_last),
        judge=judge,
        cache=build_latent_cache(faces.people.where(~faces.held), generator, networks.attributes, rng, views=views),
        adversary=PatchDiscriminator().to(place),
        detector_landmarks=DetectorLandmarks(MtcnnDetector().landmark_network).to(place),
        codes=codes[seen],
        held_crops=to_tensor(faces.people.where(faces.held).crops),
        held_codes=codes[unseen],
        held_groups=faces.people.groups[faces.held],
    )
