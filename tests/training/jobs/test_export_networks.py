"""Exported networks say what the networks say, and what other formats change is counted in the units that matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.oracles.networks.graph import GraphNet
from models.registry.operations import Operation, Program
from training.jobs.export_networks import ExportNetworksConfig
from training.jobs.format_harm import CodeHarm, EmbeddingHarm, LandmarkHarm, PictureHarm, ScoreHarm
from training.jobs.network_clock import median_ms
from training.jobs.onnx_export import ExportError, OnnxNetwork, export_onnx, parity
from training.jobs.onnx_quantization import can_quantize, quantize_onnx
from training.jobs.served_networks import NETWORKS, ServedNetwork, UnknownNetworkError, served_networks

pytest.importorskip("onnxruntime")

SIDE = 12
HARM = EmbeddingHarm(threshold=0.3, impostor_std=0.1, margin=0.75)


class Recognizer(nn.Module):
    """A sampling grid, a graph and unit vectors, as an oracle has them."""

    def __init__(self, rows: Callable[[Tensor], int]) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        padding = (1, 1, 1, 1)
        conv = Operation(
            "conv",
            ("image",),
            "wide",
            {"weight": "w", "bias": "b"},
            {"stride": (2, 2), "padding": padding, "groups": 1},
        )
        program = Program(
            "image",
            (
                conv,
                Operation("prelu", ("wide",), "active", {"slope": "slope"}),
                Operation("mean", ("active",), "pooled"),
                Operation("linear", ("pooled",), "code", {"weight": "v", "bias": "c"}),
            ),
            {"code": "code"},
        )
        sizes = {"w": (16, 3, 3, 3), "b": (16,), "slope": (16,), "v": (8, 16), "c": (8,)}
        self.graph = GraphNet(program, {name: torch.randn(size, generator=rng) for name, size in sizes.items()})
        self.rows = rows
        self.register_buffer(
            "grid", F.affine_grid(torch.eye(2, 3)[None] * 0.8, [1, 3, SIDE, SIDE], align_corners=False)
        )

    def forward(self, crops: Tensor) -> Tensor:
        grid = self.get_buffer("grid").expand(self.rows(crops), -1, -1, -1)
        return F.normalize(self.graph(F.grid_sample(crops, grid, align_corners=False)), dim=1)


def served(network: nn.Module, rows: int = 12) -> ServedNetwork:
    crops = torch.randn(rows, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
    return ServedNetwork("small", network.eval(), {"crops": crops}, ("embeddings",), HARM)


def exported(network: ServedNetwork, folder: Path) -> OnnxNetwork:
    export_onnx(network, folder / "small.onnx")
    return OnnxNetwork(network.name, folder / "small.onnx", network.outputs)


def test_a_file_exported_at_two_rows_gives_the_same_numbers_for_one_row_and_for_five(tmp_path: Path) -> None:
    network = served(Recognizer(lambda crops: crops.shape[0]))
    assert parity(network, exported(network, tmp_path), (1, 2, 5)) < 2e-6


def test_a_number_of_rows_that_became_a_constant_is_found_and_the_network_named(tmp_path: Path) -> None:
    network = served(Recognizer(lambda crops: int(crops.shape[0])))
    file = exported(network, tmp_path)
    assert parity(network, file, (2,)) < 2e-6
    with pytest.raises(ExportError, match="small does not run as ONNX"):
        parity(network, file, (5,))


class Unexportable(nn.Module):
    def forward(self, crops: Tensor) -> Tensor:
        return torch.linalg.svdvals(crops.flatten(2))


def test_a_network_that_onnx_lacks_an_operation_for_is_named_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"small cannot be exported: \w+: "):
        export_onnx(served(Unexportable()), tmp_path / "small.onnx")
    assert list(tmp_path.iterdir()) == []


def test_one_row_is_too_few_to_export(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="small is exported at 2 rows, got 1"):
        export_onnx(served(Recognizer(lambda crops: crops.shape[0]), rows=1), tmp_path / "small.onnx")


def test_a_file_that_is_no_network_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"nothing")
    with pytest.raises(ExportError, match="onnxruntime does not take small"):
        OnnxNetwork("small", tmp_path / "small.onnx", ("embeddings",))


@pytest.mark.skipif(not can_quantize(), reason="onnx or sympy is not installed")
def test_eight_bits_keep_the_direction_of_embeddings_and_do_change_them(tmp_path: Path) -> None:
    network = served(Recognizer(lambda crops: crops.shape[0]))
    exported(network, tmp_path)
    quantize_onnx(network, tmp_path / "small.onnx", tmp_path / "small.int8.onnx")
    inputs = network.take(0, network.rows)
    found = OnnxNetwork("small", tmp_path / "small.int8.onnx", network.outputs).answer(inputs)
    changed = HARM(network.answer(inputs), found)
    assert 0.99 < changed["smallest cosine"] < 1.0 - 1e-7


def planar(*degrees: float) -> tuple[Tensor]:
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return (torch.stack([angles.cos(), angles.sin()], dim=1),)


def test_similarities_and_decisions_of_embeddings_are_counted_exactly() -> None:
    # threshold 0.3 is 72.54 degrees, the limit 0.225 is 77.00
    changed = HARM(planar(0.0, 72.0, 75.0), planar(0.0, 78.0, 75.0))
    cosines = [torch.cos(torch.deg2rad(torch.tensor(d, dtype=torch.float64))).item() for d in (72.0, 78.0, 6.0)]
    assert changed["pairs"] == 3
    assert changed["largest change of a similarity"] == pytest.approx(cosines[0] - cosines[1], abs=1e-12)
    assert changed["in margins"] == pytest.approx((cosines[0] - cosines[1]) / 0.075, abs=1e-10)
    assert changed["smallest cosine"] == pytest.approx(cosines[2], abs=1e-12)
    assert changed["decisions changed at the limit"] == 1
    assert changed["decisions changed at the threshold"] == 1
    assert changed["below the limit, float32 not below the threshold"] == 1


def test_equal_outputs_harm_nothing() -> None:
    (codes,) = planar(0.0, 40.0, 90.0)
    changed = HARM((codes,), (codes,))
    assert changed["largest change of a similarity"] == 0.0
    assert changed["smallest cosine"] == pytest.approx(1.0, abs=1e-12)
    assert CodeHarm()((codes, codes + 1), (codes, codes)) == {
        "mean change (deviations)": 0.0,
        "largest (deviations)": 0.0,
    }


def test_pictures_are_compared_in_levels_where_they_are_drawn() -> None:
    is_drawn = torch.zeros(4, 4, dtype=torch.bool)
    is_drawn[:2] = True
    before, after = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    after[:, :, 0] = 2 / 127.5  # two levels on half of the drawn rows
    after[:, :, 3] = 1.0
    changed = PictureHarm(torch.Tensor.float, is_drawn)((before,), (after,))
    assert changed == {"mean level difference": 1.0, "largest": 2.0}


def test_landmarks_are_compared_in_pixels_and_scores_by_the_side_of_their_threshold() -> None:
    points = torch.zeros(2, 68, 2)
    moved = points.clone()
    moved[1, 5] = torch.tensor([3.0, 4.0])
    assert LandmarkHarm()((points,), (moved,))["largest (px)"] == 5.0
    scores = torch.tensor([[0.3, 0.7], [0.45, 0.55]])
    changed = ScoreHarm(0.6)((points, scores), (points, scores + torch.tensor([0.0, 0.1])))
    assert (changed["decisions changed"], changed["candidates"]) == (1.0, 2.0)


def test_the_clock_takes_turns_and_gives_each_way_its_median() -> None:
    order: list[str] = []
    times = median_ms({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert set(times) == {"a", "b"}
    with pytest.raises(ValueError, match="must be at least 1"):
        median_ms({}, rounds=0)


def test_a_name_that_no_network_has_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(UnknownNetworkError, match=r"'landmark'.*fr_feature, mfn, dlib, landmarks"):
        served_networks(None, torch.zeros(2, 3, 128, 128), ("landmark",))  # type: ignore[arg-type]
    assert ExportNetworksConfig().networks == NETWORKS
