"""Networks and faces that a denoiser is trained with, at the side of crops that a training chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.assembly import load_attributes, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.encoder.attributes import FaceAttributes
from models.encoder.variational import IdentityEncoder
from models.faces.alignment import CROP_SIZE
from models.registry.store import ArtifactStore
from training.data.face_crops import CropSet, load_crop_set
from training.data.face_embeddings import cached_embeddings


@dataclass(frozen=True, slots=True)
class FaceNetworks:
    """Networks that are there before a denoiser is, all on one device and without gradients.

    Attributes:
        autoencoder: Latents of crops of the chosen side.
        identity: Identity codes from the oracles' embeddings.
        attributes: Attribute codes of crops of 128 px.
    """

    autoencoder: LatentAutoencoder
    identity: IdentityEncoder
    attributes: FaceAttributes

    def codes(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Identity codes (n, d) of embeddings (n, d_k), both on the CPU."""
        place = self.identity.offset.device
        return self.identity({name: table.to(place) for name, table in embeddings.items()}).cpu()


@dataclass(frozen=True, slots=True)
class TrainingFaces:
    """Faces of a training.

    Attributes:
        people: All crops, n of them.
        embeddings: Their embeddings, oracle to (n, d_k), on the CPU.
        held: Which are held out, (n,).
    """

    people: CropSet
    embeddings: Mapping[str, Tensor]
    held: NDArray[np.bool_]


def sized_name(name: str, size: int) -> str:
    """Name of the artifact for crops of a side.

    Args:
        name: Name that the service reads.
        size: Side of the crops, pixels.

    Returns:
        That name at the side of the service, and `<name>-<size>` else: what is trained at 256 px is never served.
    """
    return name if size == CROP_SIZE else f"{name}-{size}"


def load_networks(store: ArtifactStore, size: int, device: torch.device) -> FaceNetworks:
    """Load what was trained before.

    Args:
        store: Store with autoencoder, encoder and landmark network.
        size: Side of the crops, pixels.
        device: Where the networks run.

    Returns:
        The networks.

    Raises:
        ValueError: The autoencoder was trained on crops of another side.
    """
    name = sized_name("face-autoencoder", size)
    autoencoder = load_network(store, name, LatentAutoencoder)
    if autoencoder.crop_size != size:
        raise ValueError(f"{name} was trained on crops of {autoencoder.crop_size} px, not of {size} px")
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    return FaceNetworks(autoencoder.to(device), identity.to(device), load_attributes(store).to(device))


def load_faces(folder: Path, size: int, store: ArtifactStore) -> TrainingFaces:
    """Load a crop set and its embeddings, computed when they are not there yet.

    Args:
        folder: Folder of the crop set.
        size: Side of its crops, pixels.
        store: Store with the oracles.

    Returns:
        The faces.
    """
    people = load_crop_set(folder, size)
    return TrainingFaces(people, cached_embeddings(folder, people, store), people.held_out())
