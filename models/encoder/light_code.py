"""Light of aligned crops: what spherical harmonics of second order explain of the colors of a generic head.

Nine functions of the normal hold almost all of what a matte body reflects of any distant light.

Source: R. Ramamoorthi and P. Hanrahan, "An efficient representation for irradiance environment maps", 2001,
doi:10.1145/383259.383317. Differs: the head is the ellipsoid over the mask of the face and its color is one, so beard
and brows count as shadow.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.faces.alignment import CROP_SIZE, mask_radius

NUM_LIGHT = 27
"""Nine harmonics of three colors."""

_RADIUS = 0.92  # of the mask, up to which a face is replaced


def light_numbers(crops: Tensor) -> Tensor:
    """Project the colors inside the mask on the harmonics.

    Args:
        crops: Aligned crops in [-1, 1], (n, 3, 128, 128).

    Returns:
        Coefficients (n, 27), red first; one unit is one unit of brightness, root mean square over the mask.
    """
    rows, columns, scaled = _basis_tensors()
    return (crops[:, :, rows, columns].float() @ scaled.to(crops.device)).flatten(1)


@cache
def _basis_tensors() -> tuple[Tensor, Tensor, Tensor]:
    """Rows (p,) and columns (p,) of the pixels inside the mask, and the basis (p, 9) for means over them."""
    inside, basis = harmonic_basis()
    rows, columns = np.nonzero(inside)
    scaled = (basis / np.sqrt(len(basis))).astype(np.float32)
    return torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(scaled)


@cache
def harmonic_basis() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Pixels inside the mask (128, 128), and an orthonormal basis (p, 9) of the harmonics at these p pixels."""
    rows, columns = np.indices((CROP_SIZE, CROP_SIZE), dtype=np.float64)
    inside = mask_radius(np.stack([columns, rows], axis=-1)) < _RADIUS
    x, y = (2 * (axis - axis.min()) / np.ptp(axis) - 1 for axis in (columns[inside], rows[inside]))
    x, y = _RADIUS * x, _RADIUS * y
    z = np.sqrt(np.maximum(0.0, 1 - x**2 - y**2))
    functions = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 3 * z**2 - 1], axis=1)
    return inside, np.linalg.qr(functions)[0]
