"""Job: short trainings of a small face denoiser with AdamW and with Muon, for equal processor time."""

from __future__ import annotations

import itertools
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.anonymizer.assembly import load_attributes, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.variational import IdentityEncoder
from training.data.face_crops import load_crop_set
from training.data.face_embeddings import cached_embeddings
from training.data.latent_cache import LatentCache, build_latent_cache
from training.jobs.train_generator import evaluate, flow_loss, generator_optimizer
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.schedules import set_cosine_learning_rate

Name = Literal["adam", "muon"]


class GeneratorTrialsConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set written by prepare-faces; null draws latents")
    max_faces: int = Field(320, ge=24)
    width: int = Field(48, ge=8, multiple_of=8)
    steps: int = Field(40, ge=2, description="steps of AdamW; Muon gets as many as fit into the same processor time")
    seeds: int = Field(3, ge=1)
    batch_size: int = Field(8, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    matrix_ratio: float = Field(10.0, gt=0)


def run(config: GeneratorTrialsConfig, context: RunContext) -> Report:
    """Train with both optimizers from the same starts, evaluate the flow loss on held-out people.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its check says that no training diverges.
    """
    seen, held, generator = _latents(config, context)
    steps: dict[Name, int] = {"adam": config.steps, "muon": config.steps}
    pace = {name: _train(config, seen, generator, name, min(4, config.steps), 0)[1] for name in steps}
    steps["muon"] = max(2, round(config.steps * pace["adam"] / pace["muon"]))
    losses: dict[Name, list[float]] = {"adam": [], "muon": []}
    spent = dict.fromkeys(steps, 0.0)
    for seed, name in itertools.product(range(config.seeds), steps):
        model, seconds = _train(config, seen, generator, name, steps[name], seed)
        spent[name] += seconds * steps[name]
        trained = FaceGenerator(generator.autoencoder, model).eval()
        losses[name].append(evaluate(trained, held[0], held[1], _cell_weight(generator))["flow"])
        context.log({"seed": seed, "muon": name == "muon", "flow": losses[name][-1]})
    mean = {name: float(np.mean(values)) for name, values in losses.items()}
    ratio = spent["muon"] / spent["adam"]
    rows: list[dict[str, Any]] = [
        {
            "method": "muon",
            "job": f"train-generator (width {config.width}) with AdamW or Muon, equal processor time",
            "measure": "held-out flow loss",
            "without": mean["adam"],
            "with": mean["muon"],
            "n": config.seeds,
        }
    ]
    table = [
        {"seed": seed, "adam": first, "muon": second}
        for seed, (first, second) in enumerate(zip(losses["adam"], losses["muon"], strict=True))
    ]
    metrics = {f"flow_{name}": value for name, value in mean.items()}
    metrics |= {f"steps_{name}": float(count) for name, count in steps.items()} | {"time_ratio": ratio}
    broken = sum(not math.isfinite(loss) for values in losses.values() for loss in values)
    checks = (Check("trainings whose held-out loss is not a number", 0.0, float(broken), relation="at_most"),)
    return Report(metrics, checks, tables={"Held-out flow loss of every seed": table, "in the service": rows})


def _train(
    config: GeneratorTrialsConfig,
    data: tuple[LatentCache, Tensor],
    generator: FaceGenerator,
    name: Name,
    steps: int,
    seed: int,
) -> tuple[FaceDenoiser, float]:
    """A trained denoiser and the processor seconds of a step."""
    cache, codes = data
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    model = FaceDenoiser(width=config.width).to(memory_format=torch.channels_last)
    model.landmark_mean.copy_(generator.denoiser.landmark_mean)
    optimizer = generator_optimizer(name, model, config.learning_rate, config.matrix_ratio)
    weight = _cell_weight(generator)
    begin = time.process_time()
    for step in range(steps):
        set_cosine_learning_rate(optimizer, config.learning_rate, step, steps, warmup=10)
        index = torch.randint(len(cache), (config.batch_size,), generator=rng)
        latents, contexts, attributes = cache.batch(index, rng)
        wanted = codes[cache.sources[index]]
        loss = flow_loss(model, latents, contexts, generator.latent_mask, attributes, wanted, rng, weight).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval(), (time.process_time() - begin) / steps


def _cell_weight(generator: FaceGenerator) -> Tensor:
    weight = 0.15 + F.max_pool2d(generator.latent_mask, 3, 1, 1)
    return weight / weight.mean()


def _latents(
    config: GeneratorTrialsConfig, context: RunContext
) -> tuple[tuple[LatentCache, Tensor], tuple[LatentCache, Tensor], FaceGenerator]:
    """Latents and identity codes of seen and of held-out people, and the generator they belong to."""
    rng = torch.Generator().manual_seed(config.seed)
    if config.faces is None:
        torch.manual_seed(config.seed)
        generator = FaceGenerator(LatentAutoencoder(), FaceDenoiser(width=config.width)).eval()
        drawn = [_drawn_latents(count, rng) for count in (config.max_faces, config.max_faces // 4)]
        return drawn[0], drawn[1], generator
    store = context.store
    attributes = load_attributes(store)
    denoiser = FaceDenoiser(width=config.width)
    denoiser.landmark_mean.copy_(attributes.encoder.landmark_mean)
    generator = FaceGenerator(load_network(store, "face-autoencoder", LatentAutoencoder), denoiser).eval()
    people = load_crop_set(config.faces)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    codes = identity(cached_embeddings(config.faces, people, store))
    keep = np.zeros(len(people), dtype=np.bool_)
    keep[:: -(-len(people) // config.max_faces)] = True
    found = []
    for part in (keep & ~people.held_out(), keep & people.held_out()):
        cache = build_latent_cache(people.where(part), generator, attributes, rng, views=0)
        found.append((cache, codes[torch.from_numpy(part)]))
    return found[0], found[1], generator


def _drawn_latents(count: int, rng: torch.Generator) -> tuple[LatentCache, Tensor]:
    codes = F.normalize(torch.randn(count, 128, generator=rng), dim=1)
    smooth = F.interpolate(torch.randn(count, 8, 4, 4, generator=rng), size=16, mode="bilinear")
    attributes = torch.randn(count, 10, 8, 8, generator=rng)
    return LatentCache(smooth, smooth * 0.5, attributes, torch.ones_like(attributes), torch.arange(count)), codes


JOB = Job(
    name="generator-trials",
    summary="short trainings of a small face denoiser, Muon against AdamW for equal time",
    source=Source(
        "Muon: An optimizer for hidden layers in neural networks", "https://kellerjordan.github.io/posts/muon/", 2024
    ),
    config=GeneratorTrialsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"faces": None, "max_faces": 24, "width": 40, "steps": 3, "seeds": 1, "batch_size": 2}},
)
