"""Muon for whole networks: who takes which parameter, and that each part is the optimizer it claims to be."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from training.optimizers.first_order.muon import muon
from training.optimizers.first_order.muon_for_networks import NetworkMuon, is_hidden_matrix
from training.runs.checkpoint import pack_optimizer, read_checkpoint, unpack_optimizer, write_checkpoint
from training.schedules import set_cosine_learning_rate
from training.vectorize import as_torch_optimizer


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 48, 3), nn.SiLU(), nn.Conv2d(48, 64, 3), nn.SiLU(), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*layers)


def loss_of(network: nn.Module, step: int) -> Tensor:
    pictures = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(step))
    loss: Tensor = (network(pictures) - 1).square().mean()
    return loss


def walk(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        loss_of(network, step).backward()
        optimizer.step()


def test_only_kernels_between_wide_layers_are_hidden_matrices() -> None:
    names = [name for name, parameter in small_network().named_parameters() if is_hidden_matrix(parameter)]
    assert names == ["2.weight"]


def test_matrices_move_as_the_algorithm_moves_them() -> None:
    network, twin = nn.Linear(64, 48, bias=False), nn.Linear(64, 48, bias=False)
    twin.load_state_dict(network.state_dict())
    whole = NetworkMuon(network.parameters(), 1e-3, matrix_ratio=20.0, weight_decay=0.0)
    flat = as_torch_optimizer(lambda objective: muon(objective, shapes=[(48, 64)], learning_rate=0.02), [twin.weight])
    for step in range(4):
        x = torch.randn(9, 64, generator=torch.Generator().manual_seed(step))
        for layer, optimizer in ((network, whole), (twin, flat)):
            optimizer.zero_grad()
            (layer(x) - 1).square().mean().backward()
            optimizer.step()
    assert torch.allclose(network.weight, twin.weight, atol=1e-6)


def test_everything_else_moves_as_adamw_moves_it() -> None:
    network, twin = nn.Linear(8, 3), nn.Linear(8, 3)
    twin.load_state_dict(network.state_dict())
    pairs = [
        (network, NetworkMuon(network.parameters(), 3e-3, weight_decay=0.1)),
        (twin, torch.optim.AdamW(twin.parameters(), 3e-3, betas=(0.9, 0.99), weight_decay=0.1)),
    ]
    for step in range(5):
        x = torch.randn(9, 8, generator=torch.Generator().manual_seed(step))
        for layer, optimizer in pairs:
            optimizer.zero_grad()
            (layer(x) - 1).square().mean().backward()
            optimizer.step()
    assert torch.allclose(network.weight, twin.weight, atol=1e-6)
    assert torch.allclose(network.bias, twin.bias, atol=1e-6)


def test_a_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(tmp_path: Path) -> None:
    network = small_network()
    optimizer = NetworkMuon(network.parameters(), 1e-3)
    walk(network, optimizer, range(3))
    write_checkpoint(tmp_path / "state", pack_optimizer(optimizer, "optimizer"))
    again = small_network()
    again.load_state_dict(network.state_dict())
    restored = NetworkMuon(again.parameters(), 1e-3)
    unpack_optimizer(restored, read_checkpoint(tmp_path / "state"), "optimizer")
    walk(network, optimizer, range(3, 6))
    walk(again, restored, range(3, 6))
    for left, right in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(left, right)


def test_the_schedule_of_the_trainers_scales_both_parts() -> None:
    network = small_network()
    optimizer = NetworkMuon(network.parameters(), 1e-3)
    before = [parameter.clone() for parameter in network.parameters()]
    set_cosine_learning_rate(optimizer, 1e-30, 0, 10)
    walk(network, optimizer, range(1))
    assert all(torch.equal(old, new) for old, new in zip(before, network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("matrix_ratio", -1.0), ("momentum", 1.0), ("betas", (0.9, 1.5)), ("weight_decay", -1.0)],
)
def test_hyper_parameters_out_of_range_are_refused_by_name(name: str, value: object) -> None:
    settings: dict[str, object] = {"learning_rate": 1e-3, name: value}
    with pytest.raises(ValueError, match=name):
        NetworkMuon(small_network().parameters(), **settings)  # type: ignore[arg-type]  # what is tested
