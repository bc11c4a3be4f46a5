"""What drawn faces of swapped identities are judged by: the serving oracles and the landmark network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder.attributes import FaceAttributes
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_CHANNELS, LANDMARK_SCALE, from_sheets
from models.encoder.variational import IdentityEncoder
from models.oracles.thresholds import OracleThreshold
from training.data.face_crops import reduce_crops
from training.objectives.privacy import identity_transfer, landmark_distance, oracle_excess, privacy_hinge

_SPREAD_MARGIN = 2.0  # deviations below the threshold that two drawn faces of different identities should keep


class SwapJudge:
    """Reads drawn faces with the oracles and the landmark network.

    Crops of 256 px are taken as well; every network sees them at 128 px.

    Attributes:
        attributes: The attribute code, with the landmark network.
    """

    def __init__(
        self,
        ensemble: nn.Module,
        thresholds: Mapping[str, OracleThreshold],
        attributes: FaceAttributes,
        identity: IdentityEncoder,
        embeddings: Mapping[str, Tensor],
        *,
        margin: float,
        autocast: bool,
    ) -> None:
        """Set the limits.

        Args:
            ensemble: Oracles, crops (n, 3, 128, 128) to embeddings by name.
            thresholds: Thresholds of the oracles that judge.
            attributes: Holds the landmark network.
            identity: Turns embeddings into codes.
            embeddings: Embeddings of the training faces, oracle to (n, d_k), on the CPU.
            margin: Distance of the hinge from the thresholds, in deviations of different people's similarity.
            autocast: Run the oracles in bfloat16.
        """
        self.attributes = attributes
        self._ensemble = ensemble
        self._limits = {name: t.limit(margin) for name, t in thresholds.items()}
        self._spread_limits = {name: t.limit(_SPREAD_MARGIN) for name, t in thresholds.items()}
        self._identity = identity
        self._embeddings = embeddings
        self._autocast = autocast

    @property
    def oracles(self) -> tuple[str, ...]:
        """Names of the oracles that judge."""
        return tuple(self._limits)

    def __call__(
        self,
        faces: Tensor,
        sources: Tensor,
        wanted: Tensor,
        attribute_mean: Tensor,
        weights: Mapping[str, float] | None = None,
    ) -> dict[str, Tensor]:
        """Judge drawn faces.

        Args:
            faces: Crops, (n, 3, 128, 128).
            sources: Index of the source of each face, (n,), on the CPU.
            wanted: Identity code each face was drawn with, (n, d).
            attribute_mean: Mean attribute codes of the sources, (n, c, 8, 8).
            weights: Weight of each oracle in the hinge; without, each counts once.

        Returns:
            Means of the hinge, of its part of each oracle (`hinge_<oracle>`, without weight), of the same hinge between
            each two drawn faces (`spread`: one face for all is no answer), of the identity distance, and of the
            landmark distance over `LANDMARK_SCALE`.
        """
        faces = reduce_crops(faces)
        drawn = self._embed(faces)
        source = {name: table[sources].to(faces.device) for name, table in self._embeddings.items()}
        points = self.attributes.landmark_net(faces)[:, INNER_LANDMARKS]
        pairs = torch.triu_indices(len(faces), len(faces), offset=1)
        offsets = (points - self.attributes.encoder.landmark_mean) / LANDMARK_SCALE
        with torch.no_grad():
            parts = {f"hinge_{name}": part.mean() for name, part in oracle_excess(drawn, source, self._limits).items()}
        return {
            "hinge": privacy_hinge(drawn, source, self._limits, weights).mean(),
            **parts,
            "spread": privacy_hinge(
                {name: table[pairs[0]] for name, table in drawn.items()},
                {name: table[pairs[1]] for name, table in drawn.items()},
                self._spread_limits,
            ).mean(),
            "transfer": identity_transfer(self._identity(drawn), wanted).mean(),
            "landmarks": landmark_distance(offsets, from_sheets(attribute_mean[:, -LANDMARK_CHANNELS:])).mean(),
        }

    @torch.no_grad()
    def margins(self, faces: Tensor, crops: Tensor) -> dict[str, Tensor]:
        """Similarity of drawn faces to the source crops less the limit, both (n, 3, 128, 128).

        Args:
            faces: Drawn faces.
            crops: Crops that they replace.

        Returns:
            Cosine margins of each oracle, (n,); below 0 the oracle accepts.
        """
        drawn, source = self._embed(reduce_crops(faces)), self._embed(reduce_crops(crops))
        return {name: (drawn[name] * source[name]).sum(1) - limit for name, limit in self._limits.items()}

    @torch.no_grad()
    def alikeness(self, faces: Tensor) -> float:
        """Mean cosine similarity between each two faces of a batch, over all oracles; 0 for unrelated people."""
        pairs = torch.triu_indices(len(faces), len(faces), offset=1)
        means = [
            (table[pairs[0]] * table[pairs[1]]).sum(1).mean() for table in self._embed(reduce_crops(faces)).values()
        ]
        return float(torch.stack(means).mean())

    @torch.no_grad()
    def read(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Identity codes (n, d) and inner landmarks (n, 51, 2) in crop pixels of crops (n, 3, 128, 128)."""
        crops = reduce_crops(crops)
        return self._identity(self._embed(crops)), self.attributes.landmark_net(crops)[:, INNER_LANDMARKS]

    def _embed(self, crops: Tensor) -> dict[str, Tensor]:
        # recognizers keep their answer in half precision, landmarks would not
        with torch.autocast(crops.device.type, torch.bfloat16, enabled=self._autocast):
            return {name: F.normalize(codes.float(), dim=1) for name, codes in self._ensemble(crops).items()}
