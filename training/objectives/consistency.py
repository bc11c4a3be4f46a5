"""Guided consistency distillation of a flow denoiser (Luo et al., Latent Consistency Models, 2023).

Differs: on a rectified-flow path the consistency function `z_t - t v(z_t, t)` is the identity at t = 0 by itself, so no
skip coefficients are needed; one teacher Euler step with guidance replaces the DDIM step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator


def student_of(teacher: FaceDenoiser) -> FaceDenoiser:
    """A guided denoiser that starts with the teacher's weights and ignores the guidance weight at first."""
    student = FaceDenoiser(**{**_arguments(teacher), "guided": True})
    missing, unexpected = student.load_state_dict(teacher.state_dict(), strict=False)
    if unexpected or any(not name.startswith("guidance.") for name in missing):
        raise ValueError(f"the teacher does not fit the student: missing {missing}, unexpected {unexpected}")
    return student


def pseudo_huber(difference: Tensor, c: float = 1e-3) -> Tensor:
    """Pseudo-Huber distance of each sample, `sqrt(mean square + c^2) - c`; (n, ...) to (n,)."""
    return (difference.square().flatten(1).mean(1) + c * c).sqrt() - c


def consistency_loss(
    student: FaceDenoiser,
    target: FaceDenoiser,
    teacher: FaceGenerator,
    latents: Tensor,
    contexts: Tensor,
    attributes: Tensor,
    identity: Tensor,
    guidance: Tensor,
    grid: int,
    rng: torch.Generator,
) -> Tensor:
    """Distance between the student's estimates at two neighboring points of a teacher trajectory.

    Args:
        student: Guided denoiser being trained.
        target: Its moving average.
        teacher: Undistilled generator.
        latents: Clean latents, (n, 8, 16, 16).
        contexts: Context latents.
        attributes: Sampled attribute codes.
        identity: Identity codes.
        guidance: Guidance weights, (n,).
        grid: Number of teacher steps from noise to data.
        rng: Source of levels and noise.

    Returns:
        Scalar.
    """
    index = torch.randint(1, grid + 1, (len(latents),), generator=rng).to(latents.device)
    t, s = index / grid, (index - 1) / grid
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    noisy = (1 - _level(t)) * latents + _level(t) * noise
    mask = teacher.latent_mask
    with torch.no_grad():
        velocity = _guided_velocity(teacher, noisy, t, contexts, attributes, identity, guidance)
        earlier = noisy + _level(s - t) * velocity
        wanted = earlier - _level(s) * target(earlier, s, contexts, mask, attributes, identity, guidance)
    found = noisy - _level(t) * student(noisy, t, contexts, mask, attributes, identity, guidance)
    return pseudo_huber(found - wanted).mean()


def _guided_velocity(
    teacher: FaceGenerator,
    noisy: Tensor,
    t: Tensor,
    contexts: Tensor,
    attributes: Tensor,
    identity: Tensor,
    guidance: Tensor,
) -> Tensor:
    null = teacher.denoiser.null_identity.expand(len(noisy), -1)
    both = teacher.denoiser(
        torch.cat([noisy, noisy]),
        torch.cat([t, t]),
        torch.cat([contexts, contexts]),
        teacher.latent_mask,
        torch.cat([attributes, attributes]),
        torch.cat([identity, null]),
    )
    conditional, unconditional = both.chunk(2)
    return unconditional + _level(guidance) * (conditional - unconditional)


def _level(t: Tensor) -> Tensor:
    return t[:, None, None, None]


def _arguments(denoiser: FaceDenoiser) -> dict[str, int]:
    names = ("latent_channels", "attribute_channels", "identity_dim", "width")
    return {name: denoiser.config[name] for name in names}
