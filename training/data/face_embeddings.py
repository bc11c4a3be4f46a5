"""Oracle embeddings of a crop set, computed once and kept beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.oracles.ensemble import load_ensemble
from models.oracles.thresholds import load_thresholds
from models.registry.store import ArtifactStore
from training.data.face_crops import CropSet, to_tensor


@torch.inference_mode()
def embed_crops(crop_set: CropSet, store: ArtifactStore, *, batch_size: int = 32) -> dict[str, Tensor]:
    """Unit embeddings of every oracle of the serving ensemble, centered by the calibration as at serving.

    Args:
        crop_set: Aligned crops, which the oracles see at 128 px.
        store: Store with the upstream oracles and their calibration.
        batch_size: Crops per pass.

    Returns:
        Embeddings (n, dim) float32 for each oracle's name.
    """
    ensemble = load_ensemble(store, centers=load_thresholds(store).centers)
    starts = range(0, len(crop_set), batch_size)
    small = crop_set.reduced()
    parts = [ensemble(to_tensor(small.crops[start : start + batch_size])) for start in starts]
    return {name: torch.cat([part[name] for part in parts]).float() for name in parts[0]}


def cached_embeddings(folder: Path, crop_set: CropSet, store: ArtifactStore) -> dict[str, Tensor]:
    """Embeddings of a crop set from `embeddings.safetensors` in its folder, computed when missing or outdated.

    Args:
        folder: Folder of the crop set.
        crop_set: The crops in it.
        store: Store with the upstream oracles.

    Returns:
        Embeddings (n, dim) for each oracle's name.
    """
    path = folder / "embeddings.safetensors"
    calibration = str(store.promoted("oracle-thresholds"))
    stamp = hashlib.sha256(calibration.encode() + crop_set.crops.tobytes()).hexdigest()
    if path.is_file():
        stored = load_file(path)
        if bytes(stored.pop("crops_sha256").tolist()).hex() == stamp:
            return stored
    embeddings = embed_crops(crop_set, store)
    mark = torch.tensor(list(bytes.fromhex(stamp)), dtype=torch.uint8)
    save_file({**{k: v.contiguous() for k, v in embeddings.items()}, "crops_sha256": mark}, path)
    return embeddings
