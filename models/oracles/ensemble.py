"""Face-recognition oracles on aligned crops: one fixed chip per network, unit-norm and centered embeddings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.faces.alignment import CROP_SIZE
from models.oracles.chips import FACE_BOX, arcface_grid, box_grid, dlib_grid
from models.oracles.networks.dlib_resnet import DlibResNet
from models.oracles.networks.graph import GraphNet
from models.registry.store import Artifact, ArtifactStore

SERVING_ORACLES = ("fr_feature", "mfn", "dlib")
AUDITOR_ORACLES = ("faceres", "mobileface")

# Without a common offset removed, the cosine of two strangers is far from zero for these networks.
CENTERED_ORACLES = ("dlib", "faceres")


class UnknownOracleError(ValueError):
    """No oracle has this name."""


@dataclass(frozen=True, slots=True)
class OracleSpec:
    """How one network wants its input: artifact, dimension, chip grid, `(x - mean) / scale` of RGB in 0..255."""

    artifact: str
    dim: int
    grid: Callable[[], Tensor]
    mean: tuple[float, float, float]
    scale: float
    bgr: bool = False


ORACLES: Mapping[str, OracleSpec] = {
    "fr_feature": OracleSpec("upstream-fr-feature", 512, arcface_grid, (127.0, 127.0, 127.0), 128.0),
    "mfn": OracleSpec("upstream-mfn", 192, arcface_grid, (127.5, 127.5, 127.5), 128.0),
    "dlib": OracleSpec("upstream-dlib", 128, dlib_grid, DlibResNet.INPUT_MEAN, 256.0),
    "faceres": OracleSpec(
        "upstream-faceres", 1024, lambda: box_grid(FACE_BOX, 224, margin=0.2), (123.68, 116.779, 103.939), 1.0, bgr=True
    ),
    "mobileface": OracleSpec("upstream-mobileface", 256, arcface_grid, (0.0, 0.0, 0.0), 1.0),
}


class Oracle(nn.Module):
    """A frozen face-recognition network behind a fixed chip; differentiable in the crops."""

    def __init__(self, name: str, network: nn.Module, spec: OracleSpec) -> None:
        """Wrap a network.

        Args:
            name: name of the oracle.
            network: chips (n, 3, size, size), normalized as the spec says, to features (n, dim).
            spec: input conventions.
        """
        super().__init__()
        self.name = name
        self.dim = spec.dim
        self.network = network
        self._bgr = spec.bgr
        mean = torch.tensor(spec.mean).view(1, 3, 1, 1)
        # crops are x = rgb / 127.5 - 1, so (rgb - mean) / scale is this affine map of x
        self.register_buffer("_gain", torch.full((1, 3, 1, 1), 127.5 / spec.scale), persistent=False)
        self.register_buffer("_offset", (127.5 - mean) / spec.scale, persistent=False)
        self.register_buffer("_grid", spec.grid(), persistent=False)
        self.register_buffer("_center", torch.zeros(spec.dim), persistent=False)
        self._is_centered = False

    @property
    def is_centered(self) -> bool:
        """Whether a calibration mean is subtracted."""
        return self._is_centered

    def set_center(self, mean: Tensor | None) -> None:
        """Set the mean of unit-norm embeddings to subtract, or remove it.

        Args:
            mean: (dim,), from calibration; None for raw embeddings.

        Raises:
            ValueError: wrong shape or not finite.
        """
        center = torch.zeros(self.dim) if mean is None else mean.detach().float()
        if center.shape != (self.dim,) or not bool(torch.isfinite(center).all()):
            raise ValueError(f"center of {self.name} must be finite of shape ({self.dim},), got {tuple(center.shape)}")
        self._center = center.to(self.get_buffer("_center").device).clone()
        self._is_centered = mean is not None

    def chip(self, crops: Tensor) -> Tensor:
        """Cut and normalize the network's own input out of aligned crops.

        Args:
            crops: (n, 3, 128, 128) in [-1, 1], aligned by `crop_template()`.

        Returns:
            Chips (n, 3, size, size).

        Raises:
            ValueError: the crops have another shape.
        """
        if crops.ndim != 4 or crops.shape[1:] != (3, CROP_SIZE, CROP_SIZE):
            raise ValueError(f"crops must have shape (n, 3, {CROP_SIZE}, {CROP_SIZE}), got {tuple(crops.shape)}")
        grid = self.get_buffer("_grid").expand(crops.shape[0], -1, -1, -1)
        sampled = F.grid_sample(crops.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        chips = torch.addcmul(self.get_buffer("_offset"), sampled, self.get_buffer("_gain"))
        return chips.flip(1) if self._bgr else chips

    def forward(self, crops: Tensor) -> Tensor:
        """Embed aligned crops.

        Args:
            crops: (n, 3, 128, 128) float in [-1, 1], aligned by `crop_template()`.

        Returns:
            (n, dim), unit norm; centered when a calibration mean is set.
        """
        embeddings = F.normalize(self.network(self.chip(crops)).float(), dim=1)
        if self._is_centered:
            embeddings = F.normalize(embeddings - self.get_buffer("_center"), dim=1)
        return embeddings


class OracleEnsemble(nn.Module):
    """Several oracles on the same crops."""

    def __init__(self, oracles: Sequence[Oracle]) -> None:
        """Collect oracles; their order is the order of the result.

        Args:
            oracles: at least one, names all different.

        Raises:
            ValueError: empty, or a name occurs twice.
        """
        super().__init__()
        names = [oracle.name for oracle in oracles]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"an ensemble needs oracles with different names, got {names}")
        self._oracles = nn.ModuleList(oracles)

    @property
    def oracles(self) -> Mapping[str, Oracle]:
        """Oracles by name, in order."""
        return {oracle.name: oracle for oracle in self._oracles if isinstance(oracle, Oracle)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the oracles, in order."""
        return tuple(self.oracles)

    def set_centers(self, centers: Mapping[str, Tensor]) -> None:
        """Center the oracles that have a calibration mean and leave the others raw.

        Args:
            centers: calibration means by oracle name; means of oracles outside the ensemble are ignored.
        """
        for name, oracle in self.oracles.items():
            oracle.set_center(centers.get(name))

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Return the embeddings (n, dim) of aligned crops (n, 3, 128, 128) for each oracle."""
        return {name: oracle(crops) for name, oracle in self.oracles.items()}

    def similarities(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """Compare crops pairwise, both sides in one pass through each network.

        Args:
            first: (n, 3, 128, 128) in [-1, 1].
            second: same shape.

        Returns:
            Cosine similarities (n,) by oracle.

        Raises:
            ValueError: the shapes differ.
        """
        if first.shape != second.shape:
            raise ValueError(f"crops must come in pairs, got shapes {tuple(first.shape)} and {tuple(second.shape)}")
        result: dict[str, Tensor] = {}
        for name, embeddings in self(torch.cat([first, second])).items():
            left, right = embeddings.chunk(2)
            result[name] = (left * right).sum(1)
        return result


def load_oracle(store: ArtifactStore, name: str, *, center: Tensor | None = None) -> Oracle:
    """Load one oracle from its promoted artifact.

    Args:
        store: the artifact store.
        name: one of `ORACLES`.
        center: calibration mean to subtract; None for raw embeddings.

    Returns:
        The oracle in evaluation mode.

    Raises:
        UnknownOracleError: no oracle has this name.
    """
    if name not in ORACLES:
        raise UnknownOracleError(f"unknown oracle {name!r}; known: {', '.join(ORACLES)}")
    spec = ORACLES[name]
    oracle = Oracle(name, _network(store.resolve(spec.artifact)), spec)
    oracle.set_center(center)
    return oracle.eval()


def load_ensemble(
    store: ArtifactStore, names: Sequence[str] = SERVING_ORACLES, *, centers: Mapping[str, Tensor] | None = None
) -> OracleEnsemble:
    """Load several oracles.

    Args:
        store: the artifact store.
        names: oracle names, in the order of the result.
        centers: calibration means (`Thresholds.centers`); None leaves every oracle raw.

    Returns:
        The ensemble in evaluation mode.
    """
    known = centers or {}
    return OracleEnsemble([load_oracle(store, name, center=known.get(name)) for name in names]).eval()


def _network(artifact: Artifact) -> nn.Module:
    architecture = artifact.manifest.config.get("architecture")
    if architecture == "dlib_resnet":
        return DlibResNet.from_bytes(artifact.read_bytes("weights.safetensors"))
    if architecture == "graph":
        return GraphNet.from_bytes(artifact.read_bytes("graph.json"), artifact.read_bytes("weights.safetensors"))
    raise UnknownOracleError(f"{artifact.manifest.name} has unknown architecture {architecture!r}")
