"""Source crops to oracle embeddings, identity code and attribute code, for all faces of a batch at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from models.anonymizer.face_work import FaceWork, present, run_isolated
from models.anonymizer.faults import FaultObserver
from models.anonymizer.interfaces import AttributeEncoder, AttributeLimiter, Ensemble, IdentityEncoder
from models.anonymizer.oracle_views import as_batch, embed
from models.anonymizer.randomness import torch_stream
from models.anonymizer.source_record import SourceRecord
from models.anonymizer.verdict import Reason
from models.encoder.landmark_code import LANDMARK_CHANNELS
from models.encoder.levels import Level

_NORM_TOLERANCE = 1e-2


class SourceEncoder:
    """Runs the networks that look at source faces."""

    def __init__(
        self,
        ensemble: Ensemble,
        oracles: Collection[str],
        identity_encoder: IdentityEncoder,
        attribute_encoder: AttributeEncoder,
        levels: AttributeLimiter,
        device: torch.device,
        observer: FaultObserver,
    ) -> None:
        """Take the networks.

        Args:
            ensemble: the oracles.
            oracles: the names that must answer.
            identity_encoder: embeddings to identity code.
            attribute_encoder: crop to attribute distribution.
            levels: what the level of a policy lets the attribute code tell.
            device: where they run.
            observer: told of every fault.
        """
        self._ensemble = ensemble
        self._oracles = tuple(oracles)
        self._identity_encoder = identity_encoder
        self._attribute_encoder = attribute_encoder
        self._levels = levels
        self._device = device
        self._observer = observer

    def remember(self, faces: Sequence[FaceWork]) -> None:
        """Embed aligned source faces once and keep the records the gate needs; marks the faces where that fails."""
        faces = [face for face in faces if face.aligned is not None]
        run_isolated(faces, self._remember, Reason.ORACLE_FAILED, self._observer)
        for face in faces:
            if face.source is None:
                face.source = SourceRecord(present(face.aligned), present(face.landmarks), None)

    def encode(self, faces: Sequence[FaceWork]) -> None:
        """Compute identity and attribute codes of the faces to be replaced; marks the faces where that fails."""
        faces = [face for face in faces if face.is_synthetic and face.fault is None]
        run_isolated(faces, self._encode, Reason.ENCODER_FAILED, self._observer)

    def _remember(self, faces: Sequence[FaceWork]) -> None:
        answers = embed(self._ensemble, self._crops(faces), self._oracles)
        for row, face in enumerate(faces):
            embeddings = {name: answer[row].clone() for name, answer in answers.items()}
            if not all(bool(torch.isfinite(vector).all()) for vector in embeddings.values()):
                face.fault = Reason.ORACLE_FAILED
                continue
            face.source = SourceRecord(present(face.aligned), present(face.landmarks), embeddings)

    def _encode(self, faces: Sequence[FaceWork]) -> None:
        records = [present(present(face.source).embeddings) for face in faces]
        stacked = {
            name: torch.stack([record[name] for record in records]).float().to(self._device) for name in self._oracles
        }
        with torch.inference_mode():
            codes = self._identity_encoder(stacked)  # (n, d)
            crops = self._crops(faces)
            mean, std = self._attribute_encoder(crops)  # (n, c, h, w) each
            limited = torch.empty_like(mean)
            for level in {face.policy.level for face in faces}:
                rows = [row for row, face in enumerate(faces) if face.policy.level == level]
                part = self._levels(level, crops[rows], mean[rows])
                if part.shape != (len(rows), *mean.shape[1:]):  # one row would be given to every face
                    raise ValueError(f"a level must keep the shape of the codes, got {tuple(part.shape)}")
                limited[rows] = part
        if codes.ndim != 2 or codes.shape[0] != len(faces) or mean.shape != std.shape or mean.shape[0] != len(faces):
            raise ValueError(f"encoders must give one code per face, got {tuple(codes.shape)}, {tuple(mean.shape)}")
        codes, mean, std = codes.float().cpu(), limited.float().cpu(), std.float().cpu()
        for row, face in enumerate(faces):
            attribute_code = mean[row] + std[row] * attribute_noise(
                mean.shape[1:], face.attribute_seed, face.policy.level
            )
            norm_error = abs(float(codes[row].norm()) - 1.0)
            # a NaN fails both comparisons
            if not norm_error <= _NORM_TOLERANCE or not bool(
                torch.isfinite(attribute_code).all() & (std[row] >= 0).all()
            ):
                face.fault = Reason.ENCODER_FAILED
                continue
            code = codes[row].numpy().astype(np.float64)
            face.identity_code = (code / np.linalg.norm(code)).astype(np.float32)
            face.attribute_code = attribute_code

    def _crops(self, faces: Sequence[FaceWork]) -> Tensor:
        return as_batch([present(face.aligned).crop for face in faces]).to(self._device)


def attribute_noise(shape: Sequence[int], seed: bytes, level: Level) -> Tensor:
    """Draw the noise of one attribute code.

    Two levels give a part of the code the same noise where its mean is the same, and independent noise where it is
    not: nobody who has one picture at two levels can average the noise out, nor cancel it to read the difference.

    Args:
        shape: of the code, (c, h, w), the landmarks in the last two channels.
        seed: secret of the face.
        level: level of the policy.

    Returns:
        Standard normal noise (c, h, w).
    """
    learned = torch.randn(*shape, generator=torch_stream(seed, 0, int(level == "faithful")))
    landmarks = torch.randn(*shape, generator=torch_stream(seed, 1, int(level == "strict")))
    return torch.cat([learned[:-LANDMARK_CHANNELS], landmarks[-LANDMARK_CHANNELS:]])
