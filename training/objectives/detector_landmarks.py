"""Distance between the landmarks that the detector reads off two faces, for drawn faces that must keep a pose.

A landmark network that is asked in a loss learns to be pleased: its own error falls further than that of others. The
last network of the detector is another witness, and the one that finds the released face again.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.faces.alignment import CROP_SIZE, crop_template
from training.data.face_crops import reduce_crops

_INPUT_SIDE = 48  # px, what the network is shown
_SIDE = 2.5  # of the window, in eye distances; the network expects the eyes at .3 and .7 of it
_CENTER_DROP = 0.4  # of the window below the eyes, in eye distances
_SCALES = (0.9, 1.25)
_SHIFT = 0.15  # of the window, in eye distances


class DetectorLandmarks(nn.Module):
    """Reads five landmarks of aligned crops in one random window that all crops share.

    Args:
        network: Last network of MTCNN (Zhang et al., 2016): crops (n, 3, 48, 48) in [-1, 1] to a box shift (n, 4),
            landmarks (n, 10) as shares of the window, five x before five y, and scores (n, 2).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        eyes = torch.from_numpy(crop_template(CROP_SIZE)[:2]).float()
        self._eye_distance = float((eyes[1] - eyes[0]).norm())
        self._center = eyes.mean(0) + torch.tensor([0.0, _CENTER_DROP * self._eye_distance])

    def forward(self, crops: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
        """Mean distance between the landmarks of two sets of crops.

        Args:
            crops: Aligned crops in [-1, 1], (n, 3, 128, 128); larger ones are reduced to that side.
            others: Crops whose landmarks are wanted, of the same shape; no gradient flows into them.
            rng: Source of the window.

        Returns:
            Distances in pixels of a 128 px crop, (n,).
        """
        crops, others = reduce_crops(crops), reduce_crops(others)
        low, high = _SCALES
        scale = low + (high - low) * float(torch.rand(1, generator=rng))
        side = round(_SIDE * self._eye_distance * scale)
        shift = _SHIFT * self._eye_distance * (2 * torch.rand(2, generator=rng) - 1)
        left, top = ((self._center + shift) - side / 2).round().int().clamp(0, CROP_SIZE - side).tolist()
        window = (..., slice(top, top + side), slice(left, left + side))
        with torch.no_grad():
            wanted = self._read(others[window])
        return (self._read(crops[window]) - wanted).square().sum(2).add(1e-6).sqrt().mean(1) * side

    def _read(self, windows: Tensor) -> Tensor:
        """Five landmarks as shares of the window, (n, 5, 2)."""
        shown = F.interpolate(windows, size=_INPUT_SIDE, mode="bilinear", antialias=True, align_corners=False)
        points: Tensor = self.network(shown)[1]
        return points.unflatten(1, (2, 5)).transpose(1, 2)
