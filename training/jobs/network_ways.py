"""Ways of running one served network: torch in float32, bfloat16 and compiled, onnxruntime in float32 and int8."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models.runtime import autocast_dtype
from training.jobs.network_clock import ClockName, median_ms
from training.jobs.onnx_export import ExportError, OnnxNetwork, as_feeds
from training.jobs.onnx_quantization import can_quantize, quantize_onnx
from training.jobs.served_networks import ServedNetwork, as_outputs

TORCH, HALF, ONNX, EIGHT_BITS, COMPILED = (
    "torch float32",
    "torch bfloat16",
    "onnxruntime float32",
    "onnxruntime int8",
    "torch.compile float32",
)
_CHUNK = 8  # rows of one pass where outputs are compared
_SHORT_MS = 2.0

Way = Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]


def torch_ways(served: ServedNetwork, compile_too: bool, reasons: dict[str, str]) -> dict[str, Way]:
    """Give the ways of torch.

    Args:
        served: The network.
        compile_too: Whether to compile it too.
        reasons: Takes why a way is left out, by the way's name.

    Returns:
        Ways by name; bfloat16 only where the processor multiplies it.
    """
    ways: dict[str, Way] = {TORCH: served.answer}
    dtype = autocast_dtype(torch.device("cpu"))
    if dtype == torch.float32:
        reasons[HALF] = "this processor does not multiply bfloat16"
    else:

        def half(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            with torch.autocast("cpu", dtype=dtype):
                return served.answer(inputs)

        ways[HALF] = half
    if not compile_too:
        reasons[COMPILED] = "compile=false"
    elif shutil.which(os.environ.get("CXX", "g++")) is None:
        reasons[COMPILED] = "there is no C++ compiler"
    else:
        network = torch.compile(served.network)

        def compiled(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            with torch.inference_mode():
                return as_outputs(network(*inputs.values()))

        try:
            compiled(served.take(0, 1))
            ways[COMPILED] = compiled
        except Exception as error:
            reasons[COMPILED] = f"it does not compile ({type(error).__name__})"
    return ways


def eight_bit_network(
    served: ServedNetwork, path: Path, target: Path, threads: int, reasons: dict[str, str]
) -> OnnxNetwork | None:
    """Quantize an exported network and open it.

    Args:
        served: The network, with the rows that set the scales.
        path: Its float32 file.
        target: Its eight-bit file.
        threads: Threads inside an operator.
        reasons: Takes why there is none.

    Returns:
        The network, or None.
    """
    if not can_quantize():
        reasons[EIGHT_BITS] = "the package onnx or sympy is not installed"
        return None
    try:
        quantize_onnx(served, path, target)
        network = OnnxNetwork(served.name, target, served.outputs, threads)
        network.answer(served.take(0, 1))
    except ExportError as error:
        target.unlink(missing_ok=True)
        reasons[EIGHT_BITS] = str(error)
        return None
    return network


def ms_per_row(
    served: ServedNetwork,
    ways: Mapping[str, Way],
    sessions: Mapping[str, OnnxNetwork],
    rows: int,
    rounds: int,
    clock: ClockName,
) -> dict[str, float]:
    """Time all ways of a network on the same rows.

    Args:
        served: The network.
        ways: Ways of torch by name.
        sessions: Networks in onnxruntime by name of the way.
        rows: Rows of one call.
        rounds: Turns of each way.
        clock: What counts as time.

    Returns:
        Median milliseconds per row by way.
    """
    inputs = served.take(0, rows)
    feeds = as_feeds(inputs)
    calls: dict[str, Callable[[], object]] = {
        **{name: partial(way, inputs) for name, way in ways.items()},
        **{name: partial(network.run, feeds) for name, network in sessions.items()},
    }
    first = median_ms({TORCH: calls[TORCH]}, 1, clock)[TORCH]
    times = median_ms(calls, rounds, clock, repeats=1 if first > _SHORT_MS else 8)
    return {name: ms / rows for name, ms in times.items()}


def all_outputs(served: ServedNetwork, way: Way) -> tuple[Tensor, ...]:
    """Outputs of all rows, a few rows at a time."""
    parts = [way(served.take(first, first + _CHUNK)) for first in range(0, served.rows, _CHUNK)]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))
