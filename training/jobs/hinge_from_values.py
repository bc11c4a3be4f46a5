"""Job: the slope of the privacy hinge behind an oracle that answers and cannot be differentiated, from its answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.anonymizer.assembly import assemble
from models.identity.sphere import tangent_noise
from models.oracles.ensemble import SERVING_ORACLES
from training.jobs.calibrate_oracles import Half
from training.jobs.code_repair import principal_directions
from training.jobs.searched_faces import SearchedFace, linear_faces, served_faces, source_crops
from training.optimizers.derivative_free.zeroth_order_family.estimators import simultaneous_perturbation
from training.optimizers.derivative_free.zeroth_order_family.probes import Draw, expected_cosine, guided, orthogonal
from training.problems import BlackBox
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "zeroth_order_family"
_SHARE = 0.1  # of the variance of guided probes that is spent on all directions
_ARMS = ("true gradient", "from values", "ignored")


class HingeFromValuesConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of labeled photos; without it heads are rendered")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    half: Half = Field("test", description="people whose faces are taken")
    linear: bool = Field(False, description="linear stand-ins for faces and recognizers, no artifacts")
    faces: int = Field(12, ge=2)
    black_box: str = Field("mfn", description="serving oracle whose gradient is hidden")
    probes: tuple[int, ...] = Field((4, 16, 32), min_length=1, description="two oracle calls each")
    smoothing: float = Field(0.05, gt=0, description="half width of a difference, radians")
    far: float = Field(1e-3, gt=0, lt=1)
    margin: float = Field(1.0, ge=0, le=3, description="distance from the thresholds, in deviations")
    start: float = Field(0.0, ge=0, lt=1.5, description="angle of the start from the source's own code, radians")
    descent_steps: int = Field(4, ge=1)
    descent_probes: int = Field(8, ge=1, description="probes of every step of the descent")
    descent_draw: Literal["guided", "orthogonal"] = Field("guided", description="which probes it takes")
    step: float = Field(0.1, gt=0, description="angle of every step, radians")
    subspace: int = Field(32, ge=2, description="principal directions of the bank that guided probes prefer")
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
    faces, limits, basis = _faces(config, context)
    hidden = config.black_box
    if hidden not in limits:
        raise ValueError(f"black_box must be one of {sorted(limits)}, got {hidden!r}")
    draws: Mapping[str, Draw] = {"orthogonal": orthogonal, "guided": guided(basis, share=_SHARE)}
    cosines: dict[tuple[str, int], list[float]] = {(kind, q): [] for kind in draws for q in config.probes}
    ends: dict[str, list[Mapping[str, float]]] = {arm: [] for arm in _ARMS}
    starts: list[float] = []
    for number, face in enumerate(faces):
        start = _start(face, config, number)
        starts.append(float(_similarity(face, hidden)(start[None]).detach()[0]))
        true = _tangent(_slope(face, hidden, start), start)
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
    dim = len(faces[0].code)
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


def _faces(
    config: HingeFromValuesConfig, context: RunContext
) -> tuple[Sequence[SearchedFace], dict[str, float], Tensor]:
    if config.linear:
        faces, manifold = linear_faces(config.faces, seed=config.seed)
        limits = dict.fromkeys(faces[0].similarities(faces[0].code[None], 0), 0.1)
        return faces, limits, torch.from_numpy(principal_directions(manifold.bank, min(config.subspace, 12)))
    assembly = assemble(context.store)
    at_far = assembly.thresholds.at(config.far, SERVING_ORACLES)
    rng = np.random.default_rng(config.seed)
    crops = source_crops(config.folder, config.landmarks, config.half, config.faces, assembly, rng)
    served = served_faces(crops, assembly, context.store, steps=config.steps, seed=config.seed)
    limits = {name: t.privacy_threshold - config.margin * t.impostor_std for name, t in at_far.items()}
    return served, limits, torch.from_numpy(principal_directions(assembly.manifold.bank, config.subspace))


def _similarity(face: SearchedFace, name: str) -> Callable[[Tensor], Tensor]:
    return lambda codes: face.similarity(name, codes, 0)


def _slope(face: SearchedFace, name: str, code: Tensor) -> Tensor:
    leaf = code.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(_similarity(face, name)(leaf[None])[0], leaf)
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
            with torch.no_grad():
                if float(_similarity(face, name)(code[None])[0]) <= limit:
                    continue
            if name == hidden and arm == "from values":
                slope += _estimate(face, name, code, config.descent_probes, draw, config.smoothing, generator)
            else:
                slope += _slope(face, name, code)
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
        "smoke": {"linear": True, "probes": (4, 16), "descent_draw": "orthogonal", "start": 0.5, "descent_steps": 8}
    },
)
