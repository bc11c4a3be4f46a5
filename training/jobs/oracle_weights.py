"""Job: worst-case weights of the oracles against the plain sum of the privacy hinge, on rows of the generator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.anonymizer.assembly import load_attributes, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.variational import IdentityEncoder
from models.oracles.ensemble import SERVING_ORACLES, load_ensemble
from models.oracles.thresholds import load_thresholds
from training.data.face_crops import load_crop_set, to_tensor
from training.data.face_embeddings import cached_embeddings
from training.jobs.distill_generator import DistillGeneratorConfig
from training.jobs.distillation_task import load_distillation_task
from training.jobs.distillation_trial import distill_both, paired_differences, service_rows
from training.objectives.oracle_weights import OracleWeights
from training.objectives.privacy import oracle_excess
from training.runs.config import JobConfig, validate_config
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report


class OracleWeightsConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set with held-out faces; null draws embeddings")
    generator: str | None = Field(None, description="version of a distilled face-generator; null: the promoted one")
    num_faces: int = Field(24, ge=2, description="held-out faces that are drawn in one step and judged")
    batch_size: int = Field(4, ge=1)
    steps: int = Field(40, ge=1)
    learning_rate: float = Field(3e-4, gt=0)
    margin: float = Field(1.0, ge=0, description="distance of the hinge from the thresholds, in deviations")
    fidelity_weight: float = Field(2.0, ge=0, description="weight of the distance to the pictures before")
    step_size: float = Field(0.5, gt=0, description="of the weights, per excess of 0.1")
    teacher: str | None = Field(
        None, description="version of an undistilled face-generator for two short distillations; null: none of them"
    )
    distill_steps: int = Field(24, ge=1, description="steps of each distillation")
    distill_step_size: float = Field(2.0, gt=0, description="of its weights, per excess of 0.1: so few steps need more")
    distill_faces: int = Field(72, ge=2, description="held-out faces on which both students are read")

    @model_validator(mode="after")
    def _has_faces(self) -> OracleWeightsConfig:
        if self.teacher is not None and self.faces is None:
            raise ValueError("a teacher needs faces to distill on")
        return self


@dataclass(frozen=True, slots=True)
class _Rows:
    """What the rows of a generator do: fresh trainable rows, embeddings of faces drawn with them, distance moved."""

    rows: Callable[[], nn.Module]
    draw: Callable[[nn.Module, Tensor], tuple[dict[str, Tensor], Tensor]]
    source: Mapping[str, Tensor]
    limits: Mapping[str, float]
    count: int


def run(config: OracleWeightsConfig, context: RunContext) -> Report:
    """Optimize the same rows with the plain sum and with moving weights, for equal steps and batches.

    The faces are drawn with their own identity codes, so that the hinge has something to push away.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report: largest mean excess over the oracles before, with the plain hinge and with the weighted one.
    """
    task = _drawn_task(config) if config.faces is None else _generator_task(config, config.faces, context)
    arms = {name: _optimize(config, task, context, adapt=name == "weighted") for name in ("plain", "weighted")}
    before = _excess(task, task.rows())[0]
    table: list[dict[str, Any]] = [{"hinge": "before", **before, "largest": max(before.values())}]
    metrics: dict[str, float] = {"largest before": max(before.values())}
    for name, (excess, moved, weights) in arms.items():
        table.append({"hinge": name, **excess, "largest": max(excess.values()), "moved": moved})
        metrics[f"largest {name}"] = max(excess.values())
        metrics[f"moved {name}"] = moved
        metrics |= {f"weight {oracle} {name}": value for oracle, value in weights.items()}
    service = [
        {
            "method": "exponentiated_gradient",
            "job": f"weights of the oracles in the privacy hinge, {config.steps} steps, against the plain sum",
            "measure": text,
            "without": metrics[f"{key} plain"],
            "with": metrics[f"{key} weighted"],
            "n": task.count,
        }
        for key, text in (
            ("largest", "largest mean excess over the oracles (cosine)"),
            ("moved", "mean absolute change of the picture"),
        )
    ]
    checks: tuple[Check, ...] = (
        Check("largest excess after the weighted hinge over before", 1.0, _ratio(metrics, "weighted"), 0, "at_most"),
        Check("weights add up to the number of oracles", len(task.limits), sum(arms["weighted"][2].values()), 1e-6),
    )
    tables = {"Mean excess of each oracle": table}
    if config.teacher is not None and config.faces is not None:
        distilled, more, check = _distillations(config, config.faces, config.teacher, context)
        tables, service, checks = {**tables, **distilled}, service + more, (*checks, check)
    return Report(metrics, checks, tables={**tables, "in the service": service})


def _distillations(
    config: OracleWeightsConfig, faces: Path, teacher: str, context: RunContext
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]], Check]:
    """Tables, service rows and a check of two distillations that differ in the weights alone."""
    settings = validate_config(
        DistillGeneratorConfig,
        {
            "seed": config.seed,
            "faces": faces,
            "teacher": teacher,
            "start_from": config.generator or str(context.store.promoted("face-generator")),
            "steps": config.distill_steps,
            "batch_size": 12,
            "drawn_rows": 8,
            "learning_rate": 5e-4,  # the warm-up takes all of so few steps
            "views": 0,
            "ema_decay": 0.9,
            "hinge_margin": config.margin,
            "oracle_step_size": config.distill_step_size,
            "evaluate_every": config.distill_steps,
            "publish": False,
        },
    )
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    task = load_distillation_task(
        context.store,
        faces,
        rng,
        teacher=teacher,
        start_from=settings.start_from,
        views=settings.views,
        hinge_margin=settings.hinge_margin,
        autocast=settings.autocast,
    )
    scores, weights = distill_both(settings, context, task, config.distill_faces)
    tables: dict[str, list[dict[str, Any]]] = {
        "Students of two distillations": [{"weights": way, **score.row()} for way, score in scores.items()],
        "Excess with moving weights less that with equal ones": paired_differences(scores),
        "Last weights of the distillation": [weights],
    }
    ratio = scores["worst_case"].landmarks / scores["equal"].landmarks
    check = Check("landmark distance of the student with moving weights over equal ones", 1.1, ratio, 0, "at_most")
    return tables, service_rows(settings, scores), check


def _ratio(metrics: Mapping[str, float], name: str) -> float:
    return metrics[f"largest {name}"] / max(metrics["largest before"], 1e-9)


def _optimize(
    config: OracleWeightsConfig, task: _Rows, context: RunContext, *, adapt: bool
) -> tuple[dict[str, float], float, dict[str, float]]:
    rows = task.rows()
    optimizer = torch.optim.Adam([p for p in rows.parameters() if p.requires_grad], config.learning_rate)
    weights = OracleWeights(list(task.limits), step_size=config.step_size)
    rng = torch.Generator().manual_seed(config.seed)
    for step in range(1, config.steps + 1):
        index = torch.randint(task.count, (config.batch_size,), generator=rng)
        drawn, moved = task.draw(rows, index)
        source = {name: table[index] for name, table in task.source.items()}
        loss = weights.hinge(drawn, source, task.limits).mean() + config.fidelity_weight * moved
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if adapt:
            weights.update(oracle_excess(drawn, source, task.limits))
        if step % 4 == 0:
            context.log({"step": step, "adapt": adapt, "loss": float(loss.detach()), **weights.weights})
    excess, moved_mean = _excess(task, rows)
    return excess, moved_mean, weights.weights


@torch.no_grad()
def _excess(task: _Rows, rows: nn.Module) -> tuple[dict[str, float], float]:
    drawn, moved = task.draw(rows, torch.arange(task.count))
    excess = oracle_excess(drawn, task.source, task.limits)
    return {name: float(value.mean()) for name, value in excess.items()}, float(moved)


def _drawn_task(config: OracleWeightsConfig) -> _Rows:
    """Three linear oracles of one drawn code, two of them alike, in place of networks."""
    rng = torch.Generator().manual_seed(config.seed)
    dim = 24
    base, other = torch.randn(2, 16, dim, generator=rng)
    maps = {"first": base, "second": base + 0.1 * torch.randn(16, dim, generator=rng), "third": other}
    codes = F.normalize(torch.randn(config.num_faces, dim, generator=rng), dim=1)
    limits = {"first": 0.6, "second": 0.6, "third": 0.4}

    def draw(rows: nn.Module, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        moved = codes[index] + rows(codes[index])
        return _read(maps, moved), rows(codes[index]).abs().mean()

    def rows() -> nn.Module:
        layer = nn.Linear(dim, dim)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return layer

    return _Rows(rows, draw, _read(maps, codes), limits, config.num_faces)


def _read(maps: Mapping[str, Tensor], codes: Tensor) -> dict[str, Tensor]:
    return {name: F.normalize(codes @ matrix.T, dim=1) for name, matrix in maps.items()}


def _generator_task(config: OracleWeightsConfig, folder: Path, context: RunContext) -> _Rows:
    """The last block and the head of the generator, on held-out faces with fixed noise."""
    store = context.store
    denoiser = load_network(store, "face-generator", FaceDenoiser, version=config.generator).requires_grad_(False)
    generator = FaceGenerator(load_network(store, "face-autoencoder", LatentAutoencoder), denoiser).eval()
    generator.requires_grad_(False)
    attributes = load_attributes(store)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    people = load_crop_set(folder)
    embeddings = cached_embeddings(folder, people, store)
    places = np.flatnonzero(people.held_out())
    chosen = places[:: max(1, len(places) // config.num_faces)][: config.num_faces]
    source = {name: embeddings[name][torch.from_numpy(chosen)] for name in SERVING_ORACLES}
    crops = to_tensor(people.crops[chosen])
    rng = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        context_latents, codes = generator.context(crops), attributes.sample(crops, rng)
    wanted = identity(source)
    noise = torch.randn(context_latents.shape, generator=rng)
    guidance = torch.full((len(crops),), 2.0)
    thresholds = load_thresholds(store)
    ensemble = load_ensemble(store, centers=thresholds.centers)
    limits = {name: found.limit(config.margin) for name, found in thresholds.at(1e-3, SERVING_ORACLES).items()}

    def picture(index: Tensor) -> Tensor:
        velocity = denoiser(
            noise[index],
            torch.ones(len(index)),
            context_latents[index],
            generator.latent_mask,
            codes[index],
            wanted[index],
            guidance[index],
        )
        latents = (noise[index] - velocity).contiguous(memory_format=torch.channels_last)
        faces = generator.autoencoder.decode(latents)
        return faces * generator.mask + crops[index] * (1 - generator.mask)

    with torch.no_grad():
        before = torch.cat([picture(rows) for rows in torch.arange(len(crops)).split(4)])
    start = copy.deepcopy(nn.ModuleList([denoiser.up[-1], denoiser.head]))

    def rows() -> nn.Module:
        fresh = copy.deepcopy(start).requires_grad_(True)
        # normalization whose input needs no gradient crashes in the backward pass of this torch
        fresh[0].get_submodule("norm1").requires_grad_(False)
        return fresh

    def draw(rows: nn.Module, index: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        if not isinstance(rows, nn.ModuleList):
            raise TypeError(f"rows must be the last block and the head, got {type(rows).__name__}")
        denoiser.up[-1], denoiser.head = rows[0], rows[1]
        faces = picture(index)
        # as distill-generator reads them; recognizers keep their answer in half precision
        with torch.autocast("cpu", torch.bfloat16):
            answers = ensemble(faces)
        drawn = {name: F.normalize(answer.float(), dim=1) for name, answer in answers.items()}
        return drawn, (faces - before[index]).abs().mean()

    return _Rows(rows, draw, source, limits, len(crops))


JOB = Job(
    name="oracle-weights",
    summary="worst-case weights of the oracles in the privacy hinge, against the plain sum",
    source=Source(
        "Dale meets Langevin: A Multiplicative Denoising Diffusion Model", "https://arxiv.org/abs/2510.02730", 2025
    ),
    config=OracleWeightsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {"faces": None, "num_faces": 16, "batch_size": 16, "steps": 150, "learning_rate": 3e-3}
        | {"fidelity_weight": 0.5}
    },
)
