"""Conditional flow denoiser on face latents (anonymizer specification, B7).

Predicts the velocity `noise - latent` of the straight path `z_t = (1 - t) z_0 + t noise` (rectified flow, Liu et al.,
2022) from the noisy latent, the masked context, the attribute code and, through adaptive normalization, the noise
level, the guidance weight and the identity code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from models.diffusion.blocks import ResidualBlock, SelfAttention, sinusoidal_features
from models.encoder.landmark_code import (
    LANDMARK_CHANNELS,
    LANDMARK_SCALE,
    NUM_LANDMARKS,
    NUM_MAPS,
    from_sheets,
    landmark_maps,
)

_TIME_FEATURES = 64
_CODE_GAIN = 8.0
"""Unit codes of 128 numbers have entries of about 0.09; the gain brings them near unit variance."""


class FaceDenoiser(ModelMixin, ConfigMixin):
    """U-Net of two resolutions, the side of the latents and half of it, with attention at the lower one.

    Latents of 128 px crops are 16x16; shapes below are for these, and any other even side works as well.

    Args:
        latent_channels: Channels of the latent.
        attribute_channels: Channels of the learned part of the 8x8 attribute code; two channels of landmarks follow.
        identity_dim: Length of the identity code.
        width: Width at the side of the latents; twice that at half of it.
        guided: Whether the guidance weight is an input, as in a guidance-distilled student.
    """

    landmark_mean: Tensor

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        attribute_channels: int = 8,
        identity_dim: int = 128,
        width: int = 112,
        guided: bool = False,
    ) -> None:
        super().__init__()
        deep, condition = 2 * width, 384
        self.time = nn.Linear(_TIME_FEATURES, condition)
        self.identity = nn.Linear(identity_dim, condition)
        self.landmarks = nn.Linear(2 * NUM_LANDMARKS, condition)
        self.guidance = nn.Linear(1, condition) if guided else None
        if self.guidance is not None:
            nn.init.zeros_(self.guidance.weight)
            nn.init.zeros_(self.guidance.bias)
        self.mix = nn.Linear(condition, condition)
        self.null_identity = nn.Parameter(torch.zeros(1, identity_dim))
        self.stem = nn.Conv2d(2 * latent_channels + 1 + attribute_channels + NUM_MAPS, width, 3, padding=1)
        self.down = nn.ModuleList([ResidualBlock(width, condition) for _ in range(2)])
        self.pool = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.middle = nn.ModuleList([ResidualBlock(deep, condition) for _ in range(4)])
        self.attention = nn.ModuleList([SelfAttention(deep) for _ in range(2)])
        self.unpool = nn.Conv2d(deep, width, 3, padding=1)
        self.merge = nn.Conv2d(2 * width, width, 1)
        self.up = nn.ModuleList([ResidualBlock(width, condition) for _ in range(3)])
        self.head = nn.Sequential(nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, latent_channels, 3, padding=1))
        for parameter in self.head[-1].parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("landmark_mean", torch.zeros(NUM_LANDMARKS, 2))

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        context: Tensor,
        mask: Tensor,
        attributes: Tensor,
        identity: Tensor,
        guidance: Tensor | None = None,
    ) -> Tensor:
        """Predict the velocity.

        Args:
            noisy: Noisy latents, (n, latent_channels, 16, 16).
            t: Noise levels in [0, 1], (n,); 1 is pure noise.
            context: Latents of the crop with the face blanked, (n, latent_channels, 16, 16).
            mask: Share of each latent cell that is replaced, (1 or n, 1, 16, 16).
            attributes: Sampled attribute codes, (n, attribute_channels + 2, 8, 8).
            identity: Identity codes on the sphere, (n, identity_dim); `null_identity` for the unconditional branch.
            guidance: Guidance weights, (n,), for a guided network; ignored otherwise.

        Returns:
            Velocities `noise - latent`, (n, latent_channels, 16, 16).
        """
        condition = self.time(sinusoidal_features(t, _TIME_FEATURES)) + self.identity(identity * _CODE_GAIN)
        if self.guidance is not None and guidance is not None:
            condition = condition + self.guidance(guidance[:, None])
        learned, sheets = attributes.tensor_split((-LANDMARK_CHANNELS,), dim=1)
        offsets = from_sheets(sheets)  # (n, 51, 2)
        e = F.silu(self.mix(F.silu(condition + self.landmarks(offsets.flatten(1)))))  # (n, 384)
        finer = noisy.shape[-1] / learned.shape[-1]
        spread = F.interpolate(learned, scale_factor=finer)  # (n, attribute_channels, 16, 16)
        maps = landmark_maps(self.landmark_mean + LANDMARK_SCALE * offsets, noisy.shape[-1])
        h = self.stem(torch.cat([noisy, context, mask.expand(noisy.shape[0], -1, -1, -1), spread, maps], dim=1))
        for block in self.down:
            h = block(h, e)
        skip = h
        h = self.pool(h)
        for index, block in enumerate(self.middle):
            h = block(h, e)
            if index % 2 == 0:
                h = self.attention[index // 2](h)
        h = self.merge(torch.cat([self.unpool(F.interpolate(h, scale_factor=2.0)), skip], dim=1))
        for block in self.up:
            h = block(h, e)
        return self.head(h).float()
