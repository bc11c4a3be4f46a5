"""Job: a client who chooses identity codes searches for a face that passes the gate and still shows the source.

The strongest client there could be: the service draws codes itself and lets nobody choose. The client sees what the
verdict tells, pass or fail and similarities rounded to 0.05, and owns a recognizer that the service does not ask
(`mobileface`). Whether a face that passed shows the source is judged by another (`faceres`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.identity.sphere import Codes, normalize
from models.oracles.ensemble import AUDITOR_ORACLES
from training.algorithm import iterate
from training.jobs.black_box_peers import cma_es
from training.jobs.face_search import FaceSearchConfig, load_face_search
from training.jobs.searched_faces import SearchedFace
from training.optimizers.derivative_free.consensus_based_optimization import consensus_based_optimization
from training.problems import BlackBox
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "consensus_based_optimization"
_JUDGE, _OWN = AUDITOR_ORACLES  # faceres judges, mobileface is the client's
_ROUNDING = 0.05
_FAILED = 2.0  # price of a code that the gate refuses; similarities differ by 2 at most
_STAND_IN_LIMIT = 0.3
_ARMS = ("consensus", "random", "CMA-ES")


class AttackGateConfig(FaceSearchConfig):
    """Settings of the run."""

    faces: int = Field(22, ge=1, description="people whose faces are attacked")
    queries: int = Field(32, ge=8, description="verdicts per face and arm")
    swarm: int = Field(8, ge=2, description="particles of consensus-based optimization")
    spread: float = Field(1.0, gt=0, description="root mean square length of the first steps from the source's code")


@dataclass(slots=True)
class _Verdicts:
    """The gate as the client sees it; counts queries and remembers the code that passed with the lowest energy."""

    face: SearchedFace
    limits: Mapping[str, float]
    basis: NDArray[np.float64]
    budget: int
    taken: tuple[float, Codes] | None = None
    left: int = field(init=False)

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
            for index in np.flatnonzero(passed).tolist():
                if self.taken is None or energies[index] < self.taken[0]:
                    self.taken = (float(energies[index]), asked[index])
        return torch.from_numpy(energies)

    def judged(self, judge: SearchedFace) -> float:
        """The judge's similarity of the face that the client takes, heard by the judge alone; NaN if none passed."""
        return float("nan") if self.taken is None else float(judge.heard(self.taken[1][None], 0)[1][_JUDGE][0])


def run(config: AttackGateConfig, context: RunContext) -> Report:
    """Attack every face in every way at equal queries.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.
    """
    search = load_face_search(
        config, context, np.random.default_rng(config.seed), judges=(_JUDGE,), stand_in_limit=_STAND_IN_LIMIT
    )
    limits = search.limits(0.0)
    threshold = search.at_far[_JUDGE].privacy_threshold if search.at_far else _STAND_IN_LIMIT
    found: dict[str, list[float]] = {arm: [] for arm in _ARMS}
    # the judge hears one face of every arm only: what it says of the others nobody asks
    for number, (face, judge) in enumerate(zip(search.serve((_OWN,)), search.serve((_JUDGE,)), strict=True)):
        for arm in _ARMS:
            verdicts = _Verdicts(face, limits, search.basis, config.queries)
            _attack(arm, verdicts, config, config.seed + number + 1)
            found[arm].append(verdicts.judged(judge))
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
    checks = [
        Check("faces attacked by every arm", float(max(map(len, found.values()))), float(min(map(len, found.values()))))
    ]
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "attacks": rows,
        "in the service": in_the_service(found, threshold, config.queries),
        "artifacts": search.artifacts(),
    }
    return Report(metrics, checks, tables=tables)


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
    presets={"smoke": {"linear": True, "faces": 10}},
)
