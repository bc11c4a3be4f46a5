"""What the jobs that search over identity codes share: whose faces, against which limits, in which directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.anonymizer.assembly import assemble
from models.identity.manifold import IdentityManifold
from models.oracles.ensemble import SERVING_ORACLES, load_oracle
from models.oracles.thresholds import OracleThreshold
from training.jobs.calibrate_oracles import Half
from training.jobs.code_repair import principal_directions
from training.jobs.searched_faces import SearchedFace, linear_faces, served_faces, source_crops
from training.runs.config import JobConfig
from training.runs.context import RunContext

_BLOCK = 8  # faces encoded before the first of them is searched
_STAND_IN_SCALE = 0.2


class FaceSearchConfig(JobConfig):
    """Settings of a search over identity codes."""

    folder: Path | None = Field(None, description="folder of labeled photos; without it heads are rendered")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    half: Half = Field("test", description="people whose faces are taken")
    linear: bool = Field(False, description="linear stand-ins for faces and recognizers, no artifacts")
    far: float = Field(1e-3, gt=0, lt=1, description="false-accept rate of the thresholds")
    subspace: int = Field(32, ge=2, description="principal directions of the bank that are searched or preferred")
    steps: int = Field(4, ge=1, le=4, description="denoising steps")
    faces: int = Field(10, ge=1, description="people whose faces are taken, at most")


@dataclass(frozen=True, slots=True)
class FaceSearch:
    """Faces to search for, and what a search needs to know of the service.

    Attributes:
        serve: Gives the faces one after another, heard by the auditors named; the same ones at every call.
        manifold: Proposals.
        at_far: Thresholds by recognizer; empty for stand-ins.
        stand_ins: Limit of each stand-in by name; empty for served faces.
        basis: Principal directions of the bank, orthonormal rows (k, d).
        versions: Version of every artifact that was loaded, by name; empty for stand-ins.
    """

    serve: Callable[[Sequence[str]], Iterator[SearchedFace]]
    manifold: IdentityManifold
    at_far: Mapping[str, OracleThreshold]
    stand_ins: Mapping[str, float]
    basis: NDArray[np.float64]
    versions: Mapping[str, str]

    def limits(self, margin: float) -> dict[str, float]:
        """Similarity not to be reached, by serving oracle; the margin is in standard deviations of impostors."""
        served = {name: self.at_far[name].limit(margin) for name in SERVING_ORACLES if name in self.at_far}
        return {**served, **self.stand_ins}

    def scales(self) -> dict[str, float]:
        """Unit of each serving oracle's excess over its limit."""
        served = {name: self.at_far[name].impostor_std for name in SERVING_ORACLES if name in self.at_far}
        return {**served, **dict.fromkeys(self.stand_ins, _STAND_IN_SCALE)}

    def artifacts(self) -> list[dict[str, str]]:
        """Rows of the table "artifacts" of a report: what was loaded, generator and oracles among it."""
        return [{"artifact": name, "version": version} for name, version in sorted(self.versions.items())]


def load_face_search(
    config: FaceSearchConfig,
    context: RunContext,
    rng: np.random.Generator,
    *,
    judges: Sequence[str] = (),
    stand_in_limit: float,
) -> FaceSearch:
    """Load the service's networks and photos, or draw stand-ins.

    Args:
        config: Settings.
        context: Has the artifact store.
        rng: Chooses people.
        judges: Recognizers that the service does not ask and whose thresholds are wanted too.
        stand_in_limit: Limit of every stand-in.

    Returns:
        The search; served faces are encoded as they are asked for.
    """
    if config.linear:
        stand_ins, manifold = linear_faces(config.faces, seed=config.seed)
        names = stand_ins[0].similarities(stand_ins[0].code[None], 0)
        basis = principal_directions(manifold.bank, min(config.subspace, manifold.dim))
        return FaceSearch(
            lambda auditors: iter(stand_ins), manifold, {}, dict.fromkeys(names, stand_in_limit), basis, {}
        )
    assembly = assemble(context.store)
    at_far = assembly.thresholds.at(config.far, (*SERVING_ORACLES, *judges))
    crops = source_crops(config.folder, config.landmarks, config.half, config.faces, assembly, rng)

    def serve(auditors: Sequence[str]) -> Iterator[SearchedFace]:
        centers = assembly.thresholds.centers
        oracles = [load_oracle(context.store, name, center=centers.get(name)) for name in auditors]
        for start in range(0, len(crops), _BLOCK):
            part, seed = crops[start : start + _BLOCK], config.seed + start
            yield from served_faces(part, assembly, context.store, oracles, steps=config.steps, seed=seed)

    basis = principal_directions(assembly.manifold.bank, min(config.subspace, assembly.manifold.dim))
    return FaceSearch(serve, assembly.manifold, at_far, {}, basis, assembly.versions)
