"""The generator around a denoiser whose flow is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator


class _StraightFlow(nn.Module):
    """The exact velocity of the straight path to a fixed latent: `(z_t - z_0) / t`."""

    def __init__(self, goal: Tensor, guided: bool = False) -> None:
        super().__init__()
        self.goal = goal
        self.guidance = nn.Linear(1, 1) if guided else None
        self.null_identity = nn.Parameter(torch.zeros(1, 128))

    def forward(self, noisy: Tensor, t: Tensor, *_: Tensor) -> Tensor:
        return (noisy - self.goal) / t[:, None, None, None]


@pytest.fixture
def autoencoder() -> LatentAutoencoder:
    torch.manual_seed(0)
    return LatentAutoencoder(encoder_widths=(8, 8, 16), decoder_widths=(8, 8, 16)).eval()


def _inputs(n: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    codes = torch.nn.functional.normalize(torch.randn(n, 128, generator=g), dim=1)
    return torch.rand(n, 3, 128, 128, generator=g) * 2 - 1, torch.randn(n, 10, 8, 8, generator=g), codes


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_straight_flow_is_followed_exactly_in_any_number_of_steps(
    autoencoder: LatentAutoencoder, guided: bool, steps: int
) -> None:
    goal = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    model = FaceGenerator(autoencoder, _StraightFlow(goal, guided))  # type: ignore[arg-type]
    crops, attributes, codes = _inputs(2)
    latents = model.sample(model.context(crops), attributes, codes, steps, 2.0, torch.Generator().manual_seed(2))
    assert torch.allclose(latents, goal.expand_as(latents), atol=1e-4)


def test_pixels_outside_the_mask_are_those_of_the_input(autoencoder: LatentAutoencoder) -> None:
    model = FaceGenerator(autoencoder, FaceDenoiser(width=16)).eval()
    crops, attributes, codes = _inputs(2)
    drawn = model.generate(crops, attributes, codes, steps=1, generator=torch.Generator().manual_seed(0))
    outside = (model.mask == 0).expand_as(crops)
    assert torch.equal(drawn[outside], crops[outside])
    assert (drawn - crops)[~outside].abs().max() > 0.1


def test_pixels_inside_the_mask_do_not_reach_the_context(autoencoder: LatentAutoencoder) -> None:
    model = FaceGenerator(autoencoder, FaceDenoiser(width=16)).eval()
    crops, _, _ = _inputs(2)
    other = torch.where(model.mask == 1, -crops, crops)
    assert torch.equal(model.context(crops), model.context(other))


def _lively(seed: int = 4) -> FaceDenoiser:
    """A denoiser whose last layers, zero at the start, draw something."""
    torch.manual_seed(seed)
    denoiser = FaceDenoiser(width=16).eval()
    for layer in (block.conv2 for block in (*denoiser.down, *denoiser.middle, *denoiser.up)):
        nn.init.normal_(layer.weight, std=0.05)
    nn.init.normal_(denoiser.head[-1].weight, std=0.05)
    return denoiser


@pytest.mark.parametrize("steps", [1, 4])
def test_drawing_in_bfloat16_moves_pixels_by_less_than_two_levels_on_average(
    autoencoder: LatentAutoencoder, steps: int
) -> None:
    crops, attributes, codes = _inputs(2)
    drawn = []
    for dtype in (torch.float32, torch.bfloat16):
        model = FaceGenerator(autoencoder, _lively(), dtype).eval()
        streams = [torch.Generator().manual_seed(seed) for seed in (10, 11)]
        drawn.append(model.generate(crops, attributes, codes, steps=steps, generator=streams))
    exact, coarse = drawn
    outside = (model.mask == 0).expand_as(crops)
    assert coarse.dtype == torch.float32
    assert torch.equal(coarse[outside], crops[outside])
    assert 0.0 < float((exact - coarse)[~outside].abs().mean()) * 127.5 < 2.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_random_stream_per_row_makes_rows_independent_of_their_company(
    autoencoder: LatentAutoencoder, dtype: torch.dtype
) -> None:
    model = FaceGenerator(autoencoder, _lively(), dtype).eval()
    crops, attributes, codes = _inputs(3)
    streams = [torch.Generator().manual_seed(seed) for seed in (10, 11, 12)]
    together = model.generate(crops, attributes, codes, steps=2, generator=streams)
    alone = model.generate(
        crops[1:2], attributes[1:2], codes[1:2], steps=2, generator=[torch.Generator().manual_seed(11)]
    )
    assert torch.allclose(together[1:2], alone, atol=1e-4 if dtype == torch.float32 else 0.05)
    assert (together[1:2] - together[:1]).abs().max() > 0.1


@pytest.mark.parametrize(("steps", "guidance"), [(0, 2.0), (51, 2.0), (4, 0.5), (4, 4.5)])
def test_values_out_of_range_are_refused_by_name(autoencoder: LatentAutoencoder, steps: int, guidance: float) -> None:
    model = FaceGenerator(autoencoder, FaceDenoiser(width=16)).eval()
    crops, attributes, codes = _inputs(1)
    wrong = str(steps) if not 1 <= steps <= 50 else str(guidance)
    with pytest.raises(ValueError, match=wrong):
        model.generate(crops, attributes, codes, steps=steps, guidance=guidance)


def test_candidates_of_one_face_share_its_context(
    autoencoder: LatentAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FaceGenerator(autoencoder, _lively()).eval()
    crops, attributes, codes = _inputs(3)
    encoded: list[int] = []
    encode = autoencoder.encode
    monkeypatch.setattr(autoencoder, "encode", lambda x: encoded.append(len(x)) or encode(x))
    rows = torch.tensor([0, 0, 1, 2, 2, 2, 0])
    streams = [torch.Generator().manual_seed(int(row)) for row in rows]
    together = model.generate(crops[rows], attributes[rows], codes[rows], steps=2, generator=streams)

    assert encoded == [4]
    for index, row in enumerate(rows.tolist()):
        alone = model.generate(
            crops[row : row + 1],
            attributes[row : row + 1],
            codes[row : row + 1],
            steps=2,
            generator=[torch.Generator().manual_seed(row)],
        )
        assert torch.allclose(together[index : index + 1], alone, atol=1e-4)


def test_faces_of_256_px_are_drawn_inside_a_mask_of_that_side() -> None:
    torch.manual_seed(0)
    large = LatentAutoencoder(4, (8, 8, 16), (8, 8, 16), crop_size=256).eval()
    model = FaceGenerator(large, FaceDenoiser(4, width=16)).eval()
    _, attributes, codes = _inputs(2)
    crops = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(3)) * 2 - 1
    drawn = model.generate(crops, attributes, codes, steps=1, generator=torch.Generator().manual_seed(0))
    outside = (model.mask == 0).expand_as(crops)
    assert model.latent_mask.shape == (1, 1, 32, 32)
    assert torch.equal(drawn[outside], crops[outside])
    assert (drawn - crops)[~outside].abs().max() > 0.1
