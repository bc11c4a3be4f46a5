"""Job: train the conditional flow denoiser on cached latents (sharp prior first; anonymizer specification, B7)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from safetensors.torch import load_file
from torch import Tensor, nn

from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attributes import FaceAttributes
from models.faces.alignment import CROP_SIZE
from training.data.face_crops import CropSet, CropSize, contact_sheet, reduce_crops, to_tensor
from training.data.latent_cache import LatentCache, build_latent_cache
from training.jobs.generator_inputs import load_faces, load_networks, sized_name
from training.jobs.publishing import publish_module, write_sheet
from training.jobs.untrained_networks import untrained_inputs
from training.optimizers.first_order.muon_for_networks import NetworkMuon
from training.runs.checkpoint import load_training_state, save_training_state
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.schedules import set_cosine_learning_rate, update_average


class TrainGeneratorConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(
        Path("data/faces"), description="crop set written by prepare-faces; None draws heads for untrained networks"
    )
    drawn_faces: int = Field(12, ge=6, description="heads that are drawn where no crop set is given")
    size: CropSize = Field(CROP_SIZE, description="side of the crops, pixels; the service reads 128")
    rendered: Path | None = Field(None, description="crop set of rendered heads, several photos per identity")
    rendered_share: float = Field(0.3, ge=0, lt=1, description="share of rendered heads in a batch")
    steps: int = Field(2600, ge=1)
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    optimizer: Literal["adam", "muon"] = Field("adam", description="muon takes the hidden matrices, AdamW the rest")
    matrix_ratio: float = Field(10.0, gt=0, description="learning rate of muon's matrices over that of AdamW")
    start_from: str | None = Field(None, description="version of face-generator whose weights to start from")
    width: int = Field(112, ge=8, multiple_of=8)
    views: int = Field(4, ge=1, description="augmented views per crop in the cache")
    refresh_every: int = Field(400, ge=1, description="steps after which one of the views is drawn anew")
    autocast: bool = Field(True, description="bfloat16 where it pays; the weights stay float32")
    compiled: bool = Field(
        False, description="compile the denoiser; needs a compiler, and minutes before the first step"
    )
    identity_dropout: float = Field(0.1, ge=0, le=1)
    identity_noise: float = Field(0.04, ge=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)
    evaluate_every: int = Field(200, ge=1)
    max_flow: float = Field(0.4, gt=0, description="held-out flow loss over that of no velocity that the report checks")
    min_identity_gap: float = Field(0.005, description="extra loss with another code that the report checks")
    publish: bool = True

    @model_validator(mode="after")
    def _codes_for_rendered_heads(self) -> TrainGeneratorConfig:
        if self.rendered is not None and self.faces is None:
            raise ValueError("rendered needs faces: the drawn heads have codes of untrained networks")
        return self


def run(config: TrainGeneratorConfig, context: RunContext) -> Report:
    """Train, evaluate on held-out people, publish `face-generator`.

    Args:
        config: Settings.
        context: Run directory, metrics and publishing.

    Returns:
        The report; its checks say that the flow loss fell and that a wrong identity code costs loss on unseen people.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    store, device = context.store, context.device
    artifact_name = sized_name("face-generator", config.size)
    drawn_inputs = untrained_inputs(config.drawn_faces, config.size, config.seed, device) if not config.faces else None
    networks = drawn_inputs[0] if drawn_inputs else load_networks(store, config.size, device)
    attributes = networks.attributes
    channels = int(networks.autoencoder.config.latent_channels)
    model = FaceDenoiser(channels, width=config.width).to(memory_format=torch.channels_last)
    model.landmark_mean.copy_(attributes.encoder.landmark_mean)
    if config.start_from is not None:
        version = store.resolve(artifact_name, config.start_from)
        start_from(model, load_file(version.path("diffusion_pytorch_model.safetensors")))
    model = model.to(device)
    generator = FaceGenerator(networks.autoencoder, model).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    drawn = FaceGenerator(networks.autoencoder, average).eval().to(device)

    if drawn_inputs:
        faces = drawn_inputs[1]
    else:
        assert config.faces is not None
        faces = load_faces(config.faces, config.size, store)
    people, held = faces.people, faces.held
    codes = networks.codes(faces.embeddings)
    seen = people.where(~held)
    train_cache = build_latent_cache(seen, generator, attributes, rng, views=config.views, autocast=config.autocast)
    held_cache = build_latent_cache(people.where(held), generator, attributes, rng, views=0)
    train_codes, held_codes = codes[torch.from_numpy(~held)], codes[torch.from_numpy(held)]
    partners = np.arange(len(train_codes))
    heads: tuple[LatentCache, Tensor, CropSet] | None = None
    if config.rendered is not None:
        rendered = load_faces(config.rendered, config.size, store)
        drawn_heads = build_latent_cache(rendered.people, generator, attributes, rng, views=1, autocast=config.autocast)
        heads = (drawn_heads, networks.codes(rendered.embeddings), rendered.people)
    context.log({"cached": len(train_cache), "rendered": len(heads[0]) if heads else 0})

    weight = 0.15 + F.max_pool2d(generator.latent_mask, 3, 1, 1)
    weight = weight / weight.mean()
    optimizer = generator_optimizer(config.optimizer, model, config.learning_rate, config.matrix_ratio)
    state: dict[str, nn.Module] = {"model": model, "average": average}
    step = load_training_state(context.directory, state, {"optimizer": optimizer}, rng)
    denoiser = torch.compile(model) if config.compiled else model
    num_heads = round(config.rendered_share * config.batch_size) if heads else 0

    while step < config.steps and not context.should_stop():
        set_cosine_learning_rate(optimizer, config.learning_rate, step, config.steps, warmup=200)
        parts = [_draw(train_cache, train_codes, partners, config.batch_size - num_heads, rng)]
        if heads:
            parts.append(_draw(heads[0], heads[1], _other_photo(heads[2], rng), num_heads, rng))
        latents, contexts, attribute_codes, identity_codes = (
            torch.cat(column).to(device) for column in zip(*parts, strict=True)
        )
        noise = torch.randn(identity_codes.shape, generator=rng).to(device)
        noisy_identity = F.normalize(identity_codes + config.identity_noise * noise, dim=1)
        dropped = (torch.rand(len(latents), 1, generator=rng) < config.identity_dropout).to(device)
        condition = torch.where(dropped, model.null_identity.expand(len(latents), -1), noisy_identity)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
            loss = flow_loss(
                denoiser, latents, contexts, generator.latent_mask, attribute_codes, condition, rng, weight
            ).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, config.ema_decay, step)
        step += 1
        if step % 20 == 0:
            context.log({"step": step, "flow": float(loss.detach())})
        if step % config.refresh_every == 0:
            view = step // config.refresh_every % config.views
            rows = build_latent_cache(seen, generator, attributes, rng, views=1, autocast=config.autocast)
            train_cache.replace(view * len(seen), rows)
        if step % config.evaluate_every == 0 or step == config.steps:
            context.log({"step": step, **evaluate(drawn, held_cache, held_codes, weight)})
            write_sheet(context, f"samples-{step:05d}", sample_sheet(drawn, attributes, people.where(held), held_codes))
            save_training_state(context.directory, step, state, {"optimizer": optimizer}, rng)

    metrics = evaluate(drawn, held_cache, held_codes, weight)
    checks = (
        Check(
            "held-out flow loss over that of the zero velocity",
            config.max_flow,
            metrics["flow"] / metrics["flow_zero"],
            relation="at_most",
        ),
        Check(
            "extra loss with another person's code on unseen people",
            config.min_identity_gap,
            metrics["identity_gap"],
            relation="at_least",
        ),
    )
    artifact = None
    if config.publish and step == config.steps:
        artifact = publish_module(
            context,
            artifact_name,
            average,
            metrics=metrics,
            config=config,
            parents=(sized_name("face-autoencoder", config.size), "face-encoder"),
        )
    return Report(metrics=metrics, checks=checks, artifacts=(artifact,) if artifact else ())


def generator_optimizer(
    name: Literal["adam", "muon"], model: nn.Module, learning_rate: float, matrix_ratio: float
) -> torch.optim.Optimizer:
    """The optimizer of the denoiser.

    Args:
        name: ``adam`` for AdamW on everything, ``muon`` for Muon on the hidden matrices and AdamW on the rest.
        model: The denoiser.
        learning_rate: Of AdamW.
        matrix_ratio: Muon's learning rate over that of AdamW.

    Returns:
        The optimizer.
    """
    if name == "muon":
        return NetworkMuon(model.parameters(), learning_rate, matrix_ratio=matrix_ratio)
    return torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.99), weight_decay=1e-2)


def start_from(model: FaceDenoiser, weights: Mapping[str, Tensor]) -> None:
    """Start a denoiser from the weights of an earlier one; inputs that the earlier one did not have begin at zero.

    Args:
        model: Denoiser to fill.
        weights: State of an earlier denoiser of the same width.

    Raises:
        ValueError: A tensor has another shape, or the new inputs are not the last of the stem.
    """
    state = model.state_dict()
    for name, value in weights.items():
        if name == "landmark_mean":
            continue
        wanted = state[name]
        if name == "stem.weight" and value.shape[1] < wanted.shape[1]:
            value = F.pad(value, (0, 0, 0, 0, 0, wanted.shape[1] - value.shape[1]))
        if value.shape != wanted.shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, the denoiser needs {tuple(wanted.shape)}")
        wanted.copy_(value)


def flow_loss(
    model: Callable[..., Tensor],
    latents: Tensor,
    contexts: Tensor,
    mask: Tensor,
    attributes: Tensor,
    identity: Tensor,
    rng: torch.Generator,
    weight: Tensor,
) -> Tensor:
    """Weighted squared error of the velocity at a random noise level, for each face.

    The levels follow a logit-normal distribution with location 0.3 (Esser et al., 2024).

    Args:
        model: The denoiser, compiled or not.
        latents: Clean latents, (n, 8, 16, 16) of crops of 128 px; they say where the work is done.
        contexts: Context latents.
        mask: Latent mask, (1, 1, 16, 16).
        attributes: Sampled attribute codes.
        identity: Identity codes.
        rng: Source of levels and noise, on the CPU: the same are drawn for every device.
        weight: Weight of each latent cell, of mean 1.

    Returns:
        Loss of each face, (n,).
    """
    t = torch.sigmoid(torch.randn(len(latents), generator=rng).to(latents.device) + 0.3)
    noise = torch.randn(latents.shape, generator=rng).to(latents.device)
    level = t[:, None, None, None]
    velocity = model((1 - level) * latents + level * noise, t, contexts, mask, attributes, identity)
    return ((velocity - (noise - latents)).square() * weight).mean((1, 2, 3))


@torch.no_grad()
def evaluate(generator: FaceGenerator, cache: LatentCache, codes: Tensor, weight: Tensor) -> dict[str, float]:
    """Flow loss on unseen people with the right and with another person's identity code, same noise.

    Args:
        generator: Holds the denoiser.
        cache: Latents of unseen people.
        codes: Their identity codes.
        weight: Weight of each latent cell.

    Returns:
        Loss, loss of the zero velocity, and the extra loss of a wrong code.
    """
    index = torch.arange(len(cache))
    losses = []
    for identity in (codes[cache.sources], codes[cache.sources].roll(7, 0)):
        rng = torch.Generator().manual_seed(5)
        total = []
        for rows in index.split(64):
            latents, contexts, attributes = (part.to(weight.device) for part in cache.batch(rows, rng))
            total.append(
                flow_loss(
                    generator.denoiser,
                    latents,
                    contexts,
                    generator.latent_mask,
                    attributes,
                    identity[rows].to(weight.device),
                    rng,
                    weight,
                )
            )
        losses.append(float(torch.cat(total).mean()))
    zero = float(((1 + cache.latents.float().square()) * weight.cpu()).mean())
    return {"flow": losses[0], "flow_zero": zero, "identity_gap": losses[1] - losses[0]}


def sample_sheet(generator: FaceGenerator, attributes: FaceAttributes, people: CropSet, codes: Tensor) -> np.ndarray:
    """Sheet of unseen faces: source, own code, and four other codes on the same photos.

    Args:
        generator: Generator to look at.
        attributes: Attribute code.
        people: Unseen crops.
        codes: Their identity codes.

    Returns:
        The sheet, (H, W, 3) uint8.
    """
    rng = torch.Generator().manual_seed(1)
    stride = max(1, len(people) // 16)
    codes = codes.to(generator.mask.device)
    crops, own = to_tensor(people.crops[::stride][:16]).to(codes.device), codes[::stride][:16]
    with torch.no_grad():
        attribute_codes = attributes.sample(reduce_crops(crops), rng)
    rows = [crops, generator.generate(crops, attribute_codes, own, steps=20, guidance=1.5, generator=rng)]
    for shift in (1, 2, 3):
        other = codes[[shift * 5 % len(codes)]].expand(len(crops), -1)
        rows.append(generator.generate(crops, attribute_codes, other, steps=4, guidance=2.0, generator=rng))
    return contact_sheet(rows)


def _draw(
    cache: LatentCache, codes: Tensor, partners: np.ndarray, count: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = torch.randint(len(cache), (count,), generator=rng)
    latents, contexts, attributes = cache.batch(index, rng)
    return latents, contexts, attributes, codes[torch.from_numpy(partners)[cache.sources[index]]]


def _other_photo(crop_set: CropSet, rng: torch.Generator) -> np.ndarray:
    """For each crop the index of another photo of the same person, so that no pixel cue can be copied."""
    order = np.argsort(crop_set.groups, kind="stable")
    groups = crop_set.groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    sizes = np.diff(np.r_[starts, len(groups)])
    position = np.arange(len(groups)) - np.repeat(starts, sizes)
    size = np.repeat(sizes, sizes)
    shift = 1 + (torch.rand(len(groups), generator=rng).numpy() * np.maximum(1, size - 1)).astype(np.int64)
    partner = np.repeat(starts, sizes) + (position + shift) % size
    result = np.empty(len(groups), dtype=np.int64)
    result[order] = order[partner]
    return result


JOB = Job(
    name="train-generator",
    summary="conditional flow denoiser of face latents",
    source=Source(
        "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow", "arXiv:2209.03003", 2022
    ),
    config=TrainGeneratorConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        # The large column of the specification (B11), for one GPU of 80 GB: smoke-run, never trained to the end. Our
        # U-Net has two levels, so its base of 192 is a width of 192 at 32x32 and of 384 at 16x16: 18.8 M parameters
        # where four levels have 211 M.
        "gpu": {
            "faces": "data/faces-256",
            "rendered": "data/rendered-256",
            "size": 256,
            "width": 192,
            "steps": 200_000,
            "batch_size": 256,
            "learning_rate": 1e-4,
            "ema_decay": 0.9999,
            "views": 8,
            "refresh_every": 2000,
            "evaluate_every": 5000,
            "compiled": True,
        },
        "smoke": {
            "faces": None,
            "size": 256,
            "width": 16,
            "steps": 2,
            "batch_size": 4,
            "views": 1,
            "refresh_every": 2,
            "evaluate_every": 2,
            "max_flow": 2.0,
            "min_identity_gap": -1.0,
            "publish": False,
        },
    },
)
