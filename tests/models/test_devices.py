"""Drawing, compiling, sessions and the whole anonymizer do on every device what they do on the CPU.

On `meta` there is room for shapes and no numbers, and an operation that mixes it with a tensor left on the CPU is
refused, as on a GPU: so a machine without one finds what was left behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as fx_config

from models.anonymizer.assembly import assemble
from models.anonymizer.landmark_correction import LandmarkCorrection
from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.policy import Policy
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attribute_levels import AttributeLevels
from models.encoder.landmark_code import NUM_LANDMARKS
from models.encoder.light_code import NUM_LIGHT
from models.encoder.variational import IdentityEncoder
from models.pictures import decode_picture
from models.registry.store import ArtifactStore
from models.runtime import onnx_session
from training.data.drawn_faces import draw_photos

LEVEL = 2 / 255  # of 8 bit, on the scale of crops


def lively_generator(dtype: torch.dtype = torch.float32, *, guided: bool = True) -> FaceGenerator:
    """A small generator whose last layers, zero at the start, draw something; the same one at every call."""
    torch.manual_seed(4)
    autoencoder = LatentAutoencoder(encoder_widths=(8, 8, 16), decoder_widths=(8, 8, 16))
    denoiser = FaceDenoiser(width=16, guided=guided)
    for layer in (block.conv2 for block in (*denoiser.down, *denoiser.middle, *denoiser.up)):
        nn.init.normal_(layer.weight, std=0.05)
    nn.init.normal_(denoiser.head[-1].weight, std=0.05)
    return FaceGenerator(autoencoder, denoiser, dtype).eval()


def inputs(count: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    codes = nn.functional.normalize(torch.randn(count, 128, generator=rng), dim=1)
    return torch.rand(count, 3, 128, 128, generator=rng) * 2 - 1, torch.randn(count, 10, 8, 8, generator=rng), codes


def draw(model: FaceGenerator, place: torch.device) -> Tensor:
    streams = [torch.Generator().manual_seed(seed) for seed in (10, 11)]
    parts = (part.to(place) for part in inputs(2))
    drawn = model.to(place).generate(*parts, steps=2, generator=streams)
    assert drawn.device.type == place.type
    return drawn.cpu()


@pytest.fixture
def all_rows_count() -> Iterator[None]:
    """Let masks choose every row on the device `meta`, which has no values to choose by."""
    with fx_config.patch(meta_nonzero_assume_all_nonzero=True):
        yield


@pytest.fixture(scope="module", params=[True, False], ids=["distilled", "undistilled"])
def reference(request: pytest.FixtureRequest) -> tuple[bool, Tensor]:
    return request.param, draw(lively_generator(guided=request.param), torch.device("cpu"))


def test_the_same_noise_draws_the_same_face_on_every_device(
    reference: tuple[bool, Tensor], device: torch.device
) -> None:
    guided, exact = reference
    drawn = draw(lively_generator(guided=guided), device)
    assert float((drawn - exact).abs().max()) < (1e-6 if device.type == "cpu" else LEVEL)


def test_bfloat16_moves_a_face_by_less_than_two_levels_on_average(
    reference: tuple[bool, Tensor], device: torch.device
) -> None:
    guided, exact = reference
    coarse = draw(lively_generator(torch.bfloat16, guided=guided), device)
    assert coarse.dtype == torch.float32
    assert 0.0 < float((coarse - exact).abs().mean()) < 2 * LEVEL


def test_weights_with_channels_last_draw_the_same_face(reference: tuple[bool, Tensor], device: torch.device) -> None:
    guided, exact = reference
    model = lively_generator(guided=guided).to(memory_format=torch.channels_last)
    kernel = model.denoiser.stem.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert float((draw(model, device) - exact).abs().max()) < LEVEL
    assert model.denoiser.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_the_denoiser_compiles_as_one_graph_and_keeps_its_velocities(device: torch.device) -> None:
    """On the CPU the graph is captured and run as it is; a GPU runs its own kernels, backward included."""
    denoiser = lively_generator().denoiser.to(device)
    rng = torch.Generator().manual_seed(1)
    latents, context = (torch.randn(2, 8, 32, 32, generator=rng).to(device) for _ in range(2))
    _, attributes, codes = (part.to(device) for part in inputs(2))
    t, mask = torch.tensor([0.3, 0.8], device=device), torch.ones(1, 1, 32, 32, device=device)
    on_cpu = device.type == "cpu"
    compiled = torch.compile(denoiser, fullgraph=True, dynamic=False, backend="eager" if on_cpu else "inductor")
    found, plain = (run(latents, t, context, mask, attributes, codes, t) for run in (compiled, denoiser))
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-3)
    gradients = []
    for velocity in (found, plain):
        denoiser.zero_grad()
        velocity.square().mean().backward()
        gradients.append(denoiser.stem.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-2)


def test_a_session_runs_where_it_was_told_to(device: torch.device) -> None:
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None, 2]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Add", ["x", "x"], ["y"])], "g", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    session = onnx_session(model.SerializeToString(), device=device.type)  # type: ignore[arg-type]
    assert session.get_providers()[0] == {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device.type]
    assert session.run(None, {"x": np.array([[1.5, -2.0]], np.float32)})[0].tolist() == [[3.0, -4.0]]


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.usefixtures("all_rows_count")
def test_drawing_leaves_nothing_on_the_cpu(guided: bool) -> None:
    model = lively_generator(guided=guided).to("meta")
    streams = [torch.Generator() for _ in range(2)]
    assert model.generate(*(part.to("meta") for part in inputs(2)), steps=2, generator=streams).is_meta


@pytest.mark.usefixtures("all_rows_count")
def test_correcting_landmarks_and_limiting_codes_leave_nothing_on_the_cpu() -> None:
    class Landmarks(nn.Module):
        def forward(self, crops: Tensor) -> Tensor:
            return torch.zeros(len(crops), 68, 2, device=crops.device)

    mean = torch.zeros(NUM_LANDMARKS, 2, device="meta")
    crops, attributes, codes = (part.to("meta") for part in inputs(2))
    correction = LandmarkCorrection(lively_generator().to("meta"), Landmarks(), mean)
    streams = [torch.Generator() for _ in range(2)]
    assert correction.generate(crops, attributes, codes, steps=1, guidance=2.0, generator=streams).is_meta
    identity = IdentityEncoder(("a", "b"), (4, 3)).to("meta")
    embeddings = {"a": torch.empty(2, 4, device="meta"), "b": torch.empty(2, 3, device="meta")}
    assert identity.sample(embeddings, torch.Generator()).is_meta


def test_levels_limit_a_code_where_it_lies(device: torch.device) -> None:
    size = 2 * NUM_LANDMARKS
    levels = AttributeLevels(torch.ones(NUM_LIGHT, 512), torch.zeros(512), torch.zeros(size), torch.eye(size))
    crops, attributes, _ = inputs(2)
    for level in ("strict", "balanced", "faithful"):
        limited = levels(level, crops.to(device), attributes.to(device))  # type: ignore[arg-type]
        assert limited.device.type == device.type
        torch.testing.assert_close(limited.cpu(), levels(level, crops, attributes), atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_anonymizer_gives_one_verdict_and_nearly_one_picture_on_every_device(
    upstream_store: Path, tmp_path: Path, device: torch.device
) -> None:
    photo, *_ = draw_photos(tmp_path / "photos", 1, 1, 5)
    store = ArtifactStore(upstream_store)
    request = PictureRequest(photo.read_bytes(), Policy(seed=7))
    key = b"k" * 32
    reference = assemble(store, attribute_key=key).anonymizer
    tested = reference if device.type == "cpu" else assemble(store, device=device, attribute_key=key).anonymizer
    first, second = reference.anonymize([request])[0], tested.anonymize([request])[0]
    assert [face.status for face in first.verdict.faces] == [face.status for face in second.verdict.faces]
    assert first.verdict.faces
    pictures = [decode_picture(release.image_bytes() or b"").astype(float) for release in (first, second)]
    assert np.abs(pictures[0] - pictures[1]).mean() <= (0.0 if device.type == "cpu" else 2.0)
