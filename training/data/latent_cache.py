"""Latents, contexts and attribute codes of augmented crops, computed once per pass over the data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.generator import FaceGenerator
from models.encoder.attributes import FaceAttributes
from training.data.face_crops import CropSet, augment, reduce_crops, to_tensor


@dataclass(frozen=True, slots=True)
class LatentCache:
    """Everything a denoiser's training step needs, in half precision and on the CPU.

    Shapes are those of 128 px crops; latents of larger ones have an eighth of their side.

    Attributes:
        latents: Normalized latents, (n, 8, 16, 16).
        contexts: Latents of the crops with the face blanked, (n, 8, 16, 16).
        attribute_mean: Mean attribute codes, (n, c, 8, 8).
        attribute_std: Their standard deviations, (n, c, 8, 8).
        sources: Index of the crop in the crop set, (n,).
    """

    latents: Tensor
    contexts: Tensor
    attribute_mean: Tensor
    attribute_std: Tensor
    sources: Tensor

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Latents, contexts and freshly sampled attribute codes of some rows, in float32.

        Args:
            index: Rows, (m,).
            rng: Source of the attribute noise.

        Returns:
            Latents, contexts, attribute codes.
        """
        mean, std = self.attribute_mean[index].float(), self.attribute_std[index].float()
        attributes = mean + std * torch.randn(mean.shape, generator=rng)
        return self.latents[index].float(), self.contexts[index].float(), attributes

    def replace(self, start: int, rows: LatentCache) -> None:
        """Overwrite rows from `start` on, so that the augmented views of a long training do not repeat."""
        for name in ("latents", "contexts", "attribute_mean", "attribute_std", "sources"):
            getattr(self, name)[start : start + len(rows)] = getattr(rows, name)


@torch.no_grad()
def build_latent_cache(
    crop_set: CropSet,
    generator: FaceGenerator,
    attributes: FaceAttributes,
    rng: torch.Generator,
    *,
    views: int,
    autocast: bool = False,
) -> LatentCache:
    """Encode augmented views of every crop.

    Args:
        crop_set: Aligned crops of the side that the autoencoder was trained on.
        generator: Holds the autoencoder and the mask; what it lies on does the work.
        attributes: Attribute code.
        rng: Source of the augmentation.
        views: Augmented views per crop; 0 encodes each crop once as it is.
        autocast: Encode in bfloat16; the landmarks stay exact.

    Returns:
        The cache, `max(1, views) * len(crop_set)` rows.
    """
    columns: list[list[Tensor]] = [[], [], [], [], []]
    device = generator.mask.device
    for _ in range(max(1, views)):
        for start in range(0, len(crop_set), 32):
            crops = to_tensor(crop_set.crops[start : start + 32]).to(device)
            if views:
                crops = augment(crops, rng)
            small = reduce_crops(crops)
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                row = (generator.autoencoder.encode(crops), generator.context(crops), *attributes(small))
            for column, value in zip(columns, row, strict=False):
                column.append(value.half().cpu())
            columns[4].append(torch.arange(start, start + len(crops)))
    return LatentCache(*(torch.cat(column).clone() for column in columns))
