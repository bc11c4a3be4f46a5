"""Restorer of degraded crops: a convex denoiser with learned filters, run only where a crop is visibly damaged.

A damaged crop b becomes the minimizer of |y - b|^2 / 2 + sum_k w_k sum phi(c_k * y), phi(t) = sqrt(t^2 + nu^2), in each
of three decorrelated color channels. The function is 1-strongly convex, so the gradient at the point that is returned
bounds its distance to the exact minimizer: every answer carries the certified error of its solve. Filters and weights
belong to grades of noise and of JPEG blocks; `doppel-train run fit-crop-restorer` learns them.

Source: S. Roth, M. J. Black, "Fields of Experts", 2009, doi:10.1007/s11263-008-0197-6. Differs: the penalty is convex.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor
from torch.nn import functional

from models.faces.alignment import CROP_SIZE, AlignedFace
from models.faces.degradation import Degradation, estimate_degradation
from models.registry.store import ArtifactStore

ARTIFACT_NAME: Final = "crop-restorer"
TENSORS_FILE: Final = "crop-restorer.safetensors"
SMOOTHING: Final = 0.02
"""nu, in units of the range of the gray levels."""

Kind = Literal["noise", "blocks"]

_KINDS: Final[tuple[Kind, ...]] = ("noise", "blocks")
# Orthonormal, so noise stays white and distances stay distances.
COLORS: Final = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3.0], [2.0], [6.0]])


class RestorationError(ValueError):
    """A restorer that is no restorer, or a crop that is no crop."""


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """Regularizer of one color channel: weights (k,) >= 0 and filters (k, s, s), float32."""

    weights: Tensor
    filters: Tensor

    def __post_init__(self) -> None:
        """Refuse what defines no convex function.

        Raises:
            RestorationError: The shapes do not fit, a number is not finite or a weight negative.
        """
        shape, count = tuple(self.filters.shape), self.weights.shape
        if len(shape) != 3 or shape[1] != shape[2] or not 1 <= shape[1] <= CROP_SIZE or count != shape[:1]:
            raise RestorationError(f"a field needs weights (k,) and filters (k, s, s), got {tuple(count)} and {shape}")
        if not bool(self.weights.isfinite().all() & self.filters.isfinite().all() & (self.weights >= 0).all()):
            raise RestorationError("a field needs finite filters and finite weights >= 0")

    def gradient(self, y: Tensor) -> Tensor:
        """Gradient of the regularizer at images (n, 1, h, w)."""
        kernels = self.filters[:, None]
        responses = functional.conv2d(y, kernels)
        slopes = responses / (responses.square() + SMOOTHING**2).sqrt()
        return functional.conv_transpose2d(slopes * self.weights[:, None, None], kernels)

    def smoothness(self, side: int) -> float:
        """Lipschitz constant of the gradient on images of some side, from a torus that holds image and filter."""
        torus = side + self.filters.shape[-1] - 1
        spectrum = torch.fft.rfft2(self.filters, s=(torus, torus)).abs().square()
        return float((self.weights[:, None, None] * spectrum).sum(0).max()) / SMOOTHING

    def reach(self) -> float:
        """Farthest that the exact restoration moves a pixel of the channel, in units of the range."""
        return float((self.weights * self.filters.abs().sum((1, 2))).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Grade:
    """Regularizers for one kind and amount of damage.

    Attributes:
        kind: What the damage is.
        level: How much of it, as `Degradation` measures it.
        luma: Regularizer of the sum of the colors.
        chroma: Regularizer of both color differences.
    """

    kind: Kind
    level: float
    luma: Field
    chroma: Field

    def __post_init__(self) -> None:
        """Refuse a grade without damage.

        Raises:
            RestorationError: The kind is unknown or the level is not positive and finite.
        """
        if self.kind not in _KINDS or not 0 < self.level < math.inf:
            raise RestorationError(f"a grade needs a kind of {_KINDS} and a level > 0, got {self.kind}, {self.level}")


@dataclass(frozen=True, slots=True, eq=False)
class Restoration:
    """What the restorer gave back.

    Attributes:
        crop: The restored crop, or the very array that came in, (128, 128, 3) uint8.
        grade: The grade that was applied; None where the crop was left alone.
        error_bound: Bound of the root mean square distance to the exact minimizer, in gray levels, before rounding.
        iterations: Gradients that the solve took.
    """

    crop: NDArray[np.uint8]
    grade: Grade | None
    error_bound: float
    iterations: int


class CropRestorer:
    """Restores aligned crops whose degradation passes a gate."""

    def __init__(self, grades: Sequence[Grade], *, noise_gate: float, blockiness_gate: float) -> None:
        """Take the learned grades.

        Args:
            grades: At least one.
            noise_gate: Noise from which a crop is restored, gray levels.
            blockiness_gate: Blockiness from which a crop is restored, gray levels.

        Raises:
            RestorationError: There is no grade, or a gate is not positive and finite.
        """
        if not grades:
            raise RestorationError("a restorer needs at least one grade")
        for name, gate in (("noise_gate", noise_gate), ("blockiness_gate", blockiness_gate)):
            if not 0 < gate < math.inf:
                raise RestorationError(f"{name} must be positive and finite, got {gate}")
        self.grades = tuple(grades)
        self.noise_gate = noise_gate
        self.blockiness_gate = blockiness_gate

    def grade_for(self, degradation: Degradation) -> Grade | None:
        """Choose the grade: noise before blocks, the nearest level by ratio; None where both stay below their gates."""
        kind: Kind
        if degradation.noise >= self.noise_gate:
            kind, level = "noise", degradation.noise
        elif degradation.blockiness >= self.blockiness_gate:
            kind, level = "blocks", degradation.blockiness
        else:
            return None
        fitting = [grade for grade in self.grades if grade.kind == kind]
        return min(fitting, key=lambda grade: abs(math.log(grade.level / level)), default=None)

    def of_kind(self, kind: Kind) -> CropRestorer:
        """Give a restorer of one kind of damage, which leaves every other crop alone.

        Args:
            kind: `noise` or `blocks`.

        Returns:
            The restorer.

        Raises:
            RestorationError: There is no grade of the kind.
        """
        chosen = [grade for grade in self.grades if grade.kind == kind]
        return CropRestorer(chosen, noise_gate=self.noise_gate, blockiness_gate=self.blockiness_gate)

    def restore_face(self, pixels: NDArray[np.uint8], aligned: AlignedFace) -> AlignedFace:
        """Restore an aligned face if the picture under it is degraded.

        Args:
            pixels: The picture (h, w, 3) uint8 that the face was cut from.
            aligned: The face.

        Returns:
            The face with its restored crop, or the very face that came in.
        """
        grade = self.grade_for(estimate_degradation(pixels, aligned.matrix, len(aligned.crop)))
        return aligned if grade is None else AlignedFace(restore_crop(aligned.crop, grade).crop, aligned.matrix)

    def to_files(self) -> dict[str, bytes]:
        """Serialize as the files of an artifact."""
        tensors = {
            "kinds": torch.tensor([_KINDS.index(grade.kind) for grade in self.grades], dtype=torch.uint8),
            "levels": torch.tensor([grade.level for grade in self.grades], dtype=torch.float64),
            "gates": torch.tensor([self.noise_gate, self.blockiness_gate], dtype=torch.float64),
        }
        for name in ("luma", "chroma"):
            fields: list[Field] = [getattr(grade, name) for grade in self.grades]
            tensors[f"{name}_weights"] = torch.stack([field.weights for field in fields])
            tensors[f"{name}_filters"] = torch.stack([field.filters for field in fields])
        return {TENSORS_FILE: write_tensors(tensors)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> CropRestorer:
        """Read what `to_files` wrote.

        Args:
            files: File name to content.

        Returns:
            The restorer.

        Raises:
            RestorationError: A tensor is missing, misshapen or not finite.
        """
        try:
            tensors = read_tensors(files[TENSORS_FILE])
            kinds, levels = tensors["kinds"].tolist(), tensors["levels"].tolist()
            noise_gate, blockiness_gate = tensors["gates"].tolist()
            parts = [
                [Field(w, f) for w, f in zip(tensors[f"{name}_weights"], tensors[f"{name}_filters"], strict=True)]
                for name in ("luma", "chroma")
            ]
            grades = [
                Grade(_KINDS[kind], level, luma, chroma)
                for kind, level, luma, chroma in zip(kinds, levels, *parts, strict=True)
            ]
        except RestorationError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, SafetensorError) as error:
            raise RestorationError(f"no readable restorer: {error}") from error
        return cls(grades, noise_gate=noise_gate, blockiness_gate=blockiness_gate)


@torch.no_grad()
def restore_crop(
    crop: NDArray[np.uint8], grade: Grade, *, tolerance: float = 0.25, max_iterations: int = 300
) -> Restoration:
    """Restore a crop, by Nesterov's method for strongly convex functions in each color channel.

    Args:
        crop: The damaged crop (h, w, 3) uint8 RGB.
        grade: The regularizers.
        tolerance: Root mean square error of a color channel at which the solve stops, gray levels.
        max_iterations: Gradients of each channel at most; the error bound is measured, so it stays true.

    Returns:
        The restored crop with the bound of its error over all channels.

    Raises:
        RestorationError: The crop is not square uint8 RGB, or the filters do not fit into it.
    """
    largest = max(field.filters.shape[-1] for field in (grade.luma, grade.chroma))
    if crop.ndim != 3 or crop.shape[2] != 3 or crop.dtype != np.uint8 or not crop.shape[0] == crop.shape[1] >= largest:
        raise RestorationError(f"expected a square crop (h, h, 3) uint8, got {crop.shape} {crop.dtype}")
    colors = torch.from_numpy(COLORS).float()
    channels = torch.einsum("ck,hwk->chw", colors, torch.from_numpy(np.ascontiguousarray(crop)).float() / 255)
    luma, luma_square, steps = _solve(channels[:1, None], grade.luma, tolerance / 255, max_iterations)
    chroma, chroma_square, more = _solve(channels[1:, None], grade.chroma, tolerance / 255, max_iterations)
    restored = torch.einsum("ck,chw->hwk", colors, torch.cat([luma, chroma])[:, 0])
    return Restoration(
        crop=(restored.clamp(0, 1) * 255).round().to(torch.uint8).numpy(),
        grade=grade,
        error_bound=255 * math.sqrt((luma_square + chroma_square) / channels.numel()),
        iterations=steps + more,
    )


def load_crop_restorer(store: ArtifactStore, version: str | None = None) -> CropRestorer:
    """Load a published restorer; without a version, the promoted one."""
    artifact = store.resolve(ARTIFACT_NAME, version)
    return CropRestorer.from_files({TENSORS_FILE: artifact.read_bytes(TENSORS_FILE)})


def _solve(data: Tensor, field: Field, tolerance: float, max_iterations: int) -> tuple[Tensor, float, int]:
    """Minimize at images (n, 1, h, h): the best point, the square of its certified distance, and gradients taken."""
    smoothness = 1 + field.smoothness(data.shape[-1])
    root = 1 / math.sqrt(smoothness)
    momentum = (1 - root) / (1 + root)
    goal = tolerance**2 * data.numel()
    previous = ahead = best = data
    least, steps = math.inf, 0
    while steps < max_iterations and least > goal:
        gradient = ahead - data + field.gradient(ahead)
        square, steps = float(gradient.square().sum()), steps + 1
        if square < least:
            best, least = ahead, square
        current = ahead - gradient / smoothness
        ahead = current + momentum * (current - previous)
        previous = current
    return best, least, steps
