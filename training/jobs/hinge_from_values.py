"""Job: the slope of the privacy hinge behind an oracle that answers and cannot be differentiated, from its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.identity.sphere import tangent_noise
from training.jobs.face_search import FaceSearchConfig, load_face_search
from training.jobs.searched_faces import SearchedFace
from training.optimizers.derivative_free.zeroth_order_family.estimators import simultaneous_perturbation
from training.optimizers.derivative_free.zeroth_order_family.probes import Draw, expected_cosine, guided, orthogonal
from training.problems import BlackBox
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "zeroth_order_family"
_SHARE = 0.1  # of the variance of guided probes that is spent on all directions
_ARMS = ("true gradient", "from values", "ignored")


class HingeFromValuesConfig(FaceSearchConfig):
    """Settings of the run."""

    faces: int = Field(28, ge=2, description="people whose faces are taken")
    black_box: str = Field("mfn", description="serving oracle whose gradient is hidden")
    probes: tuple[int, ...] = Field((4, 16), min_length=1, description="two oracle calls each")
    smoothing: float = Field(0.05, gt=0, description="half width of a difference, radians")
    margin: float = Field(1.0, ge=0, le=3, description="distance from the thresholds, in deviations")
    start: float = Field(0.0, ge=0, lt=1.5, description="angle of the start from the source's own code, radians")
    descent_steps: int = Field(4, ge=1)
    descent_probes: int = Field(8, ge=1, description="probes of every step of the descent")
    descent_draw: Literal["guided", "orthogonal"] = Field("guided", description="which probes it takes")
    step: float = Field(0.1, gt=0, description="angle of every step, radians")
    steps: int = Field(1, ge=1, le=4, description="denoising steps; one as in training on drawn faces")


def run(config: HingeFromValuesConfig, context: RunContext) -> Report:
    """Estimate slopes, compare with autograd, descend with and without them.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.

    Raises:
        ValueError: No serving oracle has the name of `black_box`.
    """
    search = load_face_search(config, context, np.random.default_rng(config.seed), stand_in_limit=0.1)
    limits, basis = search.limits(config.margin), torch.from_numpy(search.basis)
    hidden = config.black_box
    if hidden not in limits:
        raise ValueError(f"black_box must be one of {sorted(limits)}, got {hidden!r}")
    draws: Mapping[str, Draw] = {"orthogonal": orthogonal, "guided": guided(basis, share=_SHARE)}
    cosines: dict[tuple[str, int], list[float]] = {(kind, q): [] for kind in draws for q in config.probes}
    ends: dict[str, list[Mapping[str, float]]] = {arm: [] for arm in _ARMS}
    starts: list[float] = []
    for number, face in enumerate(search.serve(())):
        start = _start(face, config, number)
        starts.append(float(_similarity(face, hidden)(start[None]).detach()[0]))
        true = _tangent(_slope_above(face, hidden, start, -math.inf), start)
        for (kind, q), found in cosines.items():
            generator = torch.Generator().manual_seed(config.seed + number)
            estimate = _estimate(face, hidden, start, q, draws[kind], config.smoothing, generator)
            found.append(float(functional.cosine_similarity(estimate, true, dim=0)))
        for arm in _ARMS:
            ends[arm].append(
                _descend(face, start, hidden, limits, arm, draws[config.descent_draw], config, config.seed + number)
            )
        context.log({f"{kind} {q}": found[-1] for (kind, q), found in cosines.items()})
        context.log({arm: found[-1][hidden] - limits[hidden] for arm, found in ends.items()})
    dim = search.manifold.dim
    rows = [
        {"probes": kind, "calls": 2 * q, "cosine": _mean(found), "law, orthogonal": expected_cosine(dim - 1, q)}
        for (kind, q), found in cosines.items()
        if q < dim
    ]
    descents = [_descent_row(arm, found, limits, hidden, config) for arm, found in ends.items()]
    largest = max(q for q in config.probes if q < dim)
    law = expected_cosine(dim - 1, largest)
    checks = [
        Check(
            f"cosine of {largest} orthogonal probes to the gradient: mean",
            law,
            _mean(cosines["orthogonal", largest]),
            0.15,
        )
    ]
    metrics = {"similarity to the hidden oracle at the start": _mean(starts), "limit": limits[hidden]}
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "cosine to the gradient": rows,
        "descent of the hinge": descents,
        "in the service": in_the_service(cosines, ends, limits, hidden, config),
        "artifacts": search.artifacts(),
    }
    return Report(metrics, checks, tables=tables)


def in_the_service(
    cosines: Mapping[tuple[str, int], Sequence[float]],
    ends: Mapping[str, Sequence[Mapping[str, float]]],
    limits: Mapping[str, float],
    hidden: str,
    config: HingeFromValuesConfig,
) -> list[Mapping[str, object]]:
    """Rows of the table of service uses: the hidden oracle asked for values, ignored, or differentiated after all."""
    job = f"hinge of {hidden} from {2 * config.descent_probes} calls a step; plain: "
    n = len(ends["ignored"])
    rows: list[Mapping[str, object]] = []
    for plain in ("ignored", "true gradient"):
        for measure, value in _MEASURES.items():
            rows.append(
                {
                    "method": _METHOD,
                    "job": job + plain,
                    "measure": measure,
                    "without": value(ends[plain], limits, hidden),
                    "with": value(ends["from values"], limits, hidden),
                    "n": n,
                }
            )
    rows += [
        {
            "method": _METHOD,
            "job": f"slope of {hidden} from {2 * q} calls; plain: orthogonal probes of all directions",
            "measure": "cosine of guided probes to the gradient",
            "without": _mean(cosines["orthogonal", q]),
            "with": _mean(cosines["guided", q]),
            "n": n,
        }
        for q in config.probes
    ]
    return rows


def _similarity(face: SearchedFace, name: str) -> Callable[[Tensor], Tensor]:
    return lambda codes: face.similarity(name, codes, 0)


def _slope_above(face: SearchedFace, name: str, code: Tensor, limit: float) -> Tensor:
    """Gradient (d,) of one similarity at a code (d,) where it lies above the limit, zero elsewhere; one drawing."""
    leaf = code.clone().requires_grad_(True)
    value = _similarity(face, name)(leaf[None])[0]
    if float(value.detach()) <= limit:
        return torch.zeros_like(code)
    (slope,) = torch.autograd.grad(value, leaf)
    return slope


def _tangent(vector: Tensor, code: Tensor) -> Tensor:
    return vector - (vector @ code) * code


def _estimate(
    face: SearchedFace, name: str, code: Tensor, probes: int, draw: Draw, smoothing: float, generator: torch.Generator
) -> Tensor:
    def value(codes: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([_similarity(face, name)(part) for part in codes.split(16)])

    oracle = simultaneous_perturbation(
        BlackBox(value), num_probes=probes, draw=draw, smoothing=smoothing / math.sqrt(code.numel())
    )
    return _tangent(oracle(code, 0, generator).gradient, code)


def _start(face: SearchedFace, config: HingeFromValuesConfig, number: int) -> Tensor:
    """The code of the source, or one at a fixed angle from it: every similarity is high, none need be the largest."""
    rng = np.random.default_rng((config.seed, number))
    return torch.from_numpy(tangent_noise(rng, face.code, config.start)).double()


def _descend(
    face: SearchedFace,
    start: Tensor,
    hidden: str,
    limits: Mapping[str, float],
    arm: str,
    draw: Draw,
    config: HingeFromValuesConfig,
    seed: int,
) -> Mapping[str, float]:
    """Walk down the hinge by steps of one angle; the similarities at the end."""
    code, generator = start, torch.Generator().manual_seed(seed)
    for _ in range(config.descent_steps):
        slope = torch.zeros_like(code)
        for name, limit in limits.items():
            if name == hidden and arm == "ignored":
                continue
            if name == hidden and arm == "from values":
                with torch.no_grad():
                    above = float(_similarity(face, name)(code[None])[0]) > limit
                if above:
                    slope += _estimate(face, name, code, config.descent_probes, draw, config.smoothing, generator)
            else:
                slope += _slope_above(face, name, code, limit)
        slope = _tangent(slope, code)
        if float(slope.norm()) == 0.0:
            break
        code = math.cos(config.step) * code - math.sin(config.step) * slope / slope.norm()
    with torch.no_grad():
        return {name: float(_similarity(face, name)(code[None])[0]) for name in limits}


_Ends = Sequence[Mapping[str, float]]

_MEASURES: Mapping[str, Callable[[_Ends, Mapping[str, float], str], float]] = {
    "similarity to the hidden oracle at the end": lambda ends, limits, hidden: _mean([end[hidden] for end in ends]),
    "share of faces below its limit": lambda ends, limits, hidden: _mean(
        [float(end[hidden] < limits[hidden]) for end in ends]
    ),
    "share of faces below every limit": lambda ends, limits, hidden: _mean(
        [float(all(end[name] < limit for name, limit in limits.items())) for end in ends]
    ),
}


def _descent_row(
    arm: str, ends: _Ends, limits: Mapping[str, float], hidden: str, config: HingeFromValuesConfig
) -> dict[str, object]:
    calls = {"true gradient": 1, "from values": 2 * config.descent_probes, "ignored": 0}[arm]
    measured = {name: value(ends, limits, hidden) for name, value in _MEASURES.items()}
    return {"hidden oracle": arm, "its calls per step, at most": calls, **measured}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


JOB = Job(
    name="hinge-from-values",
    summary="the privacy hinge of an oracle that only answers, from its values, against its gradient",
    source=Source(
        "A Unified Perspective on Optimization in Machine Learning and Neuroscience: From Gradient Descent to Neural "
        "Adaptation",
        "https://arxiv.org/abs/2510.18812",
        2025,
    ),
    config=HingeFromValuesConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {"linear": True, "faces": 12, "subspace": 12, "start": 0.5}
        | {"probes": (4, 16), "descent_draw": "orthogonal", "descent_steps": 8}
    },
)
