"""The time that a latent diffusion of the size of Stable Diffusion 1.5 takes for one face, with random weights.

Only the denoising network is timed, without guidance, text encoder and autoencoder, so the figure is a lower bound.

Source: R. Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv:2112.10752.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from models._torchvision_ops import ensure_torchvision_operators
from models.runtime import autocast_dtype

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

_LATENT_SIDE = 64  # of a 512 px picture
_TOKENS, _TOKEN_WIDTH = 77, 768


def latent_diffusion_network() -> UNet2DConditionModel:
    """Make the network, 860 million random weights, in the type in which this machine draws faces."""
    # diffusers reaches for torchvision here
    ensure_torchvision_operators()
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    network = UNet2DConditionModel(
        sample_size=_LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(320, 640, 1280, 1280),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=2,
        attention_head_dim=8,
        cross_attention_dim=_TOKEN_WIDTH,
    )
    dtype = autocast_dtype(torch.device("cpu"))
    return network.eval().requires_grad_(False).to(dtype).to(memory_format=torch.channels_last)


@torch.inference_mode()
def denoising_seconds(network: UNet2DConditionModel, steps: int, clock: Callable[[], float]) -> float:
    """Time the denoising of one face.

    Args:
        network: The network.
        steps: Denoising steps, all of which are run.
        clock: Seconds.

    Returns:
        Seconds, after one step that is not counted.
    """
    latents = torch.randn(1, 4, _LATENT_SIDE, _LATENT_SIDE, generator=torch.Generator().manual_seed(0))
    latents = latents.to(network.dtype).contiguous(memory_format=torch.channels_last)
    tokens = torch.zeros(1, _TOKENS, _TOKEN_WIDTH, dtype=network.dtype)
    network(latents, torch.tensor(999), tokens)
    started = clock()
    for step in range(steps):
        noise = network(latents, torch.tensor(999 - step * 1000 // steps), tokens).sample
        latents = latents - noise / steps
    return clock() - started
