"""Landmark part of the attribute code: where brows, eyes, nose and mouth lie, with noise that is really sampled.

Fifty-one inner points of the 68 (the jaw line is identity and is left out) are written as offsets from the mean face
into two 8x8 sheets, so that they travel with the learned map as one Gaussian code. Networks that read the code draw
the points again as soft maps.

Differs: the specification asks for one learned code. Pose, mouth and eyelids told by a rate-limited map came back
smeared, and landmarks of another detector tell the generator exactly what must stay.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

INNER_LANDMARKS = slice(17, 68)
"""Brows, nose, eyes and mouth of the 68 points in the 300-W order."""
NUM_LANDMARKS = 51
LANDMARK_SCALE = 4.0
"""Crop pixels by which offsets are divided, about their standard deviation over people and poses."""
LANDMARK_CHANNELS = 2
"""Sheets the offsets take in a code: x and y."""
NUM_MAPS = 8

_SIDE = 8  # of the attribute code
_CROP_SIZE = 128
# brows, nose bridge, nose base, eyes, outer and inner lips
_GROUPS = ((0, 5), (5, 10), (10, 14), (14, 19), (19, 25), (25, 31), (31, 43), (43, 51))
_SPREAD = 0.8  # standard deviation of a drawn point in cells of the map


def to_sheets(offsets: Tensor) -> Tensor:
    """Write scaled offsets (n, 51, 2) into sheets (n, 2, 8, 8); the cells left over are zero."""
    flat = F.pad(offsets.mT, (0, _SIDE * _SIDE - NUM_LANDMARKS))  # (n, 2, 64)
    return flat.unflatten(2, (_SIDE, _SIDE))


def from_sheets(sheets: Tensor) -> Tensor:
    """Read scaled offsets (n, 51, 2) from sheets (n, 2, 8, 8)."""
    return sheets.flatten(2)[:, :, :NUM_LANDMARKS].transpose(1, 2)


def landmark_maps(points: Tensor, size: int) -> Tensor:
    """Draw points as soft maps, one for each part of the face.

    Args:
        points: Landmarks in crop pixels, (n, 51, 2).
        size: Side of the maps.

    Returns:
        Maps in [0, 1], (n, 8, size, size); each is the largest of the Gaussian bumps of its points.
    """
    cells = (points + 0.5) * (size / _CROP_SIZE) - 0.5  # (n, 51, 2)
    axis = torch.arange(size, dtype=points.dtype, device=points.device)
    bumps = torch.exp(-(cells[..., None] - axis).square() / (2 * _SPREAD**2))  # (n, 51, 2, size)
    drawn = bumps[:, :, 1, :, None] * bumps[:, :, 0, None, :]  # (n, 51, size, size)
    return torch.stack([drawn[:, first:last].amax(1) for first, last in _GROUPS], dim=1)
