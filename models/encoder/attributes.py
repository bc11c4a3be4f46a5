"""Attribute code: pose, expression, gaze and light of a face as 8x8 maps of Gaussians that are really sampled.

Two parts make one code. The landmark part (`models.encoder.landmark_code`) tells where things lie. The learned part
tells what else must stay: light, skin tone, gaze, glasses. Its input is degraded before any loss sees it (anonymizer
specification, B2 iv): aligned by five points, low-passed to 32x32, and jittered in color during training, so fine
identity geometry is absent by construction. The standard deviations never fall below a floor, so a certificate that
holds for the noisy code holds at serving.

Differs: the five-point warp is the similarity of the alignment, not a full warp, because a full warp removes the mouth
position that the generator must keep.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from models.diffusion.blocks import NORM_GROUPS, ResidualBlock
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_SCALE, NUM_LANDMARKS, to_sheets
from models.oracles.networks.landmarks68 import LandmarkNet

_MEAN_GAIN = 4.0
"""Scale of the mean at the start, so that it is not lost under the noise floor."""
DEGRADED_SIZE = 32


class AttributeEncoder(ModelMixin, ConfigMixin):
    """Encoder of the learned part, and the constants of the landmark part.

    Args:
        channels: Channels of the learned part.
        noise_floor: Smallest standard deviation of every element of the learned part.
        landmark_noise: Standard deviation of the landmarks, in crop pixels on each axis (the eyes lie 32 px apart).
    """

    landmark_mean: Tensor

    @register_to_config
    def __init__(self, channels: int = 8, noise_floor: float = 1.0, landmark_noise: float = 0.6) -> None:
        super().__init__()
        self.noise_floor = noise_floor
        self.landmark_noise = landmark_noise
        self.net = nn.Sequential(
            nn.Conv2d(3, 48, 3, padding=1),
            ResidualBlock(48),
            nn.Conv2d(48, 96, 3, stride=2, padding=1),
            ResidualBlock(96),
            nn.Conv2d(96, 128, 3, stride=2, padding=1),
            ResidualBlock(128),
            ResidualBlock(128),
            nn.GroupNorm(NORM_GROUPS, 128),
            nn.SiLU(),
            nn.Conv2d(128, 2 * channels, 3, padding=1),
        )
        self.register_buffer("landmark_mean", torch.zeros(NUM_LANDMARKS, 2))

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the learned part.

        Args:
            crops: Aligned crops in [-1, 1], (n, 3, 128, 128), or already degraded ones, (n, 3, 32, 32).

        Returns:
            Mean and standard deviation, each (n, channels, 8, 8).
        """
        mean, spread = self.net(degrade(crops)).float().chunk(2, dim=1)
        return mean * _MEAN_GAIN, self.noise_floor + F.softplus(spread - 3)


class FaceAttributes(nn.Module):
    """The whole attribute code of a face.

    Args:
        encoder: Encoder of the learned part.
        landmark_net: Finds 68 landmarks in aligned crops.
    """

    def __init__(self, encoder: AttributeEncoder, landmark_net: LandmarkNet) -> None:
        super().__init__()
        self.encoder = encoder
        self.landmark_net = landmark_net

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the code.

        Args:
            crops: Aligned crops in [-1, 1], (n, 3, 128, 128).

        Returns:
            Mean and standard deviation, each (n, channels + 2, 8, 8); the last two channels hold the landmarks.
        """
        learned, landmarks = self.encoder(crops), self.landmark_part(crops)
        return torch.cat([learned[0], landmarks[0]], dim=1), torch.cat([learned[1], landmarks[1]], dim=1)

    @torch.no_grad()
    def landmark_part(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the landmark sheets of crops (n, 3, 128, 128), each (n, 2, 8, 8)."""
        # half precision would move points by half a pixel
        with torch.autocast(crops.device.type, enabled=False):
            points = self.landmark_net(crops.float())[:, INNER_LANDMARKS]
        mean = to_sheets((points - self.encoder.landmark_mean) / LANDMARK_SCALE)
        return mean, torch.full_like(mean, self.encoder.landmark_noise / LANDMARK_SCALE)

    def sample(self, crops: Tensor, rng: torch.Generator) -> Tensor:
        """Draw attribute codes, (n, channels + 2, 8, 8), with the generator's noise."""
        mean, std = self(crops)
        return mean + std * torch.randn(mean.shape, generator=rng).to(mean.device)


def degrade(crops: Tensor) -> Tensor:
    """Low-pass aligned crops (n, 3, h, w) to (n, 3, 32, 32)."""
    factor = crops.shape[-1] // DEGRADED_SIZE
    return F.avg_pool2d(crops, factor) if factor > 1 else crops
