"""Job: train the latent autoencoder on aligned crops of people who do not exist."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from models.diffusion.autoencoder import LatentAutoencoder
from models.faces.alignment import CROP_SIZE
from training.data.drawn_faces import drawn_crop_set
from training.data.face_crops import CropSet, CropSize, augment, contact_sheet, load_crop_set, to_tensor
from training.jobs.generator_inputs import sized_name
from training.jobs.publishing import publish_module, write_sheet
from training.objectives.patch_adversary import (
    PatchDiscriminator,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
)
from training.objectives.perceptual import recognizer_features
from training.objectives.reconstruction import (
    Features,
    charbonnier,
    edge_difference,
    gaussian_divergence,
    laplacian_energy,
    peak_signal_to_noise,
    perceptual_distance,
    structural_similarity,
)
from training.runs.checkpoint import load_training_state, save_training_state
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.schedules import set_cosine_learning_rate, update_average

Levels = tuple[int, int, int]


class TrainAutoencoderConfig(JobConfig):
    """Settings of the run; the weights of the losses are those of recipe-scale trials on two cores."""

    faces: Path | None = Field(
        Path("data/faces"), description="crop set written by prepare-faces; None draws a few heads"
    )
    drawn_faces: int = Field(40, ge=3, description="heads that are drawn where no crop set is given")
    size: CropSize = Field(CROP_SIZE, description="side of the crops, pixels; the service reads 128")
    latent_channels: int = Field(8, ge=1)
    encoder_widths: Levels = Field((32, 64, 128), description="at a half, a quarter and an eighth of the side")
    decoder_widths: Levels = (48, 96, 192)
    encoder_blocks: Levels = (1, 1, 2)
    decoder_blocks: Levels = (1, 2, 2)
    steps: int = Field(2200, ge=1)
    batch_size: int = Field(12, ge=3)
    autocast: bool = Field(False, description="bfloat16 where it pays; the weights stay float32")
    learning_rate: float = Field(6e-4, gt=0)
    kl_weight: float = Field(2e-4, ge=0)
    edge_weight: float = Field(0.5, ge=0)
    perceptual_weight: float = Field(0.15, ge=0)
    perceptual_samples: int = Field(4, ge=1, description="crops of a batch that get the perceptual loss, which is dear")
    perceptual_start: float = Field(0.15, ge=0, le=1, description="share of the steps before the perceptual loss")
    adversary_start: float = Field(0.6, ge=0, le=1, description="share of the steps before the discriminator")
    adversary_weight: float = Field(0.03, ge=0)
    matching_weight: float = Field(0.3, ge=0)
    ema_decay: float = Field(0.995, ge=0, lt=1)
    min_psnr: float = Field(24.0, description="held-out PSNR in dB that the report checks")
    min_sharpness: float = Field(0.15, ge=0, description="held-out sharpness ratio that the report checks")
    evaluate_every: int = Field(200, ge=1)
    publish: bool = True


def run(config: TrainAutoencoderConfig, context: RunContext) -> Report:
    """Train, evaluate on held-out people, publish `face-autoencoder`.

    Args:
        config: Settings.
        context: Run directory, metrics and publishing.

    Returns:
        The report; its checks bound the error and the blur on held-out people.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    device = context.device
    train_set, held_out = _faces(config)
    model = new_autoencoder(config).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model).requires_grad_(False)
    adversary = PatchDiscriminator().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), config.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
    adversary_optimizer = torch.optim.AdamW(adversary.parameters(), 4e-4, betas=(0.5, 0.9))
    state = {"model": model, "average": average, "adversary": adversary}
    optimizers = {"optimizer": optimizer, "adversary_optimizer": adversary_optimizer}
    step = load_training_state(context.directory, state, optimizers, rng)
    features: Features | None = None

    while step < config.steps and not context.should_stop():
        progress = step / config.steps
        set_cosine_learning_rate(optimizer, config.learning_rate, step, config.steps)
        if features is None and config.perceptual_weight and progress >= config.perceptual_start:
            features = recognizer_features(context.store, device)
        indices = torch.randint(len(train_set), (config.batch_size,), generator=rng).numpy()
        crops = augment(to_tensor(train_set.crops[indices]).to(device), rng)

        with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
            mean, logvar = model.posterior(crops)
            latents = mean + torch.randn(mean.shape, generator=rng).to(device) * (logvar / 2).exp()
            decoded = model.decode_raw(latents)
        terms: dict[str, Tensor] = {
            "reconstruction": charbonnier(decoded, crops),
            "edge": edge_difference(decoded, crops),
            "kl": gaussian_divergence(mean, logvar),
        }
        loss = terms["reconstruction"] + config.edge_weight * terms["edge"] + config.kl_weight * terms["kl"]
        if features is not None:
            terms["perceptual"] = perceptual_distance(
                features, decoded[-config.perceptual_samples :], crops[-config.perceptual_samples :]
            )
            loss = loss + config.perceptual_weight * terms["perceptual"]
        with_adversary = progress >= config.adversary_start and config.adversary_weight > 0
        if with_adversary:
            adversary.requires_grad_(False)
            scores, fake = adversary(decoded)
            with torch.no_grad():
                real = adversary(crops)[1]
            terms["adversarial"], terms["matching"] = generator_hinge(scores), feature_matching(real, fake)
            loss = loss + config.adversary_weight * terms["adversarial"] + config.matching_weight * terms["matching"]
            adversary.requires_grad_(True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        update_average(average, model, config.ema_decay, step)
        if with_adversary:
            terms["discriminator"] = discriminator_hinge(adversary(crops)[0], adversary(decoded.detach())[0])
            adversary_optimizer.zero_grad()
            terms["discriminator"].backward()
            adversary_optimizer.step()

        step += 1
        if step % 20 == 0:
            context.log({"step": step, **{name: float(value.detach()) for name, value in terms.items()}})
        if step % config.evaluate_every == 0 or step == config.steps:
            context.log({"step": step, **evaluate(average, held_out)})
            sheet = to_tensor(held_out.crops[:: max(1, len(held_out) // 16)][:16]).to(device)
            with torch.no_grad():
                write_sheet(
                    context, f"reconstruction-{step:05d}", contact_sheet([sheet, average.decode(average.encode(sheet))])
                )
            save_training_state(context.directory, step, state, optimizers, rng)

    average.fit_normalization(to_tensor(train_set.crops[:: max(1, len(train_set) // 512)]).to(device))
    last = evaluate(average, held_out)
    checks = (
        Check("held-out PSNR, dB", config.min_psnr, last["psnr"], relation="at_least"),
        Check(
            "sharpness of held-out reconstructions over the originals'",
            config.min_sharpness,
            last["sharpness"],
            relation="at_least",
        ),
    )
    artifact = None
    if config.publish and step == config.steps:
        artifact = publish_module(
            context, sized_name("face-autoencoder", config.size), average, metrics=last, config=config
        )
    return Report(metrics=last, checks=checks, artifacts=(artifact,) if artifact else ())


def new_autoencoder(config: TrainAutoencoderConfig) -> LatentAutoencoder:
    """Make the autoencoder that the settings ask for, with random weights."""
    return LatentAutoencoder(
        config.latent_channels,
        config.encoder_widths,
        config.decoder_widths,
        config.encoder_blocks,
        config.decoder_blocks,
        crop_size=config.size,
    )


@torch.no_grad()
def evaluate(model: LatentAutoencoder, crop_set: CropSet, limit: int = 96) -> dict[str, float]:
    """PSNR (dB), SSIM and sharpness ratio of reconstructions from the posterior mean.

    Args:
        model: The autoencoder.
        crop_set: Crops, not augmented.
        limit: Number of crops used, evenly spaced.

    Returns:
        Mean PSNR, mean SSIM, median ratio of Laplacian energies.
    """
    psnr, ssim, sharpness = [], [], []
    place = model.latent_mean.device
    for chunk in to_tensor(crop_set.crops[:: max(1, len(crop_set) // limit)][:limit]).to(place).split(32):
        decoded = model.decode_raw(model.posterior(chunk)[0]).clamp(-1, 1)
        psnr.append(peak_signal_to_noise(decoded, chunk))
        ssim.append(structural_similarity(decoded, chunk))
        sharpness.append(laplacian_energy(decoded) / laplacian_energy(chunk).clamp_min(1e-8))
    return {
        "psnr": float(torch.cat(psnr).mean()),
        "ssim": float(torch.cat(ssim).mean()),
        "sharpness": float(torch.cat(sharpness).median()),
    }


def _faces(config: TrainAutoencoderConfig) -> tuple[CropSet, CropSet]:
    """Crops to train on, and those of people who are held out."""
    if config.faces is not None:
        return load_crop_set(config.faces, config.size).split()
    drawn = drawn_crop_set(config.drawn_faces, 1, config.seed, config.size)
    held = np.arange(len(drawn)) % 3 == 0
    return drawn.where(~held), drawn.where(held)


JOB = Job(
    name="train-autoencoder",
    summary="latent autoencoder of aligned face crops",
    source=Source("High-Resolution Image Synthesis with Latent Diffusion Models", "arXiv:2112.10752", 2022),
    config=TrainAutoencoderConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        # The large column of the specification (B11), for one GPU of 80 GB: smoke-run, never trained to the end. Our
        # stem has no convolution at the full side, so the widths 128-256-512-512 lose their first. A crop keeps 451 MiB
        # of activations for its gradient in bfloat16, so the batch is 96 and not 256.
        "gpu": {
            "faces": "data/faces-256",
            "size": 256,
            "latent_channels": 16,
            "encoder_widths": (256, 512, 512),
            "decoder_widths": (256, 512, 512),
            "encoder_blocks": (2, 2, 2),
            "decoder_blocks": (2, 2, 2),
            "steps": 200_000,
            "batch_size": 96,
            "learning_rate": 1e-4,
            "ema_decay": 0.9999,
            "autocast": True,
            "perceptual_samples": 32,
            "evaluate_every": 5000,
        },
        "smoke": {
            "faces": None,
            "drawn_faces": 12,
            "size": 256,
            "latent_channels": 16,
            "encoder_widths": (8, 8, 16),
            "decoder_widths": (8, 8, 16),
            "encoder_blocks": (1, 1, 1),
            "decoder_blocks": (1, 1, 1),
            "steps": 2,
            "batch_size": 4,
            "autocast": True,
            "adversary_start": 0.5,
            "perceptual_weight": 0.0,
            "evaluate_every": 2,
            "min_psnr": 5.0,
            "min_sharpness": 0.0,
            "publish": False,
        },
    },
)
