"""A distillation of tiny untrained networks on drawn pictures: everything moves, nothing is learned.

Stands in for networks and faces where a run must take seconds and needs no weights. Its recognizers look at 8x8 means
through a fixed random matrix, its landmarks are means of the picture, and every face is above the limits of every
oracle, most above that of the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attributes import AttributeEncoder, FaceAttributes
from models.encoder.landmark_code import INNER_LANDMARKS
from models.encoder.variational import IdentityEncoder
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES
from models.oracles.networks.landmarks68 import LandmarkNet
from models.oracles.thresholds import OracleThreshold
from training.data.latent_cache import LatentCache
from training.jobs.distillation_task import DistillationTask
from training.jobs.swap_readings import Instruments
from training.jobs.untrained_networks import CoarseOracles
from training.objectives.consistency import student_of
from training.objectives.patch_adversary import PatchDiscriminator
from training.objectives.swap_judge import SwapJudge

DIMS: Final[Mapping[str, int]] = dict(zip((*SERVING_ORACLES, *AUDITOR_ORACLES), (12, 8, 5, 9, 7), strict=True))
LIMITS: Final[Mapping[str, float]] = dict(zip(SERVING_ORACLES, (-1.0, -2.0, -1.2), strict=True))
_SOURCES = 6
_CODE = 128


class _Landmarks(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(crops, (68, 2)).mean(1)


class _Detector(nn.Module):
    def forward(self, crops: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
        return (crops - others).abs().mean((1, 2, 3)) * torch.rand(1, generator=rng)


def drawn_task(seed: int, *, held_out: int = 5) -> tuple[DistillationTask, Instruments]:
    """Draw networks and pictures.

    Args:
        seed: Of everything that is drawn.
        held_out: Pictures of held-out people, one each, at least 2.

    Returns:
        The task, and instruments that accept a face whose similarities lie below 0.5.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    autoencoder = LatentAutoencoder(
        encoder_widths=(8, 8, 8), decoder_widths=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)
    )
    teacher = FaceDenoiser(width=16)
    for parameter in teacher.head[-1].parameters():
        nn.init.normal_(parameter, std=0.05)
    generator = FaceGenerator(autoencoder.requires_grad_(False), teacher.requires_grad_(False)).eval()
    dims = {name: DIMS[name] for name in SERVING_ORACLES}
    identity = IdentityEncoder(tuple(dims), tuple(dims.values()))
    identity.projection.normal_(generator=rng)
    embeddings = {name: F.normalize(torch.randn(_SOURCES, dim, generator=rng), dim=1) for name, dim in dims.items()}
    thresholds = {name: _threshold(name, limit) for name, limit in LIMITS.items()}
    attributes = FaceAttributes(AttributeEncoder(), cast(LandmarkNet, _Landmarks()))
    serving = CoarseOracles(dims, rng)
    judge = SwapJudge(serving, thresholds, attributes, identity, embeddings, margin=1.0, autocast=False)
    sheets = torch.randn(_SOURCES, 10, 8, 8, generator=rng)
    latents, contexts = torch.randn(2, _SOURCES, 8, 16, 16, generator=rng)
    task = DistillationTask(
        teacher=generator,
        student=student_of(teacher).requires_grad_(True),
        adversary=PatchDiscriminator((8, 8, 8)),
        judge=judge,
        detector_landmarks=_Detector(),
        cache=LatentCache(latents, contexts, sheets, torch.full_like(sheets, 0.1), torch.arange(_SOURCES)),
        codes=F.normalize(torch.randn(_SOURCES, _CODE, generator=rng), dim=1),
        held_crops=torch.rand(held_out, 3, 128, 128, generator=rng) * 2 - 1,
        held_codes=F.normalize(torch.randn(held_out, _CODE, generator=rng), dim=1),
        held_groups=np.array([f"drawn/{row:04d}" for row in range(held_out)]),
    )
    instruments = Instruments(
        CoarseOracles(DIMS, rng),
        dict.fromkeys(SERVING_ORACLES, 0.5),
        identity,
        lambda crops: attributes.landmark_net(crops)[:, INNER_LANDMARKS],
        task.detector_landmarks,
        lambda crops, source: torch.randn(len(crops), 10, 8, 8, generator=source),
    )
    return task, instruments


def _threshold(name: str, limit: float) -> OracleThreshold:
    return OracleThreshold(
        oracle=name,
        far=1e-3,
        privacy_threshold=limit,
        leakage_threshold=1e-3,
        point_estimate=limit,
        confidence=0.95,
        num_pairs=1,
        rank=1,
        num_all_pairs=1,
        impostor_mean=0.0,
        impostor_std=0.1,
    )
