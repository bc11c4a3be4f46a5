"""Sixty-eight facial landmarks from an aligned crop: the cheap, differentiable signal of pose and expression."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.oracles.chips import FACE_BOX, box_grid
from models.oracles.networks.graph import GraphNet
from models.registry.store import ArtifactStore

_ARTIFACT = "upstream-fr-landmark"
_SIZE = 64
_MARGIN = 0.10
_LUMA = (0.299, 0.587, 0.114)


class LandmarkNet(nn.Module):
    """Landmarks in the 300-W order, from a fixed window of the crop: the median detector box plus a tenth."""

    def __init__(self, network: GraphNet) -> None:
        """Wrap the converted network: (n, 1, 64, 64) gray in [0, 1) to 136 coordinates relative to the window."""
        super().__init__()
        self.network = network
        self.register_buffer("grid", box_grid(FACE_BOX, _SIZE, margin=_MARGIN), persistent=False)
        x0, y0, x1, y1 = FACE_BOX
        width, height = (x1 - x0) * (1 + _MARGIN), (y1 - y0) * (1 + _MARGIN)
        corner = ((x0 + x1 - width) / 2, (y0 + y1 - height) / 2)
        self.register_buffer("corner", torch.tensor(corner), persistent=False)
        self.register_buffer("extent", torch.tensor((width, height)), persistent=False)
        self.register_buffer("luma", torch.tensor(_LUMA).view(1, 3, 1, 1), persistent=False)

    def forward(self, crops: Tensor) -> Tensor:
        """Find the landmarks.

        Args:
            crops: (n, 3, 128, 128) in [-1, 1], aligned by `crop_template()`.

        Returns:
            (n, 68, 2) x, y in crop pixels, pixel centers at integers.
        """
        return self.locate(self.window(crops))

    def window(self, crops: Tensor) -> Tensor:
        """Gray window (n, 1, 64, 64) in [-1, 1] of aligned crops (n, 3, 128, 128): an affine map of them."""
        gray = (crops.float() * self.get_buffer("luma")).sum(1, keepdim=True)
        grid = self.get_buffer("grid").expand(crops.shape[0], -1, -1, -1)
        return F.grid_sample(gray, grid, padding_mode="border", align_corners=False)

    def locate(self, window: Tensor) -> Tensor:
        """Landmarks (n, 68, 2) in crop pixels from gray windows (n, 1, 64, 64)."""
        relative = self.network((window + 1.0) * (127.5 / 256.0)).float().view(-1, 68, 2)
        return relative * self.get_buffer("extent") + self.get_buffer("corner")


def load_landmarks(store: ArtifactStore) -> LandmarkNet:
    """Load the landmark network from its promoted artifact, in evaluation mode."""
    artifact = store.resolve(_ARTIFACT)
    network = GraphNet.from_bytes(artifact.read_bytes("graph.json"), artifact.read_bytes("weights.safetensors"))
    return LandmarkNet(network).eval()
