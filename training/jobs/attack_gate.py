"""Job: a client who chooses identity codes searches for a face that passes the gate and still shows the source.

The strongest client there could be: the service draws codes itself and lets nobody choose. The client sees what the
verdict tells, pass or fail and similarities rounded to 0.05, and owns a recognizer that the service does not ask
(`mobileface`). Whether a face that passed shows the source is judged by another (`faceres`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.anonymizer.assembly import assemble
from models.identity.sphere import normalize
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES, load_oracle
from training.algorithm import iterate
from training.jobs.black_box_peers import cma_es
from training.jobs.calibrate_oracles import Half
from training.jobs.code_repair import principal_directions
from training.jobs.searched_faces import SearchedFace, linear_faces, served_faces, source_crops
from training.optimizers.derivative_free.consensus_based_optimization import consensus_based_optimization
from training.problems import BlackBox
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "consensus_based_optimization"
_JUDGE, _OWN = AUDITOR_ORACLES  # faceres judges, mobileface is the client's
_ROUNDING = 0.05
_FAILED = 2.0  # price of a code that the gate refuses; similarities differ by 2 at most
_ARMS = ("consensus", "random", "CMA-ES")


class AttackGateConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of labeled photos; without it heads are rendered")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    half: Half = Field("test", description="people whose faces are attacked")
    linear: bool = Field(False, description="linear stand-ins for faces and recognizers, no artifacts")
    faces: int = Field(10, ge=1)
    queries: int = Field(32, ge=8, description="verdicts per face and arm")
    swarm: int = Field(8, ge=2, description="particles of consensus-based optimization")
    spread: float = Field(1.0, gt=0, description="root mean square length of the first steps from the source's code")
    far: float = Field(1e-3, gt=0, lt=1, description="of the thresholds of gate and judge")
    subspace: int = Field(32, ge=2, description="principal directions of the bank that are searched")
    steps: int = Field(4, ge=1, le=4)


@dataclass(slots=True)
class _Verdicts:
    """The gate as the client sees it, and what the judge thinks of what passed; counts queries."""

    face: SearchedFace
    limits: Mapping[str, float]
    basis: NDArray[np.float64]
    budget: int
    scores: list[tuple[float, float]] = field(default_factory=list)  # client's energy and judge's similarity, passed

    left: int = 0

    def __post_init__(self) -> None:
        self.left = self.budget

    def __call__(self, points: Tensor) -> Tensor:
        """Energies (n,) of points (n, k): minus the client's similarity, and a price where the gate refuses."""
        codes = normalize(self.face.code + points.double().numpy() @ self.basis).astype(np.float32)
        asked = codes[: self.left]
        self.left -= len(asked)
        energies = np.full(len(codes), 2 * _FAILED)
        if len(asked):
            seen, outside = self.face.heard(asked, 0)
            passed = np.all([seen[name] < limit for name, limit in self.limits.items()], axis=0)
            rounded = [np.round(seen[name] / _ROUNDING) * _ROUNDING - limit for name, limit in self.limits.items()]
            price = np.where(passed, 0.0, _FAILED + np.max(rounded, axis=0))
            energies[: len(asked)] = price - outside[_OWN]
            self.scores += zip(energies[: len(asked)][passed], outside[_JUDGE][passed], strict=True)
        return torch.from_numpy(energies)

    @property
    def judged(self) -> float:
        """The judge's similarity of the face that the client would take: the lowest energy that passed; else NaN."""
        return min(self.scores)[1] if self.scores else float("nan")


def run(config: AttackGateConfig, context: RunContext) -> Report:
    """Attack every face in every way at equal queries.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.
    """
    faces, limits, threshold, basis = _faces(config, context)
    found: dict[str, list[float]] = {arm: [] for arm in _ARMS}
    for number, face in enumerate(faces):
        for arm in _ARMS:
            verdicts = _Verdicts(face, limits, basis, config.queries)
            _attack(arm, verdicts, config, config.seed + number + 1)
            found[arm].append(verdicts.judged)
        context.log({f"{arm}: similarity to the judge": results[-1] for arm, results in found.items()})
    measures = _measures(threshold)
    rows = [
        {"attacker": arm, "faces": len(results), **{name: value(results) for name, value in measures.items()}}
        for arm, results in found.items()
    ]
    metrics = {
        "threshold of the judge": threshold,
        **{f"{arm}: unsafe releases": measures["share of faces released unsafe"](r) for arm, r in found.items()},
    }
    checks = [Check("faces attacked by every arm", float(len(faces)), float(min(map(len, found.values()))))]
    return Report(
        metrics, checks, tables={"attacks": rows, "in the service": in_the_service(found, threshold, config.queries)}
    )


def in_the_service(found: Mapping[str, Sequence[float]], threshold: float, queries: int) -> list[Mapping[str, object]]:
    """Rows of the table of service uses: the swarm against random codes and CMA-ES; attackers want more."""
    return [
        {
            "method": _METHOD,
            "job": f"attack the gate with chosen codes, {queries} verdicts; plain: {plain}",
            "measure": measure,
            "without": value(found[plain]),
            "with": value(found["consensus"]),
            "n": len(found["consensus"]),
        }
        for plain in ("random", "CMA-ES")
        for measure, value in _measures(threshold).items()
        if all(np.isfinite(value(found[arm])) for arm in (plain, "consensus"))
    ]


def _faces(
    config: AttackGateConfig, context: RunContext
) -> tuple[Sequence[SearchedFace], Mapping[str, float], float, NDArray[np.float64]]:
    """Faces, limits of the gate, threshold of the judge, and the directions searched (k, d)."""
    if config.linear:
        faces, manifold = linear_faces(config.faces, seed=config.seed)
        limits = dict.fromkeys(faces[0].similarities(faces[0].code[None], 0), 0.3)
        return faces, limits, 0.3, principal_directions(manifold.bank, manifold.dim)
    assembly = assemble(context.store)
    at_far = assembly.thresholds.at(config.far, (*SERVING_ORACLES, _JUDGE))
    limits = {name: at_far[name].privacy_threshold for name in SERVING_ORACLES}
    centers = assembly.thresholds.centers
    auditors = [load_oracle(context.store, name, center=centers.get(name)) for name in AUDITOR_ORACLES]
    rng = np.random.default_rng(config.seed)
    crops = source_crops(config.folder, config.landmarks, config.half, config.faces, assembly, rng)
    served = served_faces(crops, assembly, context.store, auditors, steps=config.steps, seed=config.seed)
    basis = principal_directions(assembly.manifold.bank, config.subspace)
    return served, limits, at_far[_JUDGE].privacy_threshold, basis


def _attack(arm: str, verdicts: _Verdicts, config: AttackGateConfig, seed: int) -> None:
    dim = len(verdicts.basis)
    start, sigma = torch.zeros(dim, dtype=torch.float64), config.spread / np.sqrt(dim)
    if arm == "CMA-ES":
        cma_es(verdicts, start, sigma=sigma, budget=config.queries, seed=seed)
        return
    if arm == "random":
        generator = torch.Generator().manual_seed(seed)
        # of all sizes up to twice the spread, so that no width has to be guessed
        widths = 2 * sigma * torch.rand(config.queries, 1, generator=generator, dtype=torch.float64)
        verdicts(widths * torch.randn(config.queries, dim, generator=generator, dtype=torch.float64))
        return
    swarm = consensus_based_optimization(
        BlackBox(verdicts), num_particles=config.swarm, diffusion=2.0, radius=sigma, cloud="normal", alpha=30.0
    )
    for _ in iterate(swarm, start, seed=seed):
        if verdicts.left <= 0:
            return


def _measures(threshold: float) -> Mapping[str, Callable[[Sequence[float]], float]]:
    return {
        "share of faces with a code that passes": lambda found: float(np.isfinite(found).mean()),
        "share of faces released unsafe": lambda found: float((np.nan_to_num(found, nan=-1.0) >= threshold).mean()),
        "similarity to the held-out judge, mean of the passed": lambda found: (
            float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
        ),
    }


JOB = Job(
    name="attack-gate",
    summary="a client who chooses codes searches for faces that pass the gate and still show the source",
    source=Source(
        "Gradient is All You Need? How Consensus-Based Optimization can be Interpreted as a Stochastic Relaxation of "
        "Gradient Descent",
        "https://arxiv.org/abs/2306.09778",
        2023,
    ),
    config=AttackGateConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"linear": True}},
)
