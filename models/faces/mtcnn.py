"""The first detector: MTCNN, which also gives landmarks."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models._torchvision_ops import ensure_torchvision_operators
from models.faces.boxes import Box, Face
from models.faces.detector import DetectionError, Look, faces_from_arrays, require_picture
from models.faces.raster import level, pad, unturned_box, window

_MTCNN_DIGESTS: Final = {
    "pnet.pt": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet.pt": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet.pt": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}

_LOOK_SIDE: Final = 48  # px; what the third network is shown
_LOOK_FACTORS: Final = (0.9, 1.0, 1.15, 1.3)  # side of the window over the longer side of the box
_LOOK_SHIFTS: Final = ((0.0, 0.0), (-0.12, 0.0), (0.12, 0.0), (0.0, -0.12), (0.0, 0.12))  # in longer sides


class _ChannelsLast(nn.Module):
    """A network that sees its pictures channels last, which on a CPU makes its pooling several times faster."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor) -> Any:
        return self.network(pictures.contiguous(memory_format=torch.channels_last))


class MtcnnDetector:
    """MTCNN (Zhang et al., 2016) as shipped by facenet-pytorch, wrapped against its traps.

    Its own `forward` fails on ragged batches and it raises on tiny and on very flat pictures, so only `detect` is
    used, one picture at a time, padded to twice the smallest face.
    """

    name = "mtcnn"

    def __init__(
        self,
        min_face_size: int = 20,
        thresholds: tuple[float, float, float] = (0.5, 0.6, 0.6),
        device: torch.device | None = None,
    ) -> None:
        """Verify the installed weights and load them.

        Args:
            min_face_size: Shorter side of the smallest face that is looked for, in pixels.
            thresholds: Scores above which a candidate passes each of the three stages.
            device: Where the networks run; None is the CPU.

        Raises:
            ValueError: A setting is out of range.
            DetectionError: The installed weights are not the expected ones.
        """
        if min_face_size < 12:
            raise ValueError(f"min_face_size must be at least 12 pixels, got {min_face_size}")
        if len(thresholds) != 3 or not all(0.0 < value < 1.0 for value in thresholds):
            raise ValueError(f"expected three thresholds in (0, 1), got {thresholds}")
        _verify_mtcnn_weights()
        ensure_torchvision_operators()
        self._min_face_size = min_face_size
        self._network = importlib.import_module("facenet_pytorch").MTCNN(
            min_face_size=min_face_size,
            thresholds=list(thresholds),
            keep_all=True,
            device=device or torch.device("cpu"),
        )
        self._network.eval()
        for name in ("pnet", "rnet", "onet"):
            setattr(self._network, name, _ChannelsLast(getattr(self._network, name)))

    @property
    def landmark_network(self) -> torch.nn.Module:
        """The third network: windows (n, 3, 48, 48) in [-1, 1] to box shifts, landmarks (n, 10) and scores."""
        network: torch.nn.Module = self._network.onet
        return network

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The three networks by name, `pnet`, `rnet` and `onet`; pictures (n, 3, h, w) in [-1, 1]."""
        return {name: getattr(self._network, name) for name in ("pnet", "rnet", "onet")}

    def detect(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Find faces with landmarks.

        Args:
            pixels: The picture (h, w, 3) uint8 RGB.

        Returns:
            Faces, largest first; boxes may reach over the border.

        Raises:
            DetectionError: The picture is no RGB picture, or the network failed.
        """
        require_picture(pixels)
        side = 2 * self._min_face_size
        padded = pad(level(pixels), max(side, pixels.shape[1]), max(side, pixels.shape[0]))
        try:
            with torch.inference_mode():
                boxes, scores, points = self._network.detect(padded, landmarks=True)
        except Exception as error:
            raise DetectionError(f"{self.name} failed ({type(error).__name__})") from None
        if boxes is None:
            return []
        boxes = np.asarray(boxes, dtype=np.float64)  # (n, 4)
        points = np.asarray(points, dtype=np.float64)  # (n, 5, 2)
        return faces_from_arrays(boxes, np.asarray(scores, dtype=np.float64), points, self.name, pixels.shape)

    def look(self, pixels: NDArray[np.uint8], box: Box, turn: int = 0) -> list[Look]:
        """Show the third network what is in a box, in windows of several sizes and places about it.

        The first two networks only propose windows; the third one alone can say whether there is a face, and where its
        landmarks are. Windows beyond the border are filled with gray, so a face that the border cuts keeps its shape.

        Args:
            pixels: The picture (h, w, 3) uint8 RGB.
            box: Corners x0, y0, x1, y1 in pixels.
            turn: Quarter turns, counterclockwise, after which the face in the box stands upright.

        Returns:
            One answer for each window.

        Raises:
            DetectionError: The picture is no RGB picture, the box is empty, or the network failed.
        """
        require_picture(pixels)
        x0, y0, x1, y1 = unturned_box(box, -turn % 4, np.rot90(pixels, turn).shape)
        side = max(x1 - x0, y1 - y0)
        if not (np.isfinite((x0, y0, x1, y1)).all() and x1 > x0 and y1 > y0):
            raise DetectionError(f"a box must be finite and not empty, got {box}")
        upright = np.rot90(level(pixels), turn)
        center = np.array([(x0 + x1) / 2.0, (y0 + y1) / 2.0])
        windows = [
            (*(center + side * (np.array(shift) - factor / 2.0)), side * factor)
            for factor in _LOOK_FACTORS
            for shift in _LOOK_SHIFTS
        ]  # x0, y0, side
        shown = np.stack([window(upright, (x, y, x + s, y + s), _LOOK_SIDE) for x, y, s in windows])
        shown = np.concatenate([shown, shown[:, :, ::-1]])  # (2 n, 48, 48, 3), the mirrored ones last
        batch = torch.from_numpy(np.ascontiguousarray(shown.transpose(0, 3, 1, 2))).float()
        device = next(self._network.onet.parameters()).device
        try:
            with torch.inference_mode():
                shifts, points, scores = self._network.onet(((batch - 127.5) / 128.0).to(device))
        except Exception as error:
            raise DetectionError(f"{self.name} failed ({type(error).__name__})") from None
        scores = scores[:, 1].double().cpu().numpy().reshape(2, -1)
        points = points.double().cpu().numpy().reshape(2, -1, 2, 5).swapaxes(2, 3)  # (2, n, 5, 2), shares of the window
        points[1] = points[1][:, [1, 0, 2, 4, 3]] * (-1.0, 1.0) + (1.0, 0.0)
        shifts = shifts.double().cpu().numpy().reshape(2, -1, 4)[0]
        if not all(np.isfinite(part).all() for part in (scores, points, shifts)):
            raise DetectionError(f"{self.name} gave a value that is not a number")
        return [
            _look(windows[index], scores[:, index], points[:, index], shifts[index], turn, pixels.shape)
            for index in range(len(windows))
        ]


def _look(
    place: tuple[float, ...],
    scores: NDArray[np.float64],
    points: NDArray[np.float64],
    shift: NDArray[np.float64],
    turn: int,
    shape: tuple[int, ...],
) -> Look:
    """Bring the answer for one window and its mirror image into pixels of the picture."""
    corner, side = np.array(place[:2]), place[2]
    x0, y0, x1, y1 = (np.array([*corner, *(corner + side)]) + shift * side).tolist()
    box = unturned_box((x0, y0, x1, y1), turn, shape)
    both = [
        np.array([unturned_box((x, y, x, y), turn, shape)[:2] for x, y in (corner + one * side).tolist()])
        for one in points
    ]
    return Look(box, (float(scores[0]), float(scores[1])), (both[0], both[1]))


def _verify_mtcnn_weights() -> None:
    """Compare facenet-pytorch's three weight files with their known digests before they are unpickled."""
    package = find_spec("facenet_pytorch")
    folders = list(package.submodule_search_locations or ()) if package else []
    if not folders:
        raise DetectionError("facenet-pytorch is not installed")
    for name, expected in _MTCNN_DIGESTS.items():
        path = Path(folders[0]) / "data" / name
        actual = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if actual != expected:
            raise DetectionError(f"facenet-pytorch's {name} is not the expected file: sha256 {actual}")
