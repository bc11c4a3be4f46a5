"""Aligned training crops of people who do not exist: reading, cleaning, storing, augmenting.

A crop set is a folder with `crops.npy` (n, s, s, 3) uint8 and `index.csv` (source, group); the side s is 128 px, or 256
px for trainings of larger networks. The group names the
person (or the source file, where there is one photo per person); splits are made by group.
"""

from __future__ import annotations

import csv
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.faces.alignment import CROP_SIZE

CropSize = Literal[128, 256]

BORDER_WIDTH = 6
"""Width in pixels of a 128 px crop of the outer ring that is looked at for sheet borders."""


@dataclass(frozen=True, slots=True)
class CropSet:
    """Aligned crops with the person each of them shows.

    Attributes:
        crops: Pixels, (n, s, s, 3) uint8 RGB.
        groups: Person or source of each crop, (n,).
    """

    crops: NDArray[np.uint8]
    groups: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.crops)

    def where(self, keep: NDArray[np.bool_]) -> CropSet:
        """The crops selected by a boolean mask (n,)."""
        return CropSet(self.crops[keep], self.groups[keep])

    def reduced(self) -> CropSet:
        """The same crops at 128 px, as recognizers read them: see `reduce_crops`."""
        if self.crops.shape[1] == CROP_SIZE:
            return self
        parts = [reduce_crops(to_tensor(self.crops[i : i + 32])) for i in range(0, len(self), 32)]
        pixels = torch.cat(parts).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1)
        return CropSet(np.ascontiguousarray(pixels.numpy()), self.groups)

    def split(self, held_out_share: float = 1 / 12) -> tuple[CropSet, CropSet]:
        """Training and held-out part, by group and independent of the order of the crops.

        Args:
            held_out_share: Share of the groups that is held out, in (0, 1).

        Returns:
            Training crops, held-out crops.
        """
        held_out = self.held_out(held_out_share)
        return self.where(~held_out), self.where(held_out)

    def held_out(self, share: float = 1 / 12) -> NDArray[np.bool_]:
        """Which crops are held out, (n,).

        Args:
            share: Share of the groups that is held out, in (0, 1).

        Returns:
            True for held-out crops.

        Raises:
            ValueError: The share is out of range.
        """
        if not 0.0 < share < 1.0:
            raise ValueError(f"share must lie in (0, 1), got {share}")
        return np.array([_unit_hash(group) < share for group in self.groups], dtype=np.bool_)


def save_crop_set(folder: Path, crop_set: CropSet) -> None:
    """Write a crop set to a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "crops.npy", crop_set.crops, allow_pickle=False)
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["group"])
        writer.writerows([[group] for group in crop_set.groups])


def load_crop_set(folder: Path, size: int = CROP_SIZE) -> CropSet:
    """Read a crop set from a folder.

    Args:
        folder: Folder written by `save_crop_set`.
        size: Side that its crops must have, pixels.

    Returns:
        The crops.

    Raises:
        FileNotFoundError: There is no crop set in the folder.
        ValueError: The two files disagree, or the crops have another shape.
    """
    if not (folder / "crops.npy").is_file():
        raise FileNotFoundError(f"no crop set in {folder}: run `doppel-train run prepare-faces` first")
    crops = np.load(folder / "crops.npy", allow_pickle=False)
    with (folder / "index.csv").open(newline="", encoding="utf-8") as stream:
        groups = np.array([row["group"] for row in csv.DictReader(stream)], dtype=np.str_)
    if crops.shape[1:] != (size, size, 3) or len(groups) != len(crops):
        raise ValueError(
            f"broken crop set in {folder}: crops {crops.shape}, {len(groups)} index rows; wanted are {size} px"
        )
    return CropSet(crops, groups)


def join_crop_sets(*parts: CropSet) -> CropSet:
    """One crop set from several."""
    return CropSet(np.concatenate([p.crops for p in parts]), np.concatenate([p.groups for p in parts]))


def border_share(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Share of nearly black pixels in the outer ring of each crop, which tells sheet borders; (n,) in [0, 1]."""
    dark = crops.max(axis=3) < 10
    side = crops.shape[1]
    width = BORDER_WIDTH * side // CROP_SIZE
    ring = np.ones((side, side), dtype=np.bool_)
    ring[width:-width, width:-width] = False
    return dark[:, ring].mean(axis=1)


def to_tensor(crops: NDArray[np.uint8]) -> Tensor:
    """Pixels (n, h, w, 3) uint8 to a float tensor (n, 3, h, w) in [-1, 1], channels last in memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return tensor.contiguous(memory_format=torch.channels_last)


def reduce_crops(crops: Tensor) -> Tensor:
    """Bring crops to the side that recognizers and the landmark network read; 128 px crops stay the very same.

    The template of 256 px is twice that of 128 px, so pixel p is fetched from pixel 2 p: a binomial filter (1, 2, 1)
    along both axes, and every second pixel. The mean of 2x2 pixels would move every face by a quarter of a pixel.

    Args:
        crops: Aligned crops, (n, 3, 128, 128) or (n, 3, 256, 256).

    Returns:
        Crops, (n, 3, 128, 128).

    Raises:
        ValueError: The crops have another side.
    """
    if crops.shape[-1] == CROP_SIZE:
        return crops
    if crops.shape[-1] != 2 * CROP_SIZE:
        raise ValueError(f"crops must be {CROP_SIZE} or {2 * CROP_SIZE} px wide, got {crops.shape[-1]}")
    padded = F.pad(crops, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 2, stride=1), 2)


def augment(
    crops: Tensor, rng: torch.Generator, *, geometry: float = 0.05, soften: bool = True, borders: float = 0.4
) -> Tensor:
    """Mild random geometry, color, softness and picture borders, each photo apart.

    Args:
        crops: Crops in [-1, 1], (n, 3, s, s).
        rng: Source of randomness, on the CPU: the same changes are drawn for every device.
        geometry: Relative range of the scale; rotation and shift follow it.
        soften: Resample a third of the crops through a smaller size, so that press-photo softness is seen too.
        borders: Share of the crops that look as if they reached beyond the border of their picture.

    Returns:
        Augmented crops of the same shape and range.
    """
    n, device = len(crops), crops.device

    def uniform(*shape: int) -> Tensor:
        return (torch.rand(*shape, generator=rng) * 2 - 1).to(device)

    scale = 1 + uniform(n) * geometry
    angle = torch.randn(n, generator=rng).to(device) * 0.8 * geometry
    flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0).to(device)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0], theta[:, 0, 1] = flip * scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = flip * scale * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = uniform(n, 2) * 0.8 * geometry
    grid = F.affine_grid(theta, list(crops.shape), align_corners=False)
    x = F.grid_sample(crops, grid, padding_mode="reflection", align_corners=False)

    mean = x.mean((2, 3), keepdim=True)
    x = (x - mean) * (1 + 0.2 * uniform(n, 1, 1, 1)) + mean + 0.15 * uniform(n, 1, 1, 1)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * (1 + 0.35 * uniform(n, 1, 1, 1))
    x = x * (1 + 0.06 * uniform(n, 3, 1, 1))
    if soften and n >= 3:
        factor = 0.45 + 0.55 * float(torch.rand((), generator=rng))
        small = F.interpolate(x[: n // 3], scale_factor=factor, mode="bilinear", antialias=True, align_corners=False)
        soft = F.interpolate(small, size=crops.shape[-2:], mode="bicubic", align_corners=False)
        x = torch.cat([soft, x[n // 3 :]])
    if borders:
        x = _beyond_borders(x, torch.rand(n, generator=rng) < borders, rng)
    return x.clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def _beyond_borders(crops: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
    """Repeat the pixels of random inner borders outward, as an alignment does where the picture ends."""
    n, _, height, width = crops.shape
    reach = torch.tensor([0.2, 0.14, 0.22, 0.22])  # top, bottom, left, right; the features of the face stay inside
    # a cut on every side is rare: most crops leave their picture at one or two
    cut = torch.rand(n, 4, generator=rng) * reach * (torch.rand(n, 4, generator=rng) < 0.5) * chosen[:, None]
    cuts = (cut * torch.tensor([height, height, width, width])).long().to(crops.device)
    top, bottom, left, right = cuts.T[:, :, None]
    rows = torch.arange(height, device=crops.device).expand(n, -1).clamp(min=top).minimum(height - 1 - bottom)
    columns = torch.arange(width, device=crops.device).expand(n, -1).clamp(min=left).minimum(width - 1 - right)
    picked = crops.permute(0, 2, 3, 1)[
        torch.arange(n, device=crops.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)


def contact_sheet(rows: list[Tensor], columns: int | None = None) -> NDArray[np.uint8]:
    """Tile rows of crops into one picture.

    Args:
        rows: Crops in [-1, 1], each (n, 3, h, w) with one n.
        columns: Crops beside each other; by default all of them.

    Returns:
        The sheet, (H, W, 3) uint8 RGB; for several columns blocks the rows repeat below each other.
    """
    n = len(rows[0])
    columns = n if columns is None else min(columns, n)
    blocks: list[NDArray[np.uint8]] = []
    for start in range(0, math.ceil(n / columns) * columns, columns):
        for row in rows:
            part = row[start : start + columns].detach()
            pixels = ((part.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            line = np.concatenate(list(pixels), axis=1)
            missing = columns - len(part)
            if missing:
                line = np.pad(line, ((0, 0), (0, missing * row.shape[3]), (0, 0)))
            blocks.append(line)
    return np.concatenate(blocks, axis=0)


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
