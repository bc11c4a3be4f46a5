"""The networks that serve, each with what it is shown, for jobs that look at them one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.anonymizer.assembly import Assembly
from models.anonymizer.candidate_test import MARGINS
from models.diffusion.generator import FaceGenerator
from models.faces.mtcnn import MtcnnDetector
from models.oracles.ensemble import SERVING_ORACLES
from training.jobs.format_harm import CodeHarm, EmbeddingHarm, Harm, LandmarkHarm, PictureHarm, ScoreHarm

FAR = 1e-3  # of the thresholds, as an installation has it by default
_MTCNN_PARTS = {"pnet": (128, 0.5), "rnet": (24, 0.6), "onet": (48, 0.6)}  # side in px, score that goes on
_NOISE_LEVELS = (1.0, 0.75, 0.5, 0.25)  # of the four steps
_GUIDANCE = 2.0

NETWORKS = (*SERVING_ORACLES, "landmarks", "attributes", "encoder", "decoder", "denoiser", *_MTCNN_PARTS)


class UnknownNetworkError(ValueError):
    """No network that serves has this name."""


@dataclass(frozen=True, slots=True, eq=False)
class ServedNetwork:
    """One network with inputs of n rows.

    Attributes:
        name: its name, also of its file.
        network: takes the inputs in order; gives a tensor or a tuple of tensors, each of n rows.
        inputs: what it is shown, by name.
        outputs: names of its outputs.
        harm: what another number format does to its outputs.
        shared: inputs that are one for all rows.
        has_free_sides: whether height and width of its first input may change.
    """

    name: str
    network: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    harm: Harm
    shared: frozenset[str] = frozenset()
    has_free_sides: bool = False

    @property
    def rows(self) -> int:
        """Number n of rows."""
        return next(len(value) for name, value in self.inputs.items() if name not in self.shared)

    def take(self, first: int, last: int) -> dict[str, Tensor]:
        """Inputs of the rows from `first` up to `last`, pictures channels last as the service gives them."""
        taken = {name: value if name in self.shared else value[first:last] for name, value in self.inputs.items()}
        layouts = (torch.channels_last if value.ndim == 4 else torch.contiguous_format for value in taken.values())
        return {
            name: value.contiguous(memory_format=layout)
            for (name, value), layout in zip(taken.items(), layouts, strict=True)
        }

    def answer(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Run the network in torch and give its outputs in order."""
        with torch.inference_mode():
            return as_outputs(self.network(*inputs.values()))


def as_outputs(answer: Any) -> tuple[Tensor, ...]:
    """Give the answer of a network as a tuple, also where it is one tensor."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


class _Method(nn.Module):
    """A method of a network as a network."""

    def __init__(self, owner: nn.Module, method: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.owner = owner
        self._method = method

    def forward(self, value: Tensor) -> Tensor:
        return self._method(value)


def served_networks(assembly: Assembly, crops: Tensor, names: tuple[str, ...] = NETWORKS) -> list[ServedNetwork]:
    """Give the networks that serve what they see when they serve, made from crops.

    Args:
        assembly: A working anonymizer.
        crops: Aligned crops in [-1, 1], (n, 3, 128, 128) float32.
        names: Which networks; see `NETWORKS`.

    Returns:
        The networks in the order of the names.

    Raises:
        UnknownNetworkError: There is no network of a name.
    """
    unknown = [name for name in names if name not in NETWORKS]
    if unknown:
        raise UnknownNetworkError(f"no network that serves is called {unknown[0]!r}; known: {', '.join(NETWORKS)}")
    parts = MtcnnDetector().networks if set(names) & set(_MTCNN_PARTS) else {}
    return [_served(name, assembly, crops, parts) for name in names]


def _served(name: str, assembly: Assembly, crops: Tensor, parts: Mapping[str, nn.Module]) -> ServedNetwork:
    if name in SERVING_ORACLES:
        calibrated = assembly.thresholds.get(name, FAR)
        harm = EmbeddingHarm(calibrated.privacy_threshold, calibrated.impostor_std, MARGINS["balanced"])
        return ServedNetwork(name, assembly.ensemble.oracles[name], {"crops": crops}, ("embeddings",), harm)
    if name == "landmarks":
        return ServedNetwork(name, assembly.attributes.landmark_net, {"crops": crops}, ("landmarks",), LandmarkHarm())
    if name == "attributes":
        network = assembly.attributes.encoder
        return ServedNetwork(name, network, {"crops": crops}, ("mean", "deviation"), CodeHarm())
    if name in _MTCNN_PARTS:
        side, threshold = _MTCNN_PARTS[name]
        windows = F.interpolate(crops, size=(side, side), mode="area") if side != crops.shape[-1] else crops
        outputs = ("shifts", "landmarks", "scores") if name == "onet" else ("shifts", "scores")
        harm_ = ScoreHarm(threshold)
        return ServedNetwork(name, parts[name], {"windows": windows}, outputs, harm_, has_free_sides=name == "pnet")
    return _drawing(name, assembly, crops)


@torch.inference_mode()
def _drawing(name: str, assembly: Assembly, crops: Tensor) -> ServedNetwork:
    """Encoder, decoder or denoiser; the states of the denoiser lie on the straight paths from the crops to noise."""
    generator = assembly.generator
    autoencoder = generator.autoencoder
    is_drawn = generator.mask[0, 0] > 0.5
    decode = PictureHarm(autoencoder.decode, is_drawn)
    if name == "encoder":
        blank = crops * (1 - generator.mask)
        return ServedNetwork(name, _Method(autoencoder, autoencoder.encode), {"crops": blank}, ("latents",), decode)
    latents = torch.cat([autoencoder.encode(chunk) for chunk in crops.split(32)])
    if name == "decoder":
        network = _Method(autoencoder, autoencoder.decode)
        return ServedNetwork(name, network, {"latents": latents}, ("crops",), PictureHarm(torch.Tensor.float, is_drawn))
    inputs = _denoiser_inputs(assembly, generator, crops, latents)
    noisy, t = inputs["noisy"], inputs["t"][:, None, None, None]
    harm = PictureHarm(lambda velocity: autoencoder.decode(noisy - t * velocity), is_drawn)
    return ServedNetwork(name, generator.denoiser, inputs, ("velocities",), harm, frozenset({"mask"}))


def _denoiser_inputs(assembly: Assembly, generator: FaceGenerator, crops: Tensor, latents: Tensor) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    t = torch.tensor(_NOISE_LEVELS).repeat(len(crops))[: len(crops)]  # (n,)
    level = t[:, None, None, None]
    identity = torch.randn(len(crops), generator.denoiser.null_identity.shape[1], generator=rng)
    inputs = {
        "noisy": (1 - level) * latents + level * torch.randn(latents.shape, generator=rng),
        "t": t,
        "context": torch.cat([generator.context(chunk) for chunk in crops.split(32)]),
        "mask": generator.latent_mask,
        "attributes": assembly.attributes.sample(crops, rng),
        "identity": F.normalize(identity, dim=1),
    }
    if generator.is_distilled:
        inputs["guidance"] = torch.full((len(crops),), _GUIDANCE)
    return inputs
