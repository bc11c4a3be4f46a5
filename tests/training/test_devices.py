"""Trainings do on every device what they do on the CPU; on `meta`, see `tests/models/test_devices.py`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from models.diffusion.denoiser import FaceDenoiser
from training.data.face_crops import augment, reduce_crops
from training.jobs import distill_generator, train_autoencoder, train_generator
from training.jobs.catalog import load_job
from training.jobs.distill_generator import DistillGeneratorConfig, distill
from training.jobs.distillation_task import DistillationTask, drawn_distillation_task
from training.jobs.train_generator import flow_loss
from training.objectives.patch_adversary import PatchDiscriminator
from training.runs.config import resolve_config
from training.runs.context import RunContext
from training.runs.execution import Place, execute

META = torch.device("meta")
SETTINGS = DistillGeneratorConfig.model_validate(
    {
        "faces": None,
        "size": 256,
        "steps": 1,
        "batch_size": 3,
        "drawn_rows": 2,
        "grid": 4,
        "autocast": False,
        "evaluate_every": 9,
        "publish": False,
    }
)

Make = Callable[[Path], RunContext]


def drawn_task(place: torch.device) -> DistillationTask:
    torch.manual_seed(1)
    rng = torch.Generator().manual_seed(1)
    task = drawn_distillation_task(6, 256, 1, rng, views=0, hinge_margin=1.0, autocast=False, device=place)
    return replace(task, adversary=PatchDiscriminator((8, 8, 8)).to(place))


def one_step(task: DistillationTask, context: RunContext) -> FaceDenoiser:
    torch.manual_seed(0)
    return distill(SETTINGS, context, task, torch.Generator().manual_seed(0), lambda step, average: None)


@pytest.fixture(scope="module")
def task() -> DistillationTask:
    return drawn_task(torch.device("cpu"))


def test_a_step_of_a_distillation_is_the_same_on_every_device(
    task: DistillationTask, tmp_path: Path, make_run_context: Make, device: torch.device
) -> None:
    weights = []
    for name, part in (("cpu", task), (device.type, task if device.type == "cpu" else drawn_task(device))):
        folder = tmp_path / f"{len(weights)}"
        folder.mkdir()
        average = one_step(part, make_run_context(folder))
        assert {parameter.device.type for parameter in average.parameters()} == {name}
        weights.append(torch.cat([parameter.detach().cpu().flatten() for parameter in average.parameters()]))
    before = torch.cat([parameter.detach().flatten() for parameter in task.student.parameters()])
    assert float((weights[0] - before).abs().max()) > 1e-6
    torch.testing.assert_close(*weights, atol=0.0 if device.type == "cpu" else 1e-4, rtol=0)


def test_a_step_of_a_distillation_leaves_nothing_on_the_cpu(
    task: DistillationTask, tmp_path: Path, make_run_context: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = copy.deepcopy(task)
    judge: Any = task.judge
    networks = (task.teacher, task.student, task.adversary, task.detector_landmarks, judge.attributes)
    for network in (*networks, judge._ensemble, judge._identity):
        network.to(META)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: nullcontext())  # knows no such device
    monkeypatch.setattr(distill_generator, "save_training_state", lambda *arguments: None)  # there is no state
    assert all(parameter.is_meta for parameter in one_step(task, make_run_context(tmp_path)).parameters())


def test_augmenting_and_the_flow_loss_leave_nothing_on_the_cpu() -> None:
    rng = torch.Generator().manual_seed(0)
    assert reduce_crops(augment(torch.empty(3, 3, 256, 256, device=META), rng)).is_meta
    denoiser = FaceDenoiser(16, width=16).to(META)
    latents, contexts = (torch.empty(2, 16, 32, 32, device=META) for _ in range(2))
    attributes, codes = torch.empty(2, 10, 8, 8, device=META), torch.empty(2, 128, device=META)
    mask = weight = torch.ones(1, 1, 32, 32, device=META)
    flow_loss(denoiser, latents, contexts, mask, attributes, codes, rng, weight).mean().backward()
    assert all(parameter.grad.is_meta for parameter in denoiser.parameters() if parameter.grad is not None)


def test_crops_are_augmented_alike_on_every_device(device: torch.device) -> None:
    crops = F.interpolate(torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1)), size=128) * 2 - 1
    first, second = (augment(part, torch.Generator().manual_seed(2)).cpu() for part in (crops, crops.to(device)))
    # a pixel of a border may fall on either side of it
    assert float((first - second).abs().mean()) < 1e-3


def test_the_networks_of_the_large_presets_fit_each_other() -> None:
    """On `meta`, where 50 million weights cost nothing."""
    jobs = (train_autoencoder.JOB, train_generator.JOB, distill_generator.JOB)
    first, second, third = (resolve_config(job.config, preset=job.preset("gpu")) for job in jobs)
    assert first.size == second.size == third.size == 256
    with META:
        autoencoder = train_autoencoder.new_autoencoder(first)
        denoiser = FaceDenoiser(first.latent_channels, width=second.width)
        latents = autoencoder.encode(torch.empty(2, 3, 256, 256))
        codes = torch.empty(2, 10, 8, 8), torch.empty(2, 128)
        velocity = denoiser(latents, torch.empty(2), latents, torch.empty(1, 1, 32, 32), *codes)
    assert latents.shape == velocity.shape == (2, 16, 32, 32)
    assert autoencoder.decode(velocity).shape == (2, 3, 256, 256)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) > 15e6


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["train-autoencoder", "train-generator", "distill-generator"])
def test_a_smoke_run_at_256_px_holds_its_checks_on_a_gpu(name: str, tmp_path: Path) -> None:
    """The contract test of the jobs is the same on the CPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here: `make gpu-check` runs this on a machine that has one")
    job = load_job(name)
    config = resolve_config(job.config, preset=job.preset("smoke"))
    place = Place(runs=tmp_path / "runs", artifacts=tmp_path / "artifacts", device="cuda")
    assert execute(job, config, place).report.holds
