"""Face generator: a new face inside the mask of a crop, in one to four denoising steps.

The schedulers are those of diffusers: `FlowMatchEulerDiscreteScheduler` for the undistilled denoiser, which evaluates a
second, unconditional branch for guidance, and `FlowMatchLCMScheduler` for a consistency-distilled one, which takes the
guidance weight as an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchLCMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.faces.alignment import face_mask

MAX_STEPS = 50


class FaceGenerator(nn.Module):
    """Autoencoder and denoiser behind one call.

    Shapes below are those of 128 px crops; others have the side that the autoencoder was trained on.

    Args:
        autoencoder: Latent autoencoder with fitted normalization.
        denoiser: Conditional denoiser trained on its latents.
        drawing_dtype: Format in which `generate` multiplies, `torch.float32` or `torch.bfloat16`; states between steps
            are float32 in both. bfloat16 moves the pixels by a level here and there (0.08 levels on average).
    """

    mask: Tensor
    latent_mask: Tensor

    def __init__(
        self, autoencoder: LatentAutoencoder, denoiser: FaceDenoiser, drawing_dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self._drawing_dtype = drawing_dtype
        self.autoencoder = autoencoder
        self.denoiser = denoiser
        mask = torch.from_numpy(face_mask(autoencoder.crop_size))[None, None]
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("latent_mask", F.avg_pool2d(mask, 8), persistent=False)

    @property
    def is_distilled(self) -> bool:
        """Whether the denoiser takes the guidance weight as an input."""
        return self.denoiser.guidance is not None

    def context(self, crops: Tensor) -> Tensor:
        """Latents of the crops with the face blanked; (n, 3, 128, 128) to (n, 8, 16, 16)."""
        blank = (crops * (1 - self.mask)).contiguous(memory_format=torch.channels_last)
        return self.autoencoder.encode(blank)

    @torch.inference_mode()
    def generate(
        self,
        crops: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        *,
        steps: int = 4,
        guidance: float = 2.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Draw faces.

        Args:
            crops: Aligned crops in [-1, 1], (n, 3, 128, 128); only what lies outside the mask is used.
            attribute_code: Sampled attribute codes, (n, c, 8, 8).
            identity_code: Unit identity codes, (n, d).
            steps: Denoising steps, 1 to 50; a distilled denoiser is meant for 1 to 4.
            guidance: Guidance weight on the identity; 1 is none.
            generator: Source of the noise: one for the batch, or one per row, so that rows are independent.

        Returns:
            Crops in [-1, 1], (n, 3, 128, 128), blended with the input by the face mask.

        Raises:
            ValueError: `steps` or `guidance` is out of range, or the batch sizes differ.
        """
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps must lie in 1..{MAX_STEPS}, got {steps}")
        if not 1.0 <= guidance <= 4.0:
            raise ValueError(f"guidance must lie in [1, 4], got {guidance}")
        if not len(crops) == len(attribute_code) == len(identity_code):
            raise ValueError(f"batch sizes differ: {len(crops)}, {len(attribute_code)}, {len(identity_code)}")
        crops = crops.contiguous(memory_format=torch.channels_last)
        with self._drawing(crops.device):
            latents = self.sample(self._contexts(crops), attribute_code, identity_code, steps, guidance, generator)
            decoded = self.autoencoder.decode(latents.contiguous(memory_format=torch.channels_last)).clamp(-1, 1)
        return decoded * self.mask + crops * (1 - self.mask)

    def _contexts(self, crops: Tensor) -> Tensor:
        """Contexts of all rows; neighboring rows with one crop, as candidates of one face are, are encoded once."""
        starts = torch.ones(len(crops), dtype=torch.bool, device=crops.device)
        starts[1:] = (crops[1:] != crops[:-1]).flatten(1).any(1)
        return self.context(crops[starts])[starts.cumsum(0) - 1]

    def _drawing(self, device: torch.device) -> AbstractContextManager[object]:
        if self._drawing_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, dtype=self._drawing_dtype)

    def sample(
        self,
        context: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        steps: int,
        guidance: float,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Draw latents from noise by the scheduler's steps.

        Args:
            context: Latents of the blanked crops, (n, 8, 16, 16).
            attribute_code: Sampled attribute codes, (n, c, 8, 8).
            identity_code: Unit identity codes, (n, d).
            steps: Denoising steps.
            guidance: Guidance weight on the identity.
            generator: Source of the noise, one for the batch or one per row; one on the CPU draws the same noise for
                every device.

        Returns:
            Latents, (n, 8, 16, 16).
        """
        scheduler = FlowMatchLCMScheduler() if self.is_distilled else FlowMatchEulerDiscreteScheduler()
        scheduler.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
        source = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        latents = randn_tensor(context.shape, generator=source, device=context.device)
        for time in scheduler.timesteps:
            t = (time / 1000).to(latents.device).expand(len(latents))
            velocity = self.velocity(latents, t, context, attribute_code, identity_code, guidance)
            step_arguments = {"generator": source} if self.is_distilled else {}
            latents = scheduler.step(velocity, time, latents, return_dict=False, **step_arguments)[0]
        return latents

    def velocity(
        self,
        latents: Tensor,
        t: Tensor,
        context: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        guidance: float,
    ) -> Tensor:
        """Guided velocity: one evaluation of a distilled denoiser, two of an undistilled one with guidance above 1.

        Args:
            latents: Noisy latents, (n, 8, 16, 16).
            t: Noise levels, (n,).
            context: Latents of the blanked crops.
            attribute_code: Sampled attribute codes.
            identity_code: Unit identity codes.
            guidance: Guidance weight on the identity.

        Returns:
            Velocities, (n, 8, 16, 16).
        """
        mask = self.latent_mask
        if self.is_distilled:
            weights = torch.full((len(latents),), guidance, device=latents.device)
            return self.denoiser(latents, t, context, mask, attribute_code, identity_code, weights)
        if guidance == 1.0:
            return self.denoiser(latents, t, context, mask, attribute_code, identity_code)
        null = self.denoiser.null_identity.expand(len(latents), -1)
        both = self.denoiser(
            torch.cat([latents, latents]),
            torch.cat([t, t]),
            torch.cat([context, context]),
            mask,
            torch.cat([attribute_code, attribute_code]),
            torch.cat([identity_code, null]),
        )
        conditional, unconditional = both.chunk(2)
        return unconditional + guidance * (conditional - unconditional)
