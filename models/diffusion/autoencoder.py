"""Latent autoencoder for aligned face crops: 3x128x128 to 8x16x16 and back (anonymizer specification, B7).

The side s of the crops is 128 px for everything that is served; latents have an eighth of it.

Differs: a variational autoencoder with a small KL weight, as in latent diffusion (Rombach et al., 2022), but the stem
is a pixel-unshuffle, so that no convolution runs at full resolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from models.diffusion.blocks import NORM_GROUPS, ResidualBlock
from models.faces.alignment import CROP_SIZE

_LOGVAR_RANGE = (-10.0, 4.0)


class LatentAutoencoder(ModelMixin, ConfigMixin):
    """Encoder and decoder with a Gaussian latent, normalized per channel.

    Args:
        latent_channels: Channels of the latent.
        encoder_widths: Widths at a half, a quarter and an eighth of the side.
        decoder_widths: Widths at the same three sides.
        encoder_blocks: Residual blocks at these sides.
        decoder_blocks: Residual blocks at these sides.
        crop_size: Side s of the crops it is trained on, pixels, a multiple of 8.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        encoder_widths: Sequence[int] = (32, 64, 128),
        decoder_widths: Sequence[int] = (48, 96, 192),
        encoder_blocks: Sequence[int] = (1, 1, 2),
        decoder_blocks: Sequence[int] = (1, 2, 2),
        crop_size: int = CROP_SIZE,
    ) -> None:
        super().__init__()
        self.encoder = _encoder(encoder_widths, encoder_blocks, 2 * latent_channels)
        self.decoder = _decoder(decoder_widths, decoder_blocks, latent_channels)
        self.register_buffer("latent_mean", torch.zeros(1, latent_channels, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, latent_channels, 1, 1))

    def posterior(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the raw latent.

        Args:
            crops: Aligned crops in [-1, 1], (n, 3, s, s).

        Returns:
            Mean and log-variance, each (n, latent_channels, s/8, s/8), before normalization.
        """
        mean, logvar = self.encoder(crops).float().chunk(2, dim=1)
        return mean, logvar.clamp(*_LOGVAR_RANGE)

    def encode(self, crops: Tensor) -> Tensor:
        """Normalized posterior mean: zero mean and unit variance per channel over the training set."""
        return (self.posterior(crops)[0] - self.latent_mean) / self.latent_std

    def decode(self, latents: Tensor) -> Tensor:
        """Crops from normalized latents, not clamped: (n, latent_channels, s/8, s/8) to (n, 3, s, s)."""
        return self.decode_raw(latents * self.latent_std + self.latent_mean)

    def decode_raw(self, latents: Tensor) -> Tensor:
        """Crops from raw latents, as the autoencoder's own training needs them."""
        return self.decoder(latents).float()

    @property
    def crop_size(self) -> int:
        """Side of the crops that it was trained on, pixels."""
        return int(self.config.crop_size)

    @torch.no_grad()
    def fit_normalization(self, crops: Tensor) -> None:
        """Set the latent's mean and standard deviation per channel from crops (n, 3, s, s) in [-1, 1]."""
        means = torch.cat([self.posterior(chunk)[0] for chunk in crops.split(32)])
        self.latent_mean.copy_(means.mean((0, 2, 3), keepdim=True))
        self.latent_std.copy_(means.std((0, 2, 3), keepdim=True))


def _encoder(widths: Sequence[int], blocks: Sequence[int], out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, padding=1)]
    for level, width in enumerate(widths):
        if level:
            layers.append(nn.Conv2d(widths[level - 1], width, 3, stride=2, padding=1))
        layers += [ResidualBlock(width) for _ in range(blocks[level])]
    layers += [nn.GroupNorm(NORM_GROUPS, widths[-1]), nn.SiLU(), nn.Conv2d(widths[-1], out_channels, 3, padding=1)]
    return nn.Sequential(*layers)


def _decoder(widths: Sequence[int], blocks: Sequence[int], in_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[-1], 3, padding=1)]
    for level in reversed(range(len(widths))):
        layers += [ResidualBlock(widths[level]) for _ in range(blocks[level])]
        if level:
            layers += [nn.Conv2d(widths[level], widths[level - 1], 3, padding=1), nn.Upsample(scale_factor=2)]
    layers += [nn.GroupNorm(NORM_GROUPS, widths[0]), nn.SiLU(), nn.Conv2d(widths[0], 12, 3, padding=1)]
    return nn.Sequential(*layers, nn.PixelShuffle(2))
