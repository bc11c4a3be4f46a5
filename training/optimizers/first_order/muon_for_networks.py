"""Muon for whole networks: polar-factor steps on hidden matrices and kernels, AdamW on everything else.

A convolution kernel (out, in, h, w) counts as the matrix (out, in h w). Kernels and matrices that touch pictures,
latents or codes have few inputs or outputs, and stay with AdamW like biases and norms: their gradients are not
dominated by a few directions that the polar factor would tame.

Source: K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; AdamW is I. Loshchilov,
F. Hutter, "Decoupled weight decay regularization", arXiv:1711.05101. Differs: one learning rate for both kinds, with a
constant ratio, so that the trainers' schedules set it as they set that of AdamW.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from training.algorithm import require_positive
from training.optimizers.first_order.muon import orthogonalize

NARROWEST = 40
"""Rows or columns (input channels) below which a matrix belongs to an input or output layer."""


def is_hidden_matrix(parameter: Tensor) -> bool:
    """Whether Muon takes a parameter: two or more axes, the first two of at least `NARROWEST` entries."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) >= NARROWEST


class NetworkMuon(torch.optim.Optimizer):
    """A torch optimizer over all parameters of one or several networks.

    Its state holds tensors by parameter only, so the trainers' checkpoints store and restore it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        learning_rate: float,
        *,
        matrix_ratio: float = 10.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 1e-2,
    ) -> None:
        """Sort the parameters into matrices and the rest.

        Args:
            parameters: What to train.
            learning_rate: Of AdamW, > 0.
            matrix_ratio: Muon's learning rate over that of AdamW, > 0.
            momentum: Of Muon, in [0, 1).
            betas: Memories of AdamW, each in [0, 1).
            weight_decay: Decoupled decay of all parameters, >= 0; scaled by AdamW's learning rate for both kinds.

        Raises:
            ValueError: A hyper-parameter is out of range.
        """
        require_positive(learning_rate=learning_rate, matrix_ratio=matrix_ratio)
        for name, value in (("momentum", momentum), ("betas", betas[0]), ("betas", betas[1])):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be non-negative, got {weight_decay}")
        everything = list(parameters)
        matrices = [parameter for parameter in everything if is_hidden_matrix(parameter)]
        others = [parameter for parameter in everything if not is_hidden_matrix(parameter)]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "kind": "muon", "ratio": matrix_ratio, "momentum": momentum},
            {"params": others, "kind": "adam", "betas": betas},
        ]
        kept = [group for group in groups if group["params"]]
        super().__init__(kept, {"lr": learning_rate, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step from the ``.grad`` fields; parameters without one stay.

        Args:
            closure: Clears gradients, computes the loss, runs backward, returns the loss.

        Returns:
            The loss of the closure before the step, or None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                if group["kind"] == "muon":
                    self._turn(parameter, parameter.grad, group)
                else:
                    self._adapt(parameter, parameter.grad, group)
        return loss

    def _turn(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        beta, average = group["momentum"], state["momentum"]
        average.lerp_(gradient, 1 - beta)
        matrix = torch.lerp(gradient, average, beta).reshape(len(parameter), -1)
        rows, columns = matrix.shape
        scale = group["lr"] * group["ratio"] * math.sqrt(max(1.0, rows / columns))
        parameter.sub_(orthogonalize(matrix).view(parameter.shape), alpha=scale)

    def _adapt(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        fast, slow = group["betas"]
        state["mean"].lerp_(gradient, 1 - fast)
        state["square"].mul_(slow).addcmul_(gradient, gradient, value=1 - slow)
        count = int(state["step"])
        spread = (state["square"] / (1 - slow**count)).sqrt_().add_(1e-8)
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - fast**count))
