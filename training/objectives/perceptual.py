"""Features of a face recognizer for the perceptual distance."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from models.oracles.ensemble import load_oracle
from models.oracles.networks.dlib_resnet import DlibResNet
from models.registry.store import ArtifactStore
from training.data.face_crops import reduce_crops
from training.objectives.reconstruction import Features


def recognizer_features(store: ArtifactStore, device: torch.device | None = None) -> Features:
    """Feature maps at four depths of the dlib recognizer, as a function of aligned crops.

    Args:
        store: Store that holds `upstream-dlib`.
        device: Where the network runs; the CPU by default.

    Returns:
        Function from crops (n, 3, s, s) in [-1, 1], which it sees at 128 px, to four feature maps.
    """
    oracle = load_oracle(store, "dlib").to(device or torch.device("cpu"))
    network = cast(DlibResNet, oracle.network)

    def features(crops: Tensor) -> list[Tensor]:
        return network.features(oracle.chip(reduce_crops(crops)))

    return features
