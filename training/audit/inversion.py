"""Inversion: a network that learns to draw the original face back from a released one (A4).

The attacker holds pairs (released crop, original crop) of people who are not in the test, and trains a small U-Net to
map one onto the other: absolute difference of pixels, and cosine between the recognizers' embeddings of both. A
recognizer then compares its drawings of the probes with a gallery. The network adds to the released crop and begins
at zero, so that it starts from the attacker who does nothing (A0).

Differs: a few hundred steps on a few hundred people, which bounds this attacker and no stronger one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from models.diffusion.blocks import ResidualBlock
from training.data.face_crops import to_tensor
from training.schedules import set_cosine_learning_rate

Crops = NDArray[np.uint8]
Embed = Callable[[Tensor], Tensor]
"""Maps crops (n, 3, h, w) in [-1, 1] to unit embeddings (n, d), differentiably."""

BATCH = 8
LEARNING_RATE = 5e-4
_FOLD = 2  # pixels of a square that become channels: a quarter of the work at full resolution of the output


class InversionNet(nn.Module):
    """U-Net of three levels from released crops to the drawing of the original.

    Args:
        widths: Channels from the finest level to the coarsest, multiples of 8.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96)) -> None:
        super().__init__()
        fine, middle, coarse = widths
        self.enter = nn.Conv2d(3 * _FOLD**2, fine, 3, padding=1)
        self.down = nn.ModuleList([ResidualBlock(fine), ResidualBlock(middle)])
        self.shrink = nn.ModuleList(
            [nn.Conv2d(fine, middle, 3, stride=2, padding=1), nn.Conv2d(middle, coarse, 3, stride=2, padding=1)]
        )
        self.bottom = nn.Sequential(ResidualBlock(coarse), ResidualBlock(coarse))
        self.grow = nn.ModuleList([nn.Conv2d(middle, fine, 3, padding=1), nn.Conv2d(coarse, middle, 3, padding=1)])
        self.up = nn.ModuleList([ResidualBlock(fine), ResidualBlock(middle)])
        self.leave = nn.Conv2d(fine, 3 * _FOLD**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        if self.leave.bias is not None:
            nn.init.zeros_(self.leave.bias)

    def forward(self, released: Tensor) -> Tensor:
        """Draw the originals of released crops (n, 3, h, w) in [-1, 1], sides multiples of 8; not clamped."""
        h = self.enter(F.pixel_unshuffle(released, _FOLD))
        kept = []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h)
            kept.append(h)
            h = shrink(h)
        h = self.bottom(h)
        for block, grow, skip in reversed(list(zip(self.up, self.grow, kept, strict=True))):
            h = block(skip + grow(F.interpolate(h, scale_factor=2.0)))
        return released + F.pixel_shuffle(self.leave(F.silu(h)), _FOLD)


def fit_inversion(
    released: Crops,
    originals: Crops,
    recognizers: Sequence[Embed],
    *,
    steps: int,
    seed: int,
    embedding_weight: float = 0.5,
) -> InversionNet:
    """Train the attacker on pairs, each pair mirrored every other time.

    Args:
        released: Released crops, (n, h, w, 3).
        originals: Crops of the same people before anonymization, same shape.
        recognizers: Frozen recognizers whose embeddings the drawing must share; they take turns, one in each step.
        steps: Steps of Adam, each on at most `BATCH` pairs.
        seed: Draws the weights and the batches.
        embedding_weight: Weight of one minus the cosine, beside the mean absolute difference in [-1, 1].

    Returns:
        The network in evaluation mode.

    Raises:
        ValueError: The pairs do not match or are none, or the steps are not positive.
    """
    if released.shape != originals.shape or len(released) == 0:
        raise ValueError(f"inversion needs matching pairs, got shapes {released.shape} and {originals.shape}")
    if steps < 1:
        raise ValueError(f"steps must be positive, got {steps}")
    rng = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = InversionNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    turns = itertools.cycle(recognizers) if recognizers else itertools.repeat(None)
    for step, recognize in zip(range(steps), turns, strict=False):
        chosen = torch.randperm(len(released), generator=rng)[:BATCH].numpy()
        pair = torch.stack([to_tensor(released[chosen]), to_tensor(originals[chosen])])
        flipped = torch.rand(len(chosen), generator=rng) < 0.5
        given, wanted = torch.where(flipped[None, :, None, None, None], pair.flip(-1), pair)
        drawn = network(given)
        loss = (drawn - wanted).abs().mean()
        if recognize is not None:
            with torch.no_grad():
                target = recognize(wanted)
            loss = loss + embedding_weight * (1 - (recognize(drawn) * target).sum(1)).mean()
        set_cosine_learning_rate(optimizer, LEARNING_RATE, step, steps, warmup=20)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def reconstruct(network: InversionNet, released: Crops) -> Crops:
    """Draw the originals of released crops, (n, h, w, 3)."""
    drawn = [network(to_tensor(released[i : i + 32])).clamp(-1, 1) for i in range(0, len(released), 32)]
    if not drawn:
        return released.copy()
    pixels = ((torch.cat(drawn) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())
